"""Fixtures for all tests: separate data folders, tiny networks under real names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support import browsers
from tests.support.pair import AUXILIARY, TARGET, WIDTH, fit
from workbench import weights
from workbench.classifiers import Classifier
from workbench.codecs import Neural
from workbench.data import Dataset, load
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.pictures import to_float
from workbench.rates import LABEL_CHANNELS
from workbench.weights import Manifest, Pair

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

torch.set_num_threads(1)  # with other processes on few cores, more threads wait for each other

PROFILE: dict[str, Any] = {"viewport": {"width": 1440, "height": 1000}, "accept_downloads": True}


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an untrained pair for digits: real architectures, narrow and seeded, in real files."""
    root = tmp_path_factory.mktemp("data")
    store = root / "runs" / "weights"
    torch.manual_seed(0)
    kept: dict[str, Manifest] = {}
    for role, name in (("target", TARGET), ("auxiliary", AUXILIARY)):
        module = Classifier(name, width=WIDTH[name])
        # Untrained networks return nearly the same logits for every image. Spread them, so that labels differ.
        list(module.network.modules())[-1].weight.data.mul_(50)
        kept[role] = weights.save(module, _manifest(name, module), store)
    torch.manual_seed(0)  # independent of the classifiers: with this seed the generator changes pictures visibly
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
    return load("digits")


@pytest.fixture(scope="session")
def networks(tiny_root: Path, digits: Dataset) -> Pair:
    """The tiny pair, with its target fitted to some digits, so that its labels are meaningful."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(tiny_root))
        pair = weights.load_pair("digits", TARGET, AUXILIARY)
    fit(pair.target, digits.train)
    return pair


@pytest.fixture(scope="session")
def neural() -> Neural:
    """An untrained neural codec whose latents spread over many symbols, so that decoded images differ."""
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
def chromium() -> str:
    return browsers.chromium_path()


@pytest.fixture(scope="session")
def parked(chromium: str) -> Iterator[browsers.Parked]:
    """One headless browser for all tests of this process."""
    with browsers.Parked.launched(chromium) as made:
        yield made


@pytest.fixture
def browser(parked: browsers.Parked) -> Iterator[Browser]:
    """The browser, for a test that makes contexts of its own."""
    with parked.used() as made:
        yield made


@pytest.fixture(scope="session")
def jupyter(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[browsers.Lab]:
    """One JupyterLab for all tests of this process. Its kernels use the tiny pair's weights."""
    folder, places = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("places")
    own = {"WORKBENCH_DATA": str(tiny_root), "OMP_NUM_THREADS": "1"}
    with browsers.jupyterlab(folder, places, own) as url:
        yield browsers.Lab(url, folder, places)


@pytest.fixture(scope="module")
def lab(jupyter: browsers.Lab) -> Iterator[str]:
    """The address of the JupyterLab. A module's kernels end with it."""
    yield jupyter.url
    jupyter.clear()


@pytest.fixture
def lab_folder(jupyter: browsers.Lab) -> Path:
    """The JupyterLab's folder, shared by all tests, so that each test needs another name for its notebook."""
    return jupyter.folder


@pytest.fixture
def noted() -> list[str]:
    """Forbidden events on the pages of a test, in order."""
    return []


@pytest.fixture(scope="session")
def tabs(parked: browsers.Parked) -> Iterator[BrowserContext]:
    """One profile for all pages of the shared JupyterLab, whose scripts it caches. Each test gets a tab."""
    with parked.used() as browser:
        context = browser.new_context(**PROFILE)
    yield context
    with parked.used():
        context.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, noted: list[str]) -> Iterator[Page]:
    """An empty page. At its end the test fails for errors on the console, and for requests to other hosts.

    A page of the shared JupyterLab is a tab of its profile. Any other page has a profile of its own.
    """
    shared = "jupyter" in request.fixturenames
    context = request.getfixturevalue("tabs") if shared else browser.new_context(**PROFILE)
    yield browsers.watched(context.new_page(), noted)
    for each in context.pages if shared else []:
        each.close()
    if not shared:
        context.close()
    assert not noted
