"""The networks: their shapes, their sizes, the baseline's names, and an independent implementation of the generator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch.nn import functional as F

from tests.support.networks import pictures, spread_compressor
from workbench import models
from workbench.classifiers import CLASSIFIER_NAMES, MEAN, STD, Classifier
from workbench.errors import UsageError
from workbench.inference import prepare
from workbench.models import NeuralCompressor, PerturbationGenerator, UNet, build, parameters, repeatable_noise


def lively(width: int = 4) -> PerturbationGenerator:
    """Return a generator with distinct statistics in every batch norm, whose output reaches both bounds of the clamp."""
    torch.manual_seed(0)
    generator = PerturbationGenerator(width).eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    generator.unet.outc.f.weight.data.mul_(6)
    return generator.requires_grad_(False)


# --- loading, and random numbers --------------------------------------------------------------------------------------------


SPARED = """
import sys
from workbench import audit, grid, inference, models, training, weights
inference.prepare(models.build("generator"))
named = {"torch._dynamo", "torch_geometric", "pandas", "scipy.stats", "sympy", "compressai.datasets", "compressai.transforms"}
assert not named & set(sys.modules), named & set(sys.modules)
import compressai, torch
assert not hasattr(compressai, "datasets") and not hasattr(compressai, "transforms")
import compressai.datasets, compressai.transforms.point, scipy.stats, torch._dynamo.utils, torch_geometric.transforms
from compressai.entropy_models import GaussianConditional
assert compressai.datasets.ImageFolder and torch_geometric.transforms.Center and torch._dynamo.utils.counters is not None
assert abs(GaussianConditional(None)._standardized_quantile(0.5)) < 1e-9
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
"""


MEANWHILE = """
from concurrent.futures import ThreadPoolExecutor, wait
from workbench import _compat

def named():
    from scipy.stats import norm
    return norm.ppf(0.5)

def whole():
    import scipy.stats as known
    return known.norm.ppf(0.5)

def within():
    import torch._dynamo.eval_frame as known
    return known.innermost_fn and 0.0

with ThreadPoolExecutor() as pool:
    with _compat.stub_unused_imports():
        asked = [pool.submit(each) for each in (named, whole, within)]
        assert not wait(asked, 0.5).done
        try:
            named()
        except ImportError:
            pass
        else:
            raise AssertionError("it was not spared")
    assert [each.result(60) for each in asked] == [0.0, 0.0, 0.0]
