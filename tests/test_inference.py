"""Networks prepared for inference: the same function and the same labels in fewer operations."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import pytest
import torch
from torch import nn

from workbench.classifiers import CLASSIFIER_NAMES, Classifier
from workbench.codecs import CompressAI, Neural
from workbench.data import Dataset
from workbench.errors import UsageError
from workbench.inference import prepare, prepare_pair
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.pictures import to_float
from workbench.weights import Pair

Network = TypeVar("Network", bound=nn.Module)


def trained(network: Network) -> Network:
    """Set the statistics of batch norms as after training."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_a_prepared_classifier_gives_the_same_logits(name: str, digits: Dataset) -> None:
    torch.manual_seed(0)
    plain, images = trained(Classifier(name, width=8)), to_float(digits.test.images[:4])
    fast = prepare(plain)
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in each.modules()) for each in (plain, fast)]
    with torch.inference_mode():
        expected = plain(images)
        largest = float(expected.abs().max())
        torch.testing.assert_close(fast(images), expected, rtol=1e-4, atol=1e-4 * largest)
        halved = prepare(plain, precision="bfloat16")(images)
    assert halved.dtype is torch.float32
    assert 0 < float((halved - expected).abs().max()) < 0.1 * largest
    assert norms[1] == (62 if name == "densenet121" else 0)  # densenet's norms precede their convolutions
    assert norms[0] > norms[1]


def test_a_generator_gives_the_same_images() -> None:
    torch.manual_seed(0)
    plain = trained(PerturbationGenerator(width=8))
    fast = prepare(plain)
    for size, strength in (((32, 32), 1.0), ((20, 44), 0.4)):
        images = torch.rand(3, 3, *size)
        with torch.inference_mode():
            expected = plain(images, strength)
            assert (fast(images, strength) - expected).abs().max() < 1e-4
        assert (expected - images).abs().mean() > 0.01


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_weights_are_laid_out_once_for_all_batch_sizes(capfd: pytest.CaptureFixture[str]) -> None:
    made, before = prepare(PerturbationGenerator(width=16)), torch.get_num_threads()

    def reordered(threads: int, n: int) -> list[str]:
        """Return oneDNN's log lines about reordered weights for n images."""
        torch.set_num_threads(threads)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            made(images[:n])
        said = capfd.readouterr().out
        assert said.count(",exec,cpu,convolution") == 19
        lines = [line for line in said.splitlines() if ",exec,cpu,reorder" in line]
        return [line for line in lines if not line.split(",")[-2].startswith(f"{n}x")]  # the other lines are about images

    images = torch.rand(8, 3, 32, 32)
    with torch.inference_mode():
        try:
            runs = [(threads, n) for threads in (1, 2) for n in (1, 5, 8)]
            first, again = ({run: reordered(*run) for run in runs} for _ in range(2))
        finally:
            torch.set_num_threads(before)
    assert any(first.values())
    assert not any(again.values()), again


def quiet(channels: int) -> NeuralCompressor:
    """Return a compressor in which only the first channels are active."""
    torch.manual_seed(0)
    compressor = NeuralCompressor(N=8, M=12).requires_grad_(False).eval()
    compressor.g_a[-1].weight.mul_(300)
    compressor.g_a[-1].weight[channels:] = 0
    compressor.g_a[-1].bias[channels:] = 0
    compressor.entropy_bottleneck.quantiles[:, 0, 1] = 0
    compressor.update(force=True)
    return compressor


@pytest.mark.parametrize(("channels", "median"), [(0, 0), (4, 0), (12, 0), (4, 3)])
def test_a_compressor_without_silent_channels_is_the_same(channels: int, median: float) -> None:
    plain = quiet(channels)
    plain.entropy_bottleneck.quantiles[:, 0, 1] = median
    fast, images = prepare(plain), torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        symbols = plain.symbols(images)
        assert torch.equal(fast.symbols(images), symbols)
        expected = plain.reconstruct(symbols, (32, 32))
        assert (fast.reconstruct(symbols, (32, 32)) - expected).abs().max() < 1e-4
    assert (channels > 0) == bool((symbols != 0).any())
    spoken = [name for part in (fast.g_a, fast.g_s) for name, _ in part.named_buffers() if name.endswith("loud")]
    assert len(spoken) == (2 if (channels, median) == (4, 0) else 0), "computed for the channels that speak only"


@pytest.mark.parametrize("kind", [Neural, CompressAI])
def test_payloads_pass_between_plain_and_prepared(kind: type[Neural | CompressAI]) -> None:
    plain, fast = kind(quiet(4), "ours"), kind(prepare(quiet(4)), "ours")
    images = torch.rand(5, 3, 32, 32)
    payload = plain.encode(images)
    assert fast.encode(images) == payload
    assert (fast.decode(payload) - plain.decode(payload)).abs().max() < 1e-4


def test_a_pair_is_prepared_and_the_original_is_unchanged(networks: Pair, digits: Dataset) -> None:
    before = {key: value.clone() for key, value in networks.target.state_dict().items()}
    fast = prepare_pair(networks)
    images = to_float(digits.test.images[:16])
    with torch.inference_mode():
        protected = networks.generator(images)
        assert (fast.generator(images) - protected).abs().max() < 1e-4
        assert torch.equal(fast.target(protected).argmax(1), networks.target(protected).argmax(1))
    assert fast.manifests is networks.manifests
    assert all(torch.equal(value, before[key]) for key, value in networks.target.state_dict().items())


def test_networks_are_prepared_while_others_compute_and_prepare(networks: Pair, digits: Dataset) -> None:
    images = to_float(digits.test.images[:2])
    with torch.inference_mode():
        expected = networks.target(images)
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            with torch.inference_mode():
                assert torch.equal(networks.target(images), expected)

    def make() -> None:
        for _ in range(3):
            with torch.inference_mode():
                torch.testing.assert_close(prepare(networks.target)(images), expected, rtol=1e-3, atol=1e-2)

    with ThreadPoolExecutor(3) as pool:
        computing, makers = pool.submit(compute), [pool.submit(make) for _ in range(2)]
        wait(makers)
        over.set()
        for each in (computing, *makers):
            each.result()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_prepared_network_stays_as_it_is(networks: Pair, precision: str) -> None:
    made = prepare(networks.generator, precision=precision)
    assert prepare(made, precision=precision) is made
    with pytest.raises(UsageError, match="start from the original"):
        prepare(made, precision="bfloat16" if precision == "float32" else "float32")
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        prepare(networks.generator, precision="int4")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_on_a_gpu_prepared_and_plain_are_the_same(name: str, networks: Pair, digits: Dataset) -> None:
    torch.manual_seed(0)
    images = to_float(digits.test.images[:16]).cuda()
    classifier, generator = trained(Classifier(name)), trained(PerturbationGenerator(width=8))
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        expected = generator.cuda()(images)
        assert (prepare(generator, "cuda")(images) - expected).abs().max() < 1e-3
        assert torch.equal(prepare(classifier, "cuda")(expected).argmax(1), classifier.cuda()(expected).argmax(1))
