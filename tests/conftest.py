"""What the tests share: a data folder of their own, tiny networks under real names, the JPEG copy of CIFAR-10 where it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from workbench import weights
from workbench.classifiers import Classifier
from workbench.codecs import Neural
from workbench.data import Dataset, Split, load
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.pictures import to_float
from workbench.rates import LABEL_CHANNELS
from workbench.weights import Manifest, Pair

import browsers  # isort: skip

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What a shell starts in the background ignores Ctrl-C, and so would every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # beside other processes on few cores, more threads wait for each other

TARGET, AUXILIARY = "resnet18", "mobilenet_v2"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--payloads", type=int, default=400, help="hostile payloads to try in each fuzzing test (default: 400)")
    parser.addoption(
        "--cycles", type=int, default=2, help="how often a deployment is launched and stopped in a row (default: 2)"
    )
    parser.addoption("--mutations", type=int, default=300, help="mutated requests for the guest's policy (default: 300)")
    parser.addoption("--regenerate", action="store_true", help="write the golden figures anew instead of comparing with them")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an untrained pair for digits: real architectures of the smallest width, seeded, in real files."""
    root = tmp_path_factory.mktemp("data")
    store = root / "runs" / "weights"
    torch.manual_seed(0)
    kept: dict[str, Manifest] = {}
    for role, name in (("target", TARGET), ("auxiliary", AUXILIARY)):
        module = Classifier(name)
        # Untrained networks answer nearly the same to every image: spread their logits so that labels differ.
        list(module.network.modules())[-1].weight.data.mul_(50)
        kept[role] = weights.save(module, _manifest(name, module), store)
    generator = PerturbationGenerator(width=4)
    depends = {role: manifest.sha256 for role, manifest in kept.items()}
    kept["generator"] = weights.save(generator, _manifest(weights.generator_name(TARGET, AUXILIARY), generator, depends), store)
    compressor = NeuralCompressor(N=8, M=12)
    compressor.update(force=True, update_quantiles=True)
    depends = {"target": kept["target"].sha256, "generator": kept["generator"].sha256}
    weights.save(compressor, _manifest(weights.compressor_name(TARGET, AUXILIARY), compressor, depends), store)
    return root


def _manifest(name: str, module: torch.nn.Module, depends: dict[str, str] | None = None) -> Manifest:
    kind, spec = weights.describe(module)
    training = {"preset": "tiny", "history": []}
    return Manifest(name, "digits", kind, spec, "untrained", 0, training, {"accuracy": 0.1}, depends or {})


@pytest.fixture
def tiny_data(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny networks' folder as `$WORKBENCH_DATA`, for this test and the processes it starts."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tiny_root))
    return tiny_root


@pytest.fixture
def empty_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as `$WORKBENCH_DATA`."""
    root = tmp_path / "data"
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    return root


@pytest.fixture
def pair(tiny_data: Path) -> Pair:
    """The tiny pair, loaded from its files."""
    return weights.load_pair("digits", TARGET, AUXILIARY)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The embedded data set."""
    return load("digits")


@pytest.fixture(scope="session")
def networks(tiny_root: Path, digits: Dataset) -> Pair:
    """The tiny pair, its target fitted to some digits, so that its labels mean something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        pair = weights.load_pair("digits", TARGET, AUXILIARY)
    fit(pair.target, digits.train.head(128))
    return pair


def fit(classifier: Classifier, split: Split) -> None:
    """Fit the last layer in closed form, ridge regression on the untrained layers below: then labels mean something."""
    last = list(classifier.network.modules())[-1]
    features: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, inputs, __: features.append(inputs[0].double()))
    with torch.no_grad():
        classifier(to_float(split.images))
        hook.remove()
        x = features[0] - features[0].mean(0)
        kernel = x @ x.T
        wanted = 10 * (torch.nn.functional.one_hot(split.labels, 10) - 0.1).double()
        weight = x.T @ torch.linalg.solve(kernel + 1e-3 * kernel.trace() / len(x) * torch.eye(len(x)), wanted)
        last.weight.copy_(weight.T)
        last.bias.copy_(-features[0].mean(0) @ weight)


@pytest.fixture(scope="session")
def neural() -> Neural:
    """An untrained neural codec whose latents spread over many symbols, so that images differ once they are decoded."""
    torch.manual_seed(0)
    compressor = NeuralCompressor(N=8, M=12).requires_grad_(False)
    compressor.g_a[-1].weight.mul_(300)
    compressor.update(force=True, update_quantiles=True)
    return Neural(compressor, identity="spread")


@pytest.fixture(scope="session")
def variable() -> Neural:
    """An untrained variable-rate codec of five stops, which chooses among the labels of three of the samples."""
    torch.manual_seed(0)
    made = NeuralCompressor(N=8, M=12, stops=5).requires_grad_(False).eval()
    made.g_a[-1].weight.mul_(300)
    made.g_a[-1].weight[:LABEL_CHANNELS] *= 4
    y = made.latents(to_float(load("samples").test.images))
    reach = 2 * torch.stack([y.amin((0, 2, 3)), 0 * y[0, :, 0, 0], y.amax((0, 2, 3))], 1)
    made.entropy_bottleneck.quantiles.copy_(reach[:, None])
    made.update(force=True)
    patterns = made.quantise(y[:3])
    made.patterns, made.pattern_counts = patterns.to(torch.int8), torch.ones(4, dtype=torch.int64)
    y = patterns.flatten(1) / made.Gain[0]
    made.reader = torch.cat([y, -0.5 * y.square().sum(1, keepdim=True)], 1)  # the nearest pattern's number
    made.answers = torch.full((3, 3), 0.1) + 0.7 * torch.eye(3)
    return Neural(made, identity="variable")


@pytest.fixture(scope="session")
def cifar10_jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JPEG copy of CIFAR-10's test set, unpacked; skips where `$WORKBENCH_SHARED` does not name the folder that holds it."""
    import tarfile

    shared = os.environ.get("WORKBENCH_SHARED", "")
    archive = Path(shared) / "data" / "cifar10-jpeg.tar.xz"
    if not shared or not archive.is_file():
        pytest.skip("the JPEG copy of CIFAR-10 is not here: set WORKBENCH_SHARED to the folder with data/cifar10-jpeg.tar.xz")
    root = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(archive) as tar:
        members = [
            m for m in tar if m.name.removeprefix("./").startswith("test") or m.name.endswith(("/0000.jpg", "/0001.jpg"))
        ]
        tar.extractall(root, members, filter="data")
    return root


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    return browsers.chromium_path()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A headless browser."""
    with browsers.launched(chromium) as made:
        yield made


@pytest.fixture
def noted() -> list[str]:
    """What the pages of a test must not do, where they did it."""
    return []


@pytest.fixture
def page(browser: Browser, noted: list[str]) -> Iterator[Page]:
    """An empty page, which is watched: at the end no error was on its console, and no other host was asked."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    yield browsers.watched(context.new_page(), noted)
    context.close()
    assert not noted
