"""Weights are saved and found, and refused if they do not fit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support.networks import PAIR, PAIR_NAME, classifier, generator, manifest, pictures, same, spread_compressor
from workbench import weights
from workbench.classifiers import Classifier
from workbench.data import Dataset
from workbench.errors import UsageError, WeightsError
from workbench.models import NeuralCompressor, PerturbationGenerator
from workbench.training import missing
from workbench.weights import Manifest, Pair, describe


@pytest.fixture
def kept(empty_data: Path) -> Path:
    weights.save(generator(), manifest(generator(), "g"))
    return empty_data / "runs" / "weights" / "digits" / "g.json"


def rewrite(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# --- saved and found -------------------------------------------------------------------------------------------------------


def test_a_network_comes_back_frozen_with_its_manifest(empty_data: Path) -> None:
    module = generator()
    filled = weights.save(module, manifest(module, "g", metrics={"accuracy": 0.9}, training={"preset": "tiny"}))
    loaded, read = weights.load("g", "digits", "generator")
    assert read == filled == weights.find("g", "digits")
    assert weights.find("g", "cifar10") is None
    assert read.metrics == {"accuracy": 0.9}
    assert same(loaded, module)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(pictures()), module(pictures()))


def test_the_manifest_names_the_tensors_by_their_hash(kept: Path) -> None:
    fields = json.loads(kept.read_text())
    tensors = kept.with_name(fields["file"])
    assert fields["sha256"] == hashlib.sha256(tensors.read_bytes()).hexdigest()
    assert fields["file"] == f"g.{fields['sha256'][:8]}.safetensors"
    assert sorted(path.name for path in kept.parent.iterdir()) == sorted(["g.json", fields["file"]])
    assert set(safetensors.torch.load_file(tensors)) == set(generator().unet.state_dict())


def test_a_classifier_is_stored_under_the_baselines_names(empty_data: Path) -> None:
    saved = weights.save(classifier(), manifest(classifier(), "mobilenet_v2"))
    assert saved.spec == {"name": "mobilenet_v2", "num_classes": 10, "width": 8}
    tensors = safetensors.torch.load_file(empty_data / "runs" / "weights" / "digits" / saved.file)
    assert "features.1.conv.0.0.weight" in tensors
    loaded, _ = weights.load("mobilenet_v2", "digits", "classifier")
    assert isinstance(loaded, Classifier)
    assert loaded.width == 8
    assert torch.equal(loaded(pictures()), classifier()(pictures()))


def test_a_generators_random_component_is_kept(empty_data: Path) -> None:
    plain, noisy = generator(), generator()
    noisy.noise = 0.2
    saved = [weights.save(module, manifest(module, name)) for name, module in (("plain", plain), ("noisy", noisy))]
    assert [each.spec for each in saved] == [{"width": 2}, {"width": 2, "noise": 0.2}]
    assert saved[0].sha256 == saved[1].sha256, "the tensors are the same"
    for name, noise in (("plain", 0.0), ("noisy", 0.2)):
        loaded, _ = weights.load(name, "digits", "generator")
        assert isinstance(loaded, PerturbationGenerator)
        assert (loaded.width, loaded.noise) == (2, noise)
        assert same(loaded, plain)
        assert torch.equal(loaded(pictures()), loaded(pictures())) == (noise == 0)


def test_a_compressor_comes_back_with_its_entropy_tables(empty_data: Path) -> None:
    compressor = spread_compressor()
    strings = compressor.strings(pictures())
    weights.save(compressor, manifest(compressor, "c"))
    loaded, _ = weights.load("c", "digits", "compressor")
    assert isinstance(loaded, NeuralCompressor)
    assert same(loaded, compressor)
    assert loaded.strings(pictures()) == strings
    assert torch.equal(loaded.images(strings, (32, 32)), compressor.images(strings, (32, 32)))


def test_a_compressor_comes_back_with_what_it_takes_to_choose(empty_data: Path) -> None:
    compressor = spread_compressor()
    rounded = compressor.symbols(pictures())
    compressor.patterns, compressor.pattern_counts = rounded.to(torch.int8), torch.tensor([3, 2, 1])
    compressor.reader, compressor.answers = torch.randn(10, 49), torch.rand(2, 10)
    weights.save(compressor, manifest(compressor, "c"))
    loaded, _ = weights.load("c", "digits", "compressor")
    assert isinstance(loaded, NeuralCompressor)
    assert same(loaded, compressor)
    assert torch.equal(loaded.symbols(pictures(8)), compressor.symbols(pictures(8)))
    weights.save(compressor, manifest(compressor, "c"), half=True)
    assert weights.load("c", "digits", "compressor")[0].symbols(pictures()).shape == (2, 12, 2, 2), "kept in 16 bits, run in 32"
    for reader, answers in (((10, 48), (2, 10)), ((10, 49), (3, 10))):
        compressor.reader, compressor.answers = torch.zeros(reader), torch.zeros(answers)
        weights.save(compressor, manifest(compressor, "c"))
        with pytest.raises(WeightsError, match="weights 'c': a compressor with 2 patterns of 48 latents cannot have a reader"):
            weights.load("c", "digits", "compressor")


def test_saving_again_replaces_the_tensors_of_its_name_alone(kept: Path) -> None:
    weights.save(generator(5), manifest(generator(), "g@other"))
    before = {path.name for path in kept.parent.iterdir()}
    old = json.loads(kept.read_text())["file"]
    weights.save(generator(1), manifest(generator(), "g"))
    new = json.loads(kept.read_text())["file"]
    assert new != old
    assert {path.name for path in kept.parent.iterdir()} == before - {old} | {new}
    assert same(weights.load("g", "digits", "generator")[0], generator(1))
    assert same(weights.load("g@other", "digits", "generator")[0], generator(5))


def test_a_save_without_its_manifest_leaves_the_old_network(kept: Path) -> None:
    (kept.parent / "g.0a1b2c3d.safetensors").write_bytes(safetensors.torch.save(generator(1).unet.state_dict()))
    (kept.parent / ".g.json.x1y2.tmp").write_text('{"name": "g"')
    assert same(weights.load("g", "digits", "generator")[0], generator())
    assert [found.name for found, _ in weights.listing()] == ["g"]


def test_what_was_trained_here_hides_what_was_shipped(kept: Path, empty_data: Path) -> None:
    shipped = empty_data / "weights"
    weights.save(generator(1), manifest(generator(), "g"), shipped)
    weights.save(generator(2), manifest(generator(), "h"), shipped)
    assert same(weights.load("g", "digits", "generator")[0], generator())
    listed = {found.name: path for found, path in weights.listing()}
    assert set(listed) == {"g", "h"}
    assert listed["g"].parent == kept.parent
    assert listed["h"].parent == shipped / "digits"
    assert all(path.is_file() for path in listed.values())
    kept.unlink()
    assert same(weights.load("g", "digits", "generator")[0], generator(1))


def test_names_are_the_baselines_with_variants_behind_an_at() -> None:
    assert weights.generator_name("resnet18", "vgg13_bn") == "resnet18-X-vgg13_bn"
    assert weights.generator_name("resnet18", "vgg13_bn", "bounded") == "resnet18-X-vgg13_bn@bounded"
    assert weights.compressor_name("resnet18", "vgg13_bn", "r1", "bounded") == "resnet18-X-vgg13_bn@bounded-compressor@r1"


@pytest.mark.parametrize("variant", ["../up", "a/b", ".hidden", "a b", "x" * 65, "é"])
def test_a_variant_cannot_leave_its_folder(variant: str) -> None:
    with pytest.raises(UsageError, match="variant"):
        weights.generator_name("resnet18", "vgg13_bn", variant)


def test_another_network_has_no_description() -> None:
    with pytest.raises(UsageError, match="a Linear is none of the workbench's networks"):
        describe(torch.nn.Linear(1, 1))


# --- refused ---------------------------------------------------------------------------------------------------------------


def refused(name: str = "g", kind: str = "generator") -> str:
    with pytest.raises(WeightsError) as caught:
        weights.load(name, "digits", kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_weights_are_named_with_the_way_to_get_them(empty_data: Path) -> None:
    message = refused("nowhere")
    assert message.startswith("no weights 'nowhere' for data set 'digits' under ")
    assert "workbench train" in message
    assert "workbench import-weights" in message
    assert list(weights.listing()) == []


def test_tensors_that_are_changed_or_gone_are_refused(kept: Path) -> None:
    tensors = kept.with_name(json.loads(kept.read_text())["file"])
    blob = bytearray(tensors.read_bytes())
    blob[-1] ^= 1
    tensors.write_bytes(blob)
    assert "does not have the SHA-256 of its manifest" in refused()
    tensors.unlink()
    assert f"cannot read {tensors}: No such file or directory" in refused()


@pytest.mark.parametrize("blob", [b"", b"no tensors at all", b"\xff" * 64], ids=["empty", "text", "a boundless header"])
def test_a_file_without_tensors_is_refused_despite_its_hash(kept: Path, blob: bytes) -> None:
    kept.with_name(json.loads(kept.read_text())["file"]).write_bytes(blob)
    rewrite(kept, sha256=hashlib.sha256(blob).hexdigest())
    refused()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"g"', "{}", '{"name": "g"}', '{"unknown": 1}', "\x00", '{"name": NaN,}', "\xff\xfe"]
)
def test_a_manifest_that_is_none_is_refused(kept: Path, text: str) -> None:
    kept.write_text(text, encoding="latin-1")
    assert f"{kept} is not a manifest of this workbench" in refused()
    with pytest.raises(WeightsError, match="not a manifest"):
        list(weights.listing())


@pytest.mark.parametrize("file", ["../g.safetensors", "/etc/passwd", "a/b.safetensors", "g.pt", "", "..", ".safetensors/.."])
def test_a_manifest_names_only_a_safetensors_file_beside_it(kept: Path, file: str) -> None:
    (kept.parent.parent / "g.safetensors").write_bytes(b"")
    rewrite(kept, file=file)
    assert f"names the file {file!r}, which is not a safetensors file next to it" in refused()


@pytest.mark.parametrize(
    "fields",
    [
        {"file": 5},
        {"file": None},
        {"spec": "width"},
        {"spec": {"depth": 9}},
        {"spec": {"width": "wide"}},
        {"spec": {"width": -1}},
        {"spec": {"width": 2, "noise": 1.5}},
        {"kind": ["generator"]},
        {"sha256": None},
        {"format": 2},
        {"metrics": None},
        {"training": []},
        {"depends": {"other": "0" * 64}},
        {"complete": "yes"},
        {"seed": "one"},
    ],
    ids=str,
)
def test_a_manifest_with_a_field_of_another_kind_is_refused(kept: Path, fields: dict[str, Any]) -> None:
    rewrite(kept, **fields)
    refused()


def test_weights_of_another_kind_or_width_are_refused(kept: Path) -> None:
    assert refused(kind="compressor") == "weights 'g' are those of a generator, not of a compressor"
    rewrite(kept, spec={"width": 4})
    assert "tensor 'd1.f.1.f.0.bias' is (4,), the network needs (8,)" in refused()


def test_a_tensor_that_does_not_fit_is_named() -> None:
    module, whole = generator(), generator(1).unet.state_dict()
    missing_one = {key: value for key, value in whole.items() if key != "outc.f.bias"}
    for state, message in (
        (missing_one, "tensor 'outc.f.bias' is missing"),
        ({**whole, "extra": torch.zeros(1)}, "tensor 'extra' is not part of the network"),
        ({**whole, "outc.f.weight": torch.zeros(3, 9, 1, 1)}, r"is \(3, 9, 1, 1\), the network needs \(3, 2, 1, 1\)"),
    ):
        with pytest.raises(WeightsError, match=f"^these: .*{message}"):
            weights.load_state(module, state, "these")
    assert same(module, generator())


# --- pairs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_pair(empty_data: Path) -> dict[str, Manifest]:
    """A saved pair with generator and compressor, whose target is also its auxiliary."""
    target = weights.save(classifier(), manifest(classifier(), "mobilenet_v2"))
    depends = {"target": target.sha256, "auxiliary": target.sha256}
    kept = weights.save(generator(), manifest(generator(), PAIR_NAME, depends=depends))
    compressor = NeuralCompressor(8, 12)
    compressor.update(force=True)
    depends = {"target": target.sha256, "generator": kept.sha256}
    coded = weights.save(compressor, manifest(compressor, f"{PAIR_NAME}-compressor", depends=depends))
    return {"target": target, "auxiliary": target, "generator": kept, "compressor": coded}


def test_a_pair_is_loaded_with_what_belongs_to_it(tiny_pair: dict[str, Manifest], empty_data: Path) -> None:
    pair = weights.load_pair("digits", *PAIR)
    assert (pair.name, pair.manifests) == (PAIR_NAME, tiny_pair)
    assert pair.sha256() == {role: each.sha256 for role, each in tiny_pair.items()}
    assert same(pair.target, classifier())
    assert same(pair.generator, generator())
    assert isinstance(pair.compressor, NeuralCompressor)
    (empty_data / "runs" / "weights" / "digits" / f"{PAIR_NAME}-compressor.json").unlink()
    pair = weights.load_pair("digits", *PAIR, compressor=False)
    assert pair.compressor is None
    assert set(pair.manifests) == {"target", "auxiliary", "generator"}
    with pytest.raises(WeightsError, match=f"no weights '{PAIR_NAME}-compressor'"):
        weights.load_pair("digits", *PAIR)


def test_weights_of_retrained_networks_are_stale(tiny_pair: dict[str, Manifest]) -> None:
    weights.save(generator(1), manifest(generator(), PAIR_NAME, depends=tiny_pair["generator"].depends))
    assert same(weights.load_pair("digits", *PAIR, compressor=False).generator, generator(1))
    with pytest.raises(WeightsError, match=f"'{PAIR_NAME}-compressor' were trained with a generator"):
        weights.load_pair("digits", *PAIR)
    new = weights.save(classifier(1), manifest(classifier(), "mobilenet_v2"))
    with pytest.raises(WeightsError) as caught:
        weights.load_pair("digits", *PAIR, compressor=False)
    assert str(caught.value) == (
        f"weights '{PAIR_NAME}' were trained with a target ({tiny_pair['target'].sha256[:8]}) that has been replaced by another "
        f"({new.sha256[:8]}): train '{PAIR_NAME}' again"
    )


# --- what is refused ---


@pytest.mark.parametrize("family", ["..", "a/b", "", ".hidden", "/tmp"])
def test_a_family_cannot_leave_the_folder(family: str, empty_data: Path) -> None:
    network = generator()
    with pytest.raises(UsageError, match=f"data set family {family!r} must be"):
        weights.save(network, Manifest("g", family, *weights.describe(network), "digits", 0))
    with pytest.raises(UsageError, match="data set family"):
        weights.find("g", family)
    assert not empty_data.exists()


def test_figures_and_tensors_that_cannot_be_kept_are_refused(kept: Path) -> None:
    before = {path.name: path.read_bytes() for path in kept.parent.iterdir()}
    network = generator(9)
    with pytest.raises(WeightsError, match="figures that are no finite numbers"):
        weights.save(network, manifest(network, "g", metrics={"loss": float("nan")}))
    network.unet.outc.f.bias.data[0] = 1e6
    with pytest.raises(WeightsError, match="'outc.f.bias' does not fit 16 bits"):
        weights.save(network, manifest(network, "g"), half=True)
    assert {path.name: path.read_bytes() for path in kept.parent.iterdir()} == before


@pytest.mark.parametrize("name", ["resnet18", "resnet18-vgg13_bn", "", "resnet18-X-../../etc"])
def test_what_is_no_pair_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a pair|unknown classifier"):
        weights.pair_of(name)


# --- shipped weights -------------------------------------------------------------------------------------------------------


def test_an_exported_pair_is_half_the_size_and_loads_as_a_pair(
    networks: Pair, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = networks
    before = {manifest.name: manifest for manifest, _ in weights.listing()}
    size = {manifest.name: path.stat().st_size for manifest, path in weights.listing()}
    made = weights.export("digits", pair.target.name, pair.auxiliary.name, tmp_path / "weights")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    shipped = weights.load_pair("digits", pair.target.name, pair.auxiliary.name)
    assert [manifest.name for manifest in made] == [manifest.name for manifest in shipped.manifests.values()]
    images = torch.rand(4, 3, 32, 32)
    for kept, path in weights.listing():
        assert path.stat().st_size < 0.7 * size[kept.name]  # integer tables and names do not shrink
        assert kept.training["kept_in"] == "float16"
        assert kept.sha256 != before[kept.name].sha256
    assert all(parameter.dtype == torch.float32 for parameter in shipped.generator.parameters())
    with torch.no_grad():
        assert (shipped.generator(images) - pair.generator(images)).abs().max() < 5e-3
    tables = [each.compressor.entropy_bottleneck._quantized_cdf for each in (shipped, pair) if each.compressor is not None]
    assert torch.equal(*tables)


SHIPPED = sorted((Path(__file__).resolve().parent.parent / "data" / "weights").glob("*/*-X-*-compressor.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}: {path.stem}")
def test_each_shipped_pair_loads_without_training(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh clone has nothing else: `explore`, `serve` and `evaluate` work at once."""
    (tmp_path / "weights").symlink_to(path.parent.parent)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    name, _, variant = path.stem.removesuffix("-compressor").partition("@")
    loaded = weights.load_pair(path.parent.name, *weights.pair_of(name), variant=variant)
    assert set(loaded.manifests) == set(weights.ROLES)
    for role, found in loaded.manifests.items():
        assert found.complete
        assert found.training["kept_in"] == "float16", f"the {role} is shipped in 32 bits"
    size = sum(path.with_name(found.file).stat().st_size for found in loaded.manifests.values())
    assert size < {"digits": 8 << 20}.get(path.parent.name, 64 << 20)


def test_shipped_weights_can_be_left_aside(
    pair: Pair, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`workbench reproduce` trains on the embedded digits, whatever ships."""
    names = pair.target.name, pair.auxiliary.name
    weights.export("digits", *names, tmp_path / "weights")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))

    def train(_: Dataset, name: str, *__: Any, **___: Any) -> Manifest:
        raise InterruptedError(name)

    monkeypatch.setattr(missing, "train_classifier", train)
    assert [each.name for each in missing.ensure(digits, *names)][:2] == [*names]
    with pytest.raises(InterruptedError, match=names[0]):
        missing.ensure(digits, *names, shipped=False)
    with pytest.raises(InterruptedError, match=names[0]):
        missing.train_all(digits, [names], shipped=False)
    assert not missing._missing(digits, [names], "quick")
    assert {*names} <= missing._missing(digits, [names], "quick", shipped=False).keys(), "they get a share of a budget, too"
    weights.save(pair.target, pair.manifests["target"])
    with pytest.raises(InterruptedError, match=names[1]):
        missing.ensure(digits, *names, shipped=False)