"""


@pytest.mark.system
@pytest.mark.parametrize("script", [SPARED, MEANWHILE], ids=["later", "meanwhile, in another thread"])
def test_unused_imports_are_not_loaded_but_available(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


SPECS: dict[str, dict[str, Any]] = {  # VGG16 and ResNet-34 are built like their smaller siblings
    **{name: {"name": name, "num_classes": 7} for name in CLASSIFIER_NAMES if name not in ("vgg16_bn", "resnet34")},
    "generator": {"width": 2},
    "compressor": {"N": 8, "M": 12, "stops": 5},
}


@pytest.mark.parametrize("name", SPECS)
def test_a_network_built_for_loading_draws_no_numbers(name: str) -> None:
    kind, spec = "classifier" if name in CLASSIFIER_NAMES else name, SPECS[name]
    whole, before = build(kind, **spec), torch.get_rng_state()
    with models.Unset():
        bare = build(kind, **spec)
    assert torch.equal(torch.get_rng_state(), before)
    state = whole.state_dict()
    assert {name: value.shape for name, value in bare.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    bare.load_state_dict(state)
    for (name, one), (_, other) in zip(bare.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(one, other), name


# --- the generator ---------------------------------------------------------------------------------------------------------


def test_the_papers_networks_have_their_parameters_and_names() -> None:
    with torch.device("meta"):  # shapes without memory
        shapes = {key: tuple(value.shape) for key, value in UNet().state_dict().items()}
        assert parameters(PerturbationGenerator()) == 7_766_051
    assert parameters(NeuralCompressor()) == 2_998_147
    expected = {
        "inc.f.0.weight": (32, 3, 3, 3),
        "inc.f.4.running_mean": (32,),
        "d1.f.1.f.0.weight": (64, 32, 3, 3),
        "d4.f.1.f.3.bias": (512,),
        "u1.upsample.weight": (512, 256, 2, 2),
        "u1.conv.f.0.weight": (256, 512, 3, 3),
        "outc.f.weight": (3, 32, 1, 1),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def reference(generator: PerturbationGenerator, images: torch.Tensor) -> torch.Tensor:
    """Compute the baseline's U-Net from its tensors: normalise, add, clamp each channel in normalised space, denormalise."""
    tensors = dict(generator.unet.state_dict())
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def double(name: str, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            at = f"{name}.f.{conv}", f"{name}.f.{norm}"
            x = F.conv2d(x, tensors[f"{at[0]}.weight"], tensors[f"{at[0]}.bias"], padding=1)
            statistics = (tensors[f"{at[1]}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
            x = F.leaky_relu(F.batch_norm(x, *statistics), 0.2)
        return x

    normalised = (images - mean) / std
    levels = [double("inc", normalised)]
    for down in ("d1", "d2", "d3", "d4"):
        levels.append(double(f"{down}.f.1", F.max_pool2d(levels[-1], 2)))
    x = levels.pop()
    for up in ("u1", "u2", "u3", "u4"):
        x = F.conv_transpose2d(x, tensors[f"{up}.upsample.weight"], tensors[f"{up}.upsample.bias"], stride=2)
        x = double(f"{up}.conv", torch.cat([levels.pop(), x], 1))
    protected = F.conv2d(x, tensors["outc.f.weight"], tensors["outc.f.bias"]) + normalised
    for channel in range(3):
        low, high = ((bound - mean[channel]) / std[channel] for bound in (0.0, 1.0))
        protected[:, channel] = protected[:, channel].clamp(low.item(), high.item())
    return protected * std + mean


def test_the_generator_equals_the_baselines() -> None:
    generator, images = lively(), pictures(3)
    protected = generator(images)
    assert torch.allclose(protected, reference(generator, images), atol=1e-5)
    assert (protected == 0).any()
    assert (protected == 1).any()
    assert ((protected > 0) & (protected < 1)).any()


def test_strength_is_linear_from_the_original() -> None:
    generator, images = lively(), pictures(2)
    protected = generator(images)
    assert torch.equal(generator(images, 0.0), images)
    assert (protected - images).abs().mean() > 0.05
    for strength in (0.25, 0.5, 0.9):
        between = generator(images, strength)
        assert torch.allclose(between, images + strength * (protected - images), atol=1e-6)
        assert 0 <= between.min() <= between.max() <= 1


@pytest.mark.parametrize("size", [(33, 47), (20, 24), (16, 8), (5, 7), (1, 1)])
def test_sides_that_are_no_multiple_of_16_keep_their_shape(size: tuple[int, int]) -> None:
    protected = lively()(pictures(1, *size))
    assert protected.shape == (1, 3, *size)
    assert protected.isfinite().all()


@pytest.mark.parametrize("wrong", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_strength_or_noise_outside_0_to_1_is_refused(wrong: float) -> None:
    with pytest.raises(UsageError, match=f"strength .* got {wrong!r}"):
        lively()(pictures(1, 16, 16), wrong)
    with pytest.raises(UsageError, match=f"standard deviation must be between 0 and 1, got {wrong!r}"):
        PerturbationGenerator(2, wrong)


@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
def test_without_a_random_component_the_generator_is_exact(size: tuple[int, int]) -> None:
    generator, images = lively(), pictures(2, *size)
    padded = F.pad(images, (0, -size[1] % 16, 0, -size[0] % 16), mode="reflect")
    perturbation = generator.unet((padded - generator.mean) / generator.std)[..., : size[0], : size[1]]
    expected = (images + perturbation * generator.std).clamp(0, 1)
    assert generator.noise == 0
    for _ in range(2):
        assert torch.equal(generator(images), expected)


def noise_of(generator: PerturbationGenerator, noise: float, n: int = 40) -> torch.Tensor:
    """Return the random component of n grey pictures. Its generator leaves grey unchanged, so nothing is clamped."""
    generator.noise = noise
    generator.unet.outc.f.weight.data.zero_()
    generator.unet.outc.f.bias.data.zero_()
    with torch.no_grad():
        return (generator(torch.full((n, 3, 32, 32), 0.5)) - 0.5).flatten()


@pytest.mark.parametrize("training", [False, True])
def test_the_random_component_has_the_requested_deviation(training: bool) -> None:
    torch.manual_seed(0)
    drawn = noise_of(lively().train(training), 0.05)
    assert drawn.mean().item() == pytest.approx(0, abs=6 * 0.05 / len(drawn) ** 0.5)
    assert drawn.std().item() == pytest.approx(0.05, rel=0.02)
    rows = drawn.view(40, -1)
    assert kstest(rows[:10].flatten().double().numpy() / 0.05, "norm").pvalue > 1e-6
    likeness = torch.corrcoef(rows) - torch.eye(40)
    assert likeness.abs().max() < 0.12, "each image has its own"


def test_a_seed_fixes_training_noise_but_not_the_edges() -> None:
    for training in (False, True):
        generator, drawn = lively().train(training), []
        for _ in range(3):
            torch.manual_seed(7)
            drawn.append(noise_of(generator, 0.1, n=2))
        assert [torch.equal(drawn[0], each) for each in drawn[1:]] == [training] * 2


def test_a_measurements_noise_repeats_in_its_own_thread_alone() -> None:
    generator, measured = lively(), []

    def drawn() -> torch.Tensor:
        return noise_of(generator, 0.1, n=2)

    with ThreadPoolExecutor(1) as other:
        for seed in (3, 3, 4):
            with repeatable_noise(seed):
                measured.append(drawn())
                elsewhere = [other.submit(drawn).result() for _ in range(2)]
    assert torch.equal(measured[0], measured[1])
    assert not torch.equal(measured[0], measured[2])
    assert not torch.equal(*elsewhere)
    assert not torch.equal(drawn(), drawn()), "the edge's again"


def test_strength_scales_the_random_component() -> None:
    generator, images = lively(), torch.full((8, 3, 32, 32), 0.5)
    assert noise_of(generator, 0.1).std().item() == pytest.approx(0.1, rel=0.05)
    assert (generator(images, 0.5) - 0.5).std().item() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(generator(images, 0.0), images)
    generator.noise = 1.0
    protected = generator(images)
    assert (protected.min(), protected.max()) == (0, 1)


def test_a_prepared_generator_draws_too() -> None:
    plain, images = lively(), pictures(4)
    plain.noise = 0.1
    prepared = prepare(plain)
    with torch.no_grad():
        first, second = prepared(images), prepared(images)
        plain.noise = 0.0
        expected = plain(images)
    assert prepared.noise == 0.1
    assert not torch.equal(first, second)
    inside = (expected > 0.4) & (expected < 0.6)
    assert inside.sum() > 1000
    assert (first - expected)[inside].std().item() == pytest.approx(0.1, rel=0.1)
    assert (first - expected)[inside].mean().item() == pytest.approx(0, abs=0.02)


WRONG = {
    "one image": torch.zeros(3, 32, 32),
    "grey": torch.zeros(1, 1, 32, 32),
    "channels last": torch.zeros(1, 32, 32, 3),
    "uint8": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    "none": torch.zeros(0, 3, 32, 32),
    "no pixels": torch.zeros(1, 3, 0, 32),
}


@pytest.fixture(scope="module")
def every_network() -> list[Callable[[torch.Tensor], Any]]:
    compressor = NeuralCompressor(8, 12).eval()
    return [lively(), Classifier("mobilenet_v2", width=8), compressor, compressor.strings]


@pytest.mark.parametrize("wrong", WRONG)
def test_every_network_refuses_what_are_no_images(wrong: str, every_network: list[Callable[[torch.Tensor], Any]]) -> None:
    for network in every_network:
        with pytest.raises(UsageError, match="expected float images N x 3 x H x W"):
            network(WRONG[wrong])


# --- the compressor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_the_compressor_codes_every_16_by_16_block(size: tuple[int, int]) -> None:
    compressor, images = spread_compressor(), pictures(2, *size)
    out = compressor(images)
    assert out["x_hat"].shape == images.shape
    assert out["likelihoods"]["y"].shape == (2, 12, -(-size[0] // 16), -(-size[1] // 16))
    assert ((out["likelihoods"]["y"] > 0) & (out["likelihoods"]["y"] <= 1)).all()
    decoded = compressor.images(compressor.strings(images), size)
    assert torch.allclose(decoded, out["x_hat"].clamp(0, 1), atol=1e-4)
    assert not torch.allclose(decoded[0], decoded[1], atol=0.01)


# --- building --------------------------------------------------------------------------------------------------------------


def test_build_makes_each_kind_from_its_spec() -> None:
    assert build("classifier", name="mobilenet_v2", num_classes=3, width=8).num_classes == 3
    assert (build("generator", width=2).noise, build("generator", width=2, noise=0.2).noise) == (0, 0.2)
    assert build("compressor", N=8, M=12).M == 12


def test_build_refuses_an_unknown_kind_and_an_unknown_field() -> None:
    with pytest.raises(UsageError, match="unknown kind of network 'generater': did you mean 'generator'"):
        build("generater")
    with pytest.raises(UsageError, match=r"a generator cannot be built from .*'depth': 3"):
        build("generator", depth=3)


def test_channels_last_changes_the_layout_and_not_the_answer() -> None:
    images, generator = pictures(2), lively()
    before = generator(images)
    moved = models.channels_last(generator)
    assert moved.unet.inc.f[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(moved(images.contiguous(memory_format=torch.channels_last)), before, atol=1e-5)
