"""Attestation: real reports and chains, each refusal by its name, flipped bits, VLEK and Turin forms, and parsers."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import random
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.snp import (
    CHIP,
    HOST_DATA,
    MEASUREMENT,
    NOW,
    PROVIDER,
    TCB,
    certificate,
    curve_key,
    fields_of,
    integer,
    key,
    own_words,
    processor,
    report,
    text,
    written,
)
from workbench.attest import (
    ARKS,
    DEFAULT_PRODUCTS,
    PRODUCTS,
    WARNINGS,
    Policy,
    Report,
    Tcb,
    Verdict,
    key_of,
    runtime_data,
    verify,
)
from workbench.attest.certificates import common_name, signed_by
from workbench.attest.products import authorities, product_of
from workbench.errors import AttestationError, UsageError

DATA = b"0123456789abcdef" * 4
MILAN, GENOA, TURIN = "Milan", "Genoa", "Turin"
FLIPS = 2000
few = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))


# --- real reports ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Vector:
    report: bytes
    chain: dict[str, bytes]
    policy: Policy

    @property
    def evidence(self) -> dict[str, Any]:
        chain = [{"cert_type": kind, "data": list(der)} for kind, der in self.chain.items()]
        return {"attestation_report": fields_of(self.report), "cert_chain": chain}

    @property
    def data(self) -> bytes:
        return self.report[0x50:0x90]


@pytest.fixture(scope="session")
def published() -> Path:
    shared = os.environ.get("WORKBENCH_SHARED", "")
    folder = Path(shared) / "data" / "snp"
    if not shared or not folder.is_dir():
        pytest.skip("the published SNP reports are not here: set WORKBENCH_SHARED to the folder with data/snp")
    return folder


@pytest.fixture(scope="session")
def vectors(published: Path) -> dict[str, Vector]:
    evidence = json.loads((published / "evidence-genoa.json").read_bytes())
    reports = {
        MILAN: ((published / "report-milan.bin").read_bytes(), (published / "vcek-milan.der").read_bytes()),
        GENOA: (Report.of_fields(evidence["attestation_report"]).raw, bytes(evidence["cert_chain"][0]["data"])),
    }
    found = {}
    for product, (raw, vcek) in reports.items():
        pems = x509.load_pem_x509_certificates((published / f"ask-ark-asvk-{product.lower()}.pem").read_bytes())
        named = {pem.subject.rfc4514_string().split(",")[0]: pem.public_bytes(Encoding.DER) for pem in pems}
        chain = {"VCEK": vcek, "ASK": named[f"CN=SEV-{product}"], "ARK": named[f"CN=ARK-{product}"]}
        policy = Policy(
            measurements=(raw[0x90:0xC0].hex(),), initdata=raw[0xC0:0xE0].hex(), products=(product,), minimum_tcb=Tcb(snp=8)
        )
        found[product] = Vector(raw, chain, policy)
    return found


@pytest.mark.parametrize("product", [MILAN, GENOA])
def test_a_real_report_proves_what_it_says(vectors: dict[str, Vector], product: str) -> None:
    vector = vectors[product]
    verdict = verify(vector.evidence, vector.policy, vector.data)
    assert verdict.proves
    assert verdict.product == product
    assert verdict == verify(vector.report, dataclasses.replace(vector.policy, chain=tuple(vector.chain.values())), vector.data)
    firmware = {MILAN: Tcb(3, 0, 8, 115), GENOA: Tcb(10, 0, 23, 25)}
    assert verdict.tcb == firmware[product]
    assert verdict.chip == vector.report[0x1A0:0x1A8].hex()


def test_the_agents_own_json_is_read_with_a_policy_from_a_file(
    published: Path, vectors: dict[str, Vector], tmp_path: Path
) -> None:
    vector = vectors[GENOA]
    (tmp_path / "amd.pem").write_bytes((published / "ask-ark-asvk-genoa.pem").read_bytes())
    (tmp_path / "policy.toml").write_text(
        f'measurements = ["{vector.report[0x90:0xC0].hex()}"]\nchain = ["amd.pem"]\ninitdata = "{vector.report[0xC0:0xE0].hex()}"\n'
        "[minimum_tcb]\nboot_loader = 10\ntee = 0\nsnp = 23\nmicrocode = 0\n"
    )
    text = (published / "evidence-genoa.json").read_bytes()
    assert verify(text, Policy.read(tmp_path / "policy.toml"), vector.data).product == GENOA


def test_a_real_report_fits_no_other_nonce_guest_or_firmware(vectors: dict[str, Vector]) -> None:
    for vector in vectors.values():
        for change, check in (
            ({"measurements": ("00" * 48,)}, "measurement"),
            ({"initdata": "11" * 32}, "initdata"),
            ({"minimum_tcb": Tcb(microcode=200)}, "minimum TCB"),
            ({"vmpl": 1}, "VMPL"),
            ({"products": (MILAN, GENOA), "arks": {MILAN: "00" * 32, GENOA: "00" * 32}}, "ARK pin"),
            ({"at": datetime(2019, 1, 1, tzinfo=UTC)}, "validity of the ARK"),
        ):
            with pytest.raises(AttestationError, match=f"^attestation: {check}: expected .+, found "):
                verify(vector.evidence, dataclasses.replace(vector.policy, **change), vector.data)
        with pytest.raises(AttestationError, match="^attestation: freshness: expected "):
            verify(vector.evidence, vector.policy, bytes(64))


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_built_in_authorities_are_amds(published: Path, product: str) -> None:
    built_in = {der: x509.load_der_x509_certificate(der) for der in authorities()}
    files = sorted(published.glob(f"ask-ark-*{product.lower()}*.pem"))
    pems = {pem for file in files for pem in x509.load_pem_x509_certificates(file.read_bytes())}
    names = {common_name(pem.subject): pem for pem in pems}
    assert set(names) == {f"ARK-{product}", f"SEV-{product}", f"SEV-VLEK-{product}"}
    assert pems <= set(built_in.values())
    assert names[f"ARK-{product}"].fingerprint(hashes.SHA256()).hex() == ARKS[product]
    assert len(built_in) == 3 * len(PRODUCTS)
    for pem in pems:
        assert signed_by(pem, names[f"ARK-{product}"], "")


def test_amds_built_in_authorities_complete_the_evidence(published: Path, vectors: dict[str, Vector]) -> None:
    evidence = json.loads((published / "evidence-genoa.json").read_bytes())
    assert len(evidence["cert_chain"]) == 1
    for policy in (vectors[GENOA].policy, dataclasses.replace(vectors[GENOA].policy, products=DEFAULT_PRODUCTS)):
        assert verify(evidence, policy, vectors[GENOA].data).product == GENOA


def test_a_real_milan_must_be_named_and_is_warned_of(vectors: dict[str, Vector]) -> None:
    vector = vectors[MILAN]
    default = dataclasses.replace(vector.policy, products=DEFAULT_PRODUCTS)
    assert default.warnings == ()
    message = refusal(vector.evidence, default, "ARK pin", vector.data)
    assert "Milan: to trust it, name it in `products`" in message
    assert "2605.12990" in message
    verdict = verify(vector.evidence, vector.policy, vector.data)
    assert vector.policy.warnings == verdict.warnings == (WARNINGS[MILAN],)
    assert str(verdict).splitlines()[1] == f"WARNING: {WARNINGS[MILAN]}"
    assert "arXiv 2605.12990" in WARNINGS[MILAN]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def taken(vector: Vector, bits: Callable[[str, bytes], Iterable[int]]) -> tuple[list[tuple[str, int]], int]:
    parts, free, tried = {"report": vector.report, **vector.chain}, [], 0
    for what, content in parts.items():
        for bit in bits(what, content):
            tried += 1
            raw, *chain = ({**parts, what: flipped(content, bit)}).values()
            with contextlib.suppress(AttestationError):
                verify(raw, dataclasses.replace(vector.policy, chain=tuple(chain)), vector.data)
                free.append((what, bit))
    return free, tried


@pytest.mark.parametrize("product", [MILAN, GENOA])
def test_no_signed_bit_can_be_flipped(vectors: dict[str, Vector], product: str) -> None:
    rng = random.Random(product)
    free, tried = taken(vectors[product], lambda _, content: rng.sample(range(8 * len(content)), FLIPS // 8))
    assert (free, tried) == ([], FLIPS // 2)


@pytest.mark.parametrize("product", [MILAN, GENOA])
def test_no_unsigned_bit_can_be_flipped(vectors: dict[str, Vector], product: str) -> None:
    """The unsigned bits are a signature's algorithm name and length in a certificate, and the reserved bytes of a report."""

    def unsigned(what: str, content: bytes) -> range:
        if what == "report":
            return range(8 * (0x2A0 + 144), 8 * len(content), 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = x509.load_der_x509_certificate(content)
        start, end = content.index(made.tbs_certificate_bytes) + len(made.tbs_certificate_bytes), len(made.signature)
        return range(8 * start, 8 * (len(content) - end))

    free, tried = taken(vectors[product], unsigned)
    assert free == []
    assert tried > 2000


@pytest.mark.parametrize(("product", "provider"), [(TURIN, ""), (GENOA, PROVIDER), (TURIN, PROVIDER)])
def test_no_bit_of_the_turin_and_vlek_forms_can_be_flipped(product: str, provider: str) -> None:
    ours = processor(product, provider)
    chain = dict(zip(("leaf", "issuer", "ARK"), ours.chain, strict=True))
    rng = random.Random(product + provider)
    vector = Vector(ours.report(DATA), chain, ours.policy())
    free, tried = taken(vector, lambda _, content: rng.sample(range(8 * len(content)), 100))
    assert (free, tried) == ([], 400)


# --- accepted evidence of a processor of our own ---------------------------------------------------------------------------


@pytest.mark.parametrize(("product", "version"), [(MILAN, 2), (MILAN, 3), (GENOA, 2), (GENOA, 5), (TURIN, 3), (TURIN, 5)])
def test_a_report_of_each_product_and_version_is_taken(product: str, version: int) -> None:
    ours = processor(product)
    cpuid = {"cpuid": bytes(3)} if version == 2 else {}
    mitigations = {"at_0x1f8": 3} if version == 5 else {}
    evidence = ours.evidence(DATA, version=version, **cpuid, **mitigations)
    verdict = verify(json.dumps(evidence).encode(), ours.policy(chain=()), DATA)
    assert (verdict.product, verdict.tcb) == (product, Tcb(**ours.tcb))
    assert verdict == verify(evidence, ours.policy(), DATA)


def test_a_verdict_is_a_table_of_its_checks() -> None:
    ours = processor(GENOA)
    verdict = verify(ours.report(DATA), ours.policy(), DATA)
    lines = str(verdict).splitlines()
    assert lines[0] == "AMD SEV-SNP on Genoa, boot loader 4, tee 1, snp 22, microcode 213; processor 4041424344454647"
    assert lines[2].split() == ["check", "expected", "found"]
    assert len(lines) == 4 + len(verdict.checks)
    assert all(check.name in line for check, line in zip(verdict.checks, lines[4:], strict=True))
    assert all(len(line) < 120 for line in lines)
    assert verdict.warnings == ()


def test_one_of_several_measurements_is_enough_in_capitals_too() -> None:
    ours = processor()
    verify(
        ours.report(DATA),
        ours.policy(measurements=("AB" * 48, MEASUREMENT.hex().upper()), initdata=HOST_DATA.hex().upper()),
        DATA,
    )


def test_what_a_policy_allows_is_accepted_and_reported() -> None:
    ours = processor()
    table = str(verify(ours.report(DATA, policy=0xB0000, vmpl=2), ours.policy(debug=True, vmpl=2), DATA))
    assert re.search(r"debug +off, or on +on\n", table)
    masked = verify(ours.report(DATA, chip_id=bytes(64)), ours.policy(masked_chip_id=True), DATA)
    assert masked.chip == "masked"
    late = verify(ours.report(DATA), ours.policy(at=NOW + timedelta(days=1000), allow_expired=True), DATA)
    assert "allow_expired" in str(late)


def test_the_matching_vcek_is_chosen_among_several() -> None:
    ours = processor()
    others = [vcek(words=own_words(MILAN, TCB | {"snp": 21}, CHIP)), vcek(words=own_words(MILAN, TCB, bytes(64)))]
    verify(ours.report(DATA), ours.policy(chain=(*others, *ours.chain)), DATA)


def test_shorter_runtime_data_is_padded_and_longer_is_refused() -> None:
    ours = processor()
    verify(ours.report(b"short"), ours.policy(), b"short")
    with pytest.raises(UsageError, match="at most 64 bytes, got 65"):
        verify(ours.report(b"short"), ours.policy(), bytes(65))


def test_runtime_data_is_the_hexadecimal_hash_of_nonce_and_key() -> None:
    assert runtime_data(b"ab", b"c") == b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_tls_certificates_key_is_its_subject_public_key_info() -> None:
    made = processor().vcek
    key = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_of(made.public_bytes(Encoding.DER)) == key
    with pytest.raises(AttestationError, match="TLS certificate: expected a certificate that can be read"):
        key_of(b"no certificate")


# --- every refusal, by the name of its check ------------------------------------------------------------------------------


def vcek(issuer: str = "SEV-Milan", words: dict[str, bytes] | None = None, **options: Any) -> bytes:
    return leaf("SEV-VCEK", issuer, "ask", own_words(MILAN, TCB, CHIP) | (words or {}), **options)


def leaf(name: str, issuer: str, by: str, words: dict[str, bytes], **options: Any) -> bytes:
    own = name.removeprefix("SEV-").lower()
    public = (curve_key(own) if options.pop("curve", True) else curve_key(own, False)).public_key()
    kept = {suffix: value for suffix, value in words.items() if value}
    made = certificate(name, issuer, public, options.pop("signer", key(by)), kept, authority=None, **options)
    return made.public_bytes(Encoding.DER)


def ask(**options: Any) -> bytes:
    name = options.pop("name", "SEV-Milan")
    made = certificate(name, "ARK-Milan", key("ask").public_key(), options.pop("signer", key("ark")), **options)
    return made.public_bytes(Encoding.DER)


def ark(**options: Any) -> bytes:
    made = certificate(
        "ARK-Milan", "ARK-Milan", options.pop("public", key("ark")).public_key(), options.pop("signer", key("ark")), **options
    )
    return made.public_bytes(Encoding.DER)


def chained(**parts: bytes) -> Policy:
    ours = processor()
    chain = dict(zip(("vcek", "ask", "ark"), ours.chain, strict=True)) | parts
    pin = x509.load_der_x509_certificate(chain["ark"]).fingerprint(hashes.SHA256()).hex() if chain["ark"] else "00" * 32
    return ours.policy(chain=tuple(each for each in chain.values() if each), arks={MILAN: pin})


PKCS1, SHA256 = (padding.PKCS1v15(), hashes.SHA384()), (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
SALT = (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384())
OLD = {"days": (-200, -100)}

# The check that refuses, the report's changes, and the policy.
REPORTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("report format", {"version": 1}, {}),
    ("report format", {"version": 6}, {}),
    *(("report format", {f"at_{offset:#x}": 1}, {}) for offset in (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x207, 0x208, 0x29F)),
    ("report format", {"version": 5, "at_0x208": 1}, {}),
    ("report format", {"version": 2}, {}),  # with the CPUID, which exists from version 3 on
    ("report format", {"at_0x183": 1}, {}),
    ("signature algorithm", {"algorithm": 2}, {}),
    *(("signing key", {"key_info": number << 2}, {}) for number in range(1, 8)),
    ("signing key", {"key_info": 1 << 1}, {}),  # MASK_CHIP_KEY
    *(("signing key", {"key_info": 1 << bit}, {}) for bit in (5, 17, 31)),
    ("signing key", {}, {"signing_key": "VLEK", "provider": PROVIDER}),
    ("product of the report", {"cpuid": bytes((0x19, 0x11, 1))}, {}),
    ("product of the report", {"cpuid": bytes((0x17, 0x31, 0))}, {}),
    ("TCB of the VCEK", {"reported_tcb": written(TCB | {"snp": 23})}, {}),
    ("minimum TCB", {}, {"minimum_tcb": Tcb(boot_loader=5)}),
    ("minimum TCB", {}, {"minimum_tcb": Tcb(tee=2)}),
    ("minimum TCB", {}, {"minimum_tcb": Tcb(snp=23)}),
    ("minimum TCB", {}, {"minimum_tcb": Tcb(microcode=214)}),
    ("minimum TCB", {}, {"minimum_tcb": Tcb(fmc=1)}),
    ("chip id", {"chip_id": bytes(64)}, {}),
    ("chip id", {"chip_id": CHIP[::-1]}, {"masked_chip_id": True}),
    ("guest policy", {"policy": 0x10000}, {}),
    ("guest policy", {"policy": 0x4030000}, {}),
    ("debug", {"policy": 0xB0000}, {}),
    ("migration agent", {"policy": 0x70000}, {}),
    ("VMPL", {"vmpl": 1}, {}),
    ("VMPL", {}, {"vmpl": 3}),
    ("measurement", {"measurement": bytes(48)}, {}),
    ("initdata", {"host_data": bytes(32)}, {}),
    ("validity of the ARK", {}, {"at": NOW + timedelta(days=101)}),
    ("validity of the ARK", {}, {"at": NOW - timedelta(days=101)}),
]  # fmt: skip

# The same for certificates.
CHAINS: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
    ("VCEK", lambda: {"vcek": b""}),
    ("ASK", lambda: {"ask": b""}),
    ("ARK", lambda: {"ark": b""}),
    ("ASK", lambda: {"vcek": vcek(issuer="SEV-VLEK-Milan")}),
    ("signature of the ARK", lambda: {"ark": ark(signer=key("stranger"))}),
    ("signature of the ARK", lambda: {"ark": ark(scheme=PKCS1)}),
    ("signature of the ARK", lambda: {"ark": ark(public=key("small", 2048), signer=key("small", 2048))}),
    ("signature of the ASK", lambda: {"ask": ask(signer=key("stranger"))}),
    ("signature of the ASK", lambda: {"ask": ask(scheme=SHA256)}),
    ("signature of the ASK", lambda: {"ark": ark(public=key("stranger"), signer=key("stranger"))}),
    ("signature of the VCEK", lambda: {"vcek": vcek(signer=key("stranger"))}),
    ("signature of the VCEK", lambda: {"vcek": vcek(scheme=SALT)}),
    ("signature of the VCEK", lambda: {"ask": ask(authority=False)}),
    ("VCEK", lambda: {"ask": ask(authority=None)}),
    ("validity of the ARK", lambda: {"ark": ark(**OLD)}),
    ("validity of the ASK", lambda: {"ask": ask(**OLD)}),
    ("validity of the VCEK", lambda: {"vcek": vcek(**OLD)}),
    ("issuer of the VCEK", lambda: {"vcek": vcek(issuer="SEV-Turin"), "ask": ask(name="SEV-Turin")}),
    ("issuer of the VCEK", lambda: {"vcek": vcek(issuer="SEV-VLEK-Milan"), "ask": ask(name="SEV-VLEK-Milan")}),
    ("issuer of the VCEK", lambda: {"vcek": vcek(issuer="ARK-Milan", signer=key("ark")), "ask": b""}),
    ("kind of the VCEK", lambda: {"vcek": vcek(words={"5": text(PROVIDER)})}),
    ("product of the VCEK", lambda: {"vcek": vcek(words={"2": b"\x16\5Genoa"})}),
    ("product of the VCEK", lambda: {"vcek": vcek(words={"2": b"\x16\6Milan"})}),
    ("product of the VCEK", lambda: {"vcek": vcek(words={"2": b"\x0c\5Milan"})}),
    ("product of the VCEK", lambda: {"vcek": vcek(words={"2": b""})}),
    *(("TCB of the VCEK", lambda suffix=suffix, value=value: {"vcek": vcek(words={suffix: value})})
      for suffix in ("3.1", "3.2", "3.3", "3.8") for value in (integer(99), b"", b"\2\2\1\4", b"\2\1\xd5")),
    ("chip id", lambda: {"vcek": vcek(words={"4": CHIP[::-1]})}),
    ("chip id", lambda: {"vcek": vcek(words={"4": CHIP[:8]})}),
    ("VCEK", lambda: {"vcek": vcek(curve=False)}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "said", "asked"), REPORTS)
def test_a_report_is_refused_by_the_check_that_it_fails(check: str, said: dict[str, Any], asked: dict[str, Any]) -> None:
    ours = processor()
    refusal(ours.report(DATA, **said), ours.policy(**asked), check)


@pytest.mark.parametrize(("check", "parts"), CHAINS)
def test_a_chain_is_refused_by_the_check_that_it_fails(check: str, parts: Callable[[], dict[str, bytes]]) -> None:
    refusal(processor().report(DATA), chained(**parts()), check)


def refusal(evidence: Any, policy: Policy, check: str, data: bytes = DATA) -> str:
    with pytest.raises(AttestationError) as caught:
        verify(evidence, policy, data)
    text = str(caught.value)
    assert re.fullmatch(f"attestation: {check}: expected .+, found .+", text)
    assert len(text) < 600
    return text


def test_every_check_of_a_verdict_has_a_refusal_here() -> None:
    ours = processor()
    names = {check.name for check in verify(ours.report(DATA), ours.policy(), DATA).checks}
    refused = {check for check, *_ in REPORTS} | {check for check, _ in CHAINS}
    elsewhere = {"ARK pin", "layout of the TCB", "signature of the report", "freshness"}  # below
    assert names <= refused | elsewhere
    assert not refused & elsewhere


def test_an_unpinned_root_is_refused_with_both_fingerprints() -> None:
    ours = processor()
    text = refusal(ours.report(DATA), ours.policy(arks={}), "ARK pin")
    assert ARKS[MILAN] in text
    assert ours.ark.fingerprint(hashes.SHA256()).hex() in text


# --- Turin -----------------------------------------------------------------------------------------------------------------

FMC = TCB | {"fmc": 1}


def turin(words: dict[str, bytes], **changes: Any) -> tuple[bytes, Policy]:
    ours = processor(TURIN)
    own = vcek("SEV-Turin", own_words(TURIN, FMC, CHIP) | words)
    return ours.report(DATA, **changes), ours.policy(chain=(own, *ours.chain[1:]))


@pytest.mark.parametrize("words", [{}, {"4": b"\4\x08" + CHIP[:8]}, {"2": text("Turin")}])
def test_a_turin_is_accepted_in_each_form_of_its_certificate(words: dict[str, bytes]) -> None:
    verdict = verify(*turin(words), DATA)
    assert verdict.tcb == Tcb(**FMC)
    assert verdict.chip == CHIP[:8].hex()


@pytest.mark.parametrize(
    ("check", "words", "changes"),
    [
        ("TCB of the VCEK", {"3.9": b""}, {}),
        ("TCB of the VCEK", {"3.9": integer(2)}, {}),
        ("TCB of the VCEK", {}, {"reported_tcb": written(FMC | {"fmc": 0})}),
        ("TCB of the VCEK", {}, {"reported_tcb": written(FMC | {"snp": 23})}),
        ("report format", {}, {"reported_tcb": written(TCB)}),  # the layout of Milan and Genoa, snp in a reserved byte
        ("chip id", {"4": CHIP}, {}),
        ("chip id", {"4": CHIP[:7]}, {}),
        ("chip id", {"4": CHIP[8:16]}, {}),
        ("chip id", {}, {"chip_id": CHIP}),
        ("product of the VCEK", {"2": text("Genoa-B1")}, {}),
        ("product of the report", {}, {"cpuid": bytes((0x1A, 0x12, 0))}),
        ("product of the report", {}, {"cpuid": bytes((0x1A, 0x50, 0))}),  # Venice
        ("product of the report", {}, {"cpuid": bytes((0x19, 0x11, 0)), "reported_tcb": written(TCB)}),
        ("layout of the TCB", {}, {"version": 2, "cpuid": bytes(3), "reported_tcb": written(TCB)}),
    ],
)
def test_a_turin_is_refused_by_the_check_that_it_fails(check: str, words: dict[str, bytes], changes: dict[str, Any]) -> None:
    refusal(turin(words, **changes)[0], turin(words)[1], check)


def test_a_genoa_that_reports_a_turins_layout_is_refused() -> None:
    ours = processor(GENOA)
    report = ours.report(DATA, cpuid=bytes((0x1A, 0x02, 1)), reported_tcb=written(FMC))
    refusal(report, ours.policy(), "product of the report")


def test_a_product_is_known_by_its_family_and_model() -> None:
    for product, family, models in (
        (MILAN, 0x19, (0x00, 0x01, 0x0F)),
        (GENOA, 0x19, (0x10, 0x11, 0x1F, 0xA0, 0xAF)),
        (TURIN, 0x1A, (0x00, 0x02, 0x11)),
        ("", 0x19, (0x20, 0x9F, 0xB0, 0xFF)),
        ("", 0x1A, (0x12, 0x50, 0xA0, 0xC7)),
        ("", 0x17, (0x01, 0x31)),
    ):
        assert {product_of((family, model, 0)) for model in models} == {product}, f"family {family:#x}, models {models}"


# --- VLEK ------------------------------------------------------------------------------------------------------------------


def vlek(words: dict[str, bytes] | None = None, issuer: str = "SEV-VLEK-Genoa", **options: Any) -> bytes:
    return leaf("SEV-VLEK", issuer, "asvk", own_words(GENOA, TCB, provider=PROVIDER) | (words or {}), **options)


def asvk(name: str = "SEV-VLEK-Genoa", **options: Any) -> bytes:
    signer = options.pop("signer", key("ark"))
    return certificate(name, "ARK-Genoa", key("asvk").public_key(), signer, **options).public_bytes(Encoding.DER)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_report_of_a_vlek_is_accepted_for_its_provider(product: str) -> None:
    ours = processor(product, PROVIDER)
    for changes in ({}, {"chip_id": bytes(range(1, 9)) + bytes(56)}, {"key_info": 1 << 2 | 1}):
        verdict = verify(json.dumps(ours.evidence(DATA, **changes)).encode(), ours.policy(chain=()), DATA)
        assert (verdict.product, verdict.provider) == (product, PROVIDER)
    masked = verify(ours.report(DATA), ours.policy(), DATA)
    assert masked.summary.endswith(f"processor masked; VLEK of {PROVIDER}")
    names = [check.name for check in masked.checks]
    assert "provider" in names
    assert "chip id" not in names, "a VLEK names no processor"


VLEKS: list[tuple[str, Callable[[], dict[str, bytes]], dict[str, Any], dict[str, Any]]] = [
    ("signing key", dict, {}, {"signing_key": "VCEK", "provider": ""}),
    ("signing key", dict, {"key_info": 0}, {}),
    ("signing key", dict, {"key_info": 7 << 2}, {}),
    ("signing key", dict, {"key_info": 1 << 2 | 1 << 1}, {}),  # MASK_CHIP_KEY
    ("signing key", dict, {"key_info": 1 << 2 | 1 << 5}, {}),
    ("provider", dict, {}, {"provider": "CN=cc-eu-west-1.amazonaws.com"}),
    ("provider", dict, {}, {"provider": PROVIDER.upper()}),
    ("provider", dict, {}, {"provider": PROVIDER[:-1]}),
    ("provider", lambda: {"vlek": vlek({"5": b"\x0c" + text(PROVIDER)[1:]})}, {}, {}),
    ("provider", lambda: {"vlek": vlek({"5": text(PROVIDER) + b"\0"})}, {}, {}),
    ("provider", lambda: {"vlek": vlek({"5": b"\0"})}, {}, {}),
    ("VLEK", lambda: {"vlek": b""}, {}, {}),
    ("VLEK", lambda: {"vlek": vlek({"5": b""})}, {}, {}),
    ("VLEK", lambda: {"vlek": processor(GENOA).chain[0]}, {}, {}),
    ("VLEK", lambda: {"vlek": vlek(curve=False)}, {}, {}),
    ("kind of the VLEK", lambda: {"vlek": vlek({"4": CHIP})}, {}, {}),
    ("ASVK", lambda: {"asvk": b""}, {}, {}),
    ("ASVK", lambda: {"asvk": processor(GENOA).chain[1]}, {}, {}),  # the ASK
    ("ARK", lambda: {"ark": b""}, {}, {}),
    ("issuer of the VLEK", lambda: {"vlek": vlek(issuer="SEV-Genoa", signer=key("ask")), "asvk": processor(GENOA).chain[1]}, {}, {}),
    ("issuer of the VLEK", lambda: {"vlek": vlek(issuer="SEV-VLEK-Turin"), "asvk": asvk("SEV-VLEK-Turin")}, {}, {}),
    ("signature of the VLEK", lambda: {"vlek": vlek(signer=key("ask"))}, {}, {}),
    ("signature of the VLEK", lambda: {"vlek": vlek(signer=key("stranger"))}, {}, {}),
    ("signature of the VLEK", lambda: {"vlek": vlek(scheme=PKCS1)}, {}, {}),
    ("signature of the VLEK", lambda: {"asvk": asvk(authority=False)}, {}, {}),
    ("signature of the ASVK", lambda: {"asvk": asvk(signer=key("stranger"))}, {}, {}),
    ("signature of the ASVK", lambda: {"asvk": asvk(scheme=SALT)}, {}, {}),
    ("validity of the VLEK", lambda: {"vlek": vlek(**OLD)}, {}, {}),
    ("validity of the ASVK", lambda: {"asvk": asvk(**OLD)}, {}, {}),
    ("product of the VLEK", lambda: {"vlek": vlek({"2": text("Milan")})}, {}, {}),
    ("TCB of the VLEK", lambda: {"vlek": vlek({"3.3": integer(21)})}, {}, {}),
    ("TCB of the VLEK", lambda: {"vlek": vlek({"3.8": b""})}, {}, {}),
    ("TCB of the VLEK", dict, {"reported_tcb": written(TCB | {"microcode": 214})}, {}),
    ("product of the report", dict, {"cpuid": bytes((0x19, 0x01, 1))}, {}),
    ("minimum TCB", dict, {}, {"minimum_tcb": Tcb(snp=23)}),
    ("measurement", dict, {"measurement": bytes(48)}, {}),
    ("initdata", dict, {"host_data": bytes(32)}, {}),
    ("debug", dict, {"policy": 0xB0000}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "parts", "changes", "asked"), VLEKS)
def test_a_vlek_is_refused_by_the_check_that_it_fails(
    check: str, parts: Callable[[], dict[str, bytes]], changes: dict[str, Any], asked: dict[str, Any]
) -> None:
    ours = processor(GENOA, PROVIDER)
    chain = dict(zip(("vlek", "asvk", "ark"), ours.chain, strict=True)) | parts()
    refusal(ours.report(DATA, **changes), ours.policy(chain=tuple(der for der in chain.values() if der), **asked), check)


def test_a_vlek_that_another_key_signed_for_is_refused() -> None:
    ours = dataclasses.replace(processor(GENOA, PROVIDER), signer=curve_key("vcek"))
    refusal(ours.report(DATA), ours.policy(), "signature of the report")


def test_the_refusal_of_a_vlek_says_how_it_is_accepted() -> None:
    ours = processor(GENOA, PROVIDER)
    message = refusal(ours.report(DATA), ours.policy(signing_key="VCEK", provider=""), "signing key")
    assert message.endswith('found VLEK, which a policy accepts with signing_key = "VLEK" and the provider')


def test_every_check_of_a_vleks_verdict_has_a_refusal_here() -> None:
    ours = processor(GENOA, PROVIDER)
    names = {check.name for check in verify(ours.report(DATA), ours.policy(), DATA).checks}
    assert {name for name in names if "VLEK" in name or "ASVK" in name or name == "provider"} <= {row[0] for row in VLEKS}


def test_the_matching_vlek_is_chosen_among_several() -> None:
    ours = processor(GENOA, PROVIDER)
    others = vlek({"3.3": integer(21)}), vlek({"5": text("CN=another")}), processor(GENOA).chain[0]
    verify(ours.report(DATA), ours.policy(chain=(*others, *ours.chain)), DATA)


@pytest.mark.parametrize("product", [MILAN, TURIN])
def test_an_older_fmc_is_refused(product: str) -> None:
    ours = processor(product)
    refusal(ours.report(DATA), ours.policy(minimum_tcb=Tcb(fmc=2)), "minimum TCB")


def test_a_report_that_another_key_signed_is_refused() -> None:
    ours = processor()
    other = dataclasses.replace(ours, signer=curve_key("another"))
    refusal(other.report(DATA), ours.policy(), "signature of the report")
    for changed in (bytes(144), b"\1" + bytes(143), b"\xff" * 48 + bytes(24) + b"\xff" * 48 + bytes(24)):
        raw = ours.report(DATA)
        refusal(raw[:0x2A0] + changed + raw[0x330:], ours.policy(), "signature of the report")


def test_bytes_behind_the_signature_are_refused() -> None:
    ours = processor()
    for offset in (0x2A0 + 48, 0x2E7, 0x2E8 + 48, 0x330, 0x49F):
        raw = bytearray(ours.report(DATA))
        raw[offset] = 1
        refusal(bytes(raw), ours.policy(), "report format")


def test_evidence_for_another_question_is_refused() -> None:
    ours = processor()
    for data in (b"", DATA[:-1], DATA[::-1], DATA[:63] + b"g"):
        refusal(ours.report(DATA), ours.policy(), "freshness", data)


def test_bytes_of_another_length_are_no_report() -> None:
    for length in (0, 1, 672, 1183, 1185, 4000):
        refusal((processor().report(DATA) * 4)[:length], processor().policy(), "evidence")
        with pytest.raises(AttestationError, match=f"report format: expected 1184 bytes, found {length} bytes"):
            Report.read(bytes(length))


# --- the agent's JSON ------------------------------------------------------------------------------------------------------


def without(evidence: dict[str, Any], name: str) -> dict[str, Any]:
    return {"attestation_report": {key: value for key, value in evidence["attestation_report"].items() if key != name}}


def test_every_field_of_the_json_is_needed_and_no_other_is_taken() -> None:
    ours = processor()
    evidence = ours.evidence(DATA)
    for name in evidence["attestation_report"]:
        assert f"a field {name!r}" in refusal(without(evidence, name), ours.policy(), "report format")
    evidence["attestation_report"]["more"] = 1
    assert "'more'" in refusal(evidence, ours.policy(), "report format")


@pytest.mark.parametrize("wrong", [None, -1, 1 << 64, 1.0, "1", True, [], {}, [0] * 63, [256] * 64, [True] * 64])
def test_fields_of_another_kind_are_refused(wrong: Any) -> None:
    ours = processor()
    for name in ("version", "policy", "report_data", "reported_tcb", "current", "signature"):
        refusal(
            {"attestation_report": ours.evidence(DATA)["attestation_report"] | {name: wrong}}, ours.policy(), "report format"
        )


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": ' + b"1" * 5000 + b"}", b"[" * 100_000, b" " * (256 << 10) + b"{}",
     b'{"attestation_report": []}', b'{"attestation_report": "00"}'],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_evidence_is_refused(text: bytes) -> None:
    refusal(text, processor().policy(), "evidence")


def test_a_chain_of_another_form_is_refused() -> None:
    for chain in ({}, "x", [1], [{}], [{"data": "AAAA"}], [{"data": [256]}], [{"data": [0.5]}], [{"data": [1]}] * 17):
        refusal(processor().evidence(DATA) | {"cert_chain": chain}, processor().policy(), "evidence")
    for data in ([], [48], [48, 0], [0] * 9000):
        evidence = processor().evidence(DATA) | {"cert_chain": [{"data": data}]}
        refusal(evidence, processor().policy(), "certificate of the evidence")


def test_no_chain_is_a_chain_where_the_policy_has_one() -> None:
    ours = processor()
    for chain in ({"cert_chain": None}, {"cert_chain": []}, {}):
        verify({"attestation_report": fields_of(ours.report(DATA)), **chain}, ours.policy(), DATA)
    refusal({"attestation_report": fields_of(ours.report(DATA))}, ours.policy(chain=()), "VCEK")


# --- sample evidence -------------------------------------------------------------------------------------------------------


def sample(data: bytes = DATA) -> dict[str, Any]:
    return {"svn": "1", "report_data": base64.b64encode(data).decode()}


def test_sample_evidence_needs_its_policy_and_proves_nothing() -> None:
    verdict = verify(sample(), Policy(kind="sample"), DATA)
    assert not verdict.proves
    assert "PROVES NOTHING" in str(verdict)
    assert (verdict.product, verdict.tcb, verdict.chip) == ("", None, "")


def test_sample_evidence_is_taken_by_no_other_policy() -> None:
    text = refusal(sample(), processor().policy(), "kind")
    assert "proves nothing" in text


def test_real_evidence_is_not_taken_for_a_sample() -> None:
    policy = Policy(kind="sample")
    refusal(processor().report(DATA), policy, "kind")
    refusal(processor().evidence(DATA), policy, "kind")
    refusal({"svn": "1", "report_data": 7}, policy, "kind")


def test_a_sample_for_another_question_is_refused() -> None:
    policy = Policy(kind="sample")
    for data in (DATA[::-1], b"", DATA + b"0"):
        refusal(sample(data), policy, "freshness")
    for invalid in ("*", "a", "ä", "=" * 9):  # not base 64
        refusal({"svn": "1", "report_data": invalid}, policy, "freshness")


# --- policies --------------------------------------------------------------------------------------------------------------


def edited(template: str) -> str:
    return template.replace('initdata = "..."', f'initdata = "{"11" * 32}"').replace("snp = 0", "snp = 8")


def test_the_template_is_a_policy_and_names_every_key(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(edited(Policy.template()))
    policy = Policy.read(tmp_path / "policy.toml")
    assert policy == Policy(measurements=("00" * 48,), initdata="11" * 32, minimum_tcb=Tcb(snp=8))
    names = {each.name for kind in (Policy, Tcb) for each in dataclasses.fields(kind)}
    assert {name for name in names if re.search(rf"^(# )?\[?{name}\b", Policy.template(), re.MULTILINE)} == names


def test_what_the_template_has_behind_a_mark_is_the_default(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in Policy.template().splitlines()]
    written = [
        line
        for line in lines
        if re.match(r"(\w+ = |\[minimum_tcb\]|measurements|\]|  \")", line) and not line.startswith(("at", "Turin"))
    ]
    content = tomllib.loads("\n".join(written))
    assert len(content) == 12
    (tmp_path / "policy.toml").write_text(edited("\n".join(written)))
    wanted = Policy(measurements=("00" * 48,), initdata="11" * 32, minimum_tcb=Tcb(snp=8, fmc=0))
    assert Policy.read(tmp_path / "policy.toml") == wanted


MEASURED = f'measurements = ["{MEASUREMENT.hex()}"]\n'
DIGEST = f'initdata = "{HOST_DATA.hex()}"\n'
GOOD = MEASURED + DIGEST + 'minimum_tcb = "any"\n'
FULL = "[minimum_tcb]\nboot_loader = 3\ntee = 0\nsnp = 8\nmicrocode = 1\n"
OPEN = MEASURED + DIGEST  # a table can still be appended


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "needs the measurement of at least one guest"),
        ("measurements = []", "needs the measurement"),
        ('kind = "tdx"', "unknown kind of evidence 'tdx'"),
        ("kind = 1", "kind must be a text, got '1'"),
        ("measurement = []", "unknown key 'measurement': did you mean 'measurements'"),
        ('measurements = "00"', "measurements must be a list of texts"),
        ("measurements = [1]", "measurements\\[0\\] must be a text"),
        ('measurements = ["00"]', "measurements must be 48 bytes in hexadecimal, got '00' \\(2 characters\\)"),
        (MEASURED + 'initdata = "x"', "initdata must be 32 bytes in hexadecimal"),
        (MEASURED, "needs initdata: the measurement alone accepts every image.*initdata = 'any' accepts them all"),
        (MEASURED + 'initdata = ""', "needs initdata"),
        (MEASURED + 'initdata = "..."', "initdata must be 32 bytes in hexadecimal, got '...'"),
        (MEASURED + 'initdata = "Any"', "must be 32 bytes in hexadecimal"),
        (MEASURED + "initdata = 0", "initdata must be a text"),
        (OPEN, "needs minimum_tcb, the oldest firmware.*minimum_tcb = 'any' accepts all"),
        (OPEN + "[minimum_tcb]\nboot_loader = 0\ntee = 0\nsnp = 0\nmicrocode = 0", "needs minimum_tcb, .* above zero"),
        (OPEN + "[minimum_tcb]\nboot_loader = 3\ntee = 0\nsnp = 8", "minimum_tcb.microcode is missing: a part that is left out"),
        (OPEN + "[minimum_tcb]", "minimum_tcb.boot_loader is missing"),
        (OPEN + 'minimum_tcb = "all"', "minimum_tcb must be a table"),
        (GOOD + 'products = ["Rome"]', "unknown product 'Rome'"),
        (GOOD + "products = []", "at least one of the products"),
        (GOOD + 'signing_key = "ASK"', "unknown signing key 'ASK'"),
        (GOOD + "signing_key = 1", "signing_key must be a text, got '1'"),
        (GOOD + 'signing_key = "VLEK"', 'signing_key = "VLEK" needs the provider'),
        (GOOD + 'provider = "CN=a"', "provider = 'CN=a' is for signing_key = \"VLEK\": a VCEK names no provider"),
        (GOOD + 'signing_key = "VLEK"\nprovider = "a\\u0000"', "provider must be at most 128 printable ASCII characters"),
        (GOOD + 'signing_key = "VLEK"\nprovider = "' + "a" * 129 + '"', "provider must be at most 128"),
        ('kind = "sample"\nsigning_key = "VLEK"', "cannot ask for signing_key"),
        (GOOD + "[arks]\nTurin = '00'", "arks.Turin must be 32 bytes"),
        (GOOD + "[arks]\nRome = '00'", "unknown product 'Rome'"),
        (GOOD + "[arks]\nMilan = 1", "arks.Milan must be a text"),
        (GOOD + "arks = 1", "arks must be a table"),
        (OPEN + "minimum_tcb = 7", "minimum_tcb must be a table"),
        (OPEN + FULL + "svn = 7", "unknown key 'minimum_tcb.svn': did you mean 'minimum_tcb.snp'"),
        (OPEN + FULL.replace("snp = 8", "snp = 256"), "minimum_tcb.snp must be a number from 0 to 255, got '256'"),
        (OPEN + FULL.replace("snp = 8", "snp = true"), "minimum_tcb.snp must be a number"),
        (GOOD + "debug = 1", "debug must be true or false, got '1'"),
        (GOOD + "vmpl = 4", "vmpl is from 0 to 3, got 4"),
        (GOOD + "vmpl = -1", "vmpl must be a number"),
        (GOOD + "at = 2026-01-01", "at must be a time such as"),
        (GOOD + "at = 2026-01-01T00:00:00", "has no time zone: write Z behind it"),
        (GOOD + 'chain = ["nowhere.pem"]', "nowhere.pem cannot be read: No such file"),
        (GOOD + 'chain = ["policy.toml"]', "holds no certificates, or one that cannot be read"),
        (GOOD + 'chain = ["a\\u0000b"]', "cannot be read"),
        ('kind = "sample"\n' + GOOD, "proves nothing, so a policy of that kind cannot ask for measurements"),
        ('kind = "sample"\ndebug = true', "cannot ask for debug"),
        ("= 1", "is no TOML file"),
        ("a = " + "[" * 5000, "is no TOML file"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_is_refused_in_a_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        Policy.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_any_initdata_and_firmware_pass_only_on_request(tmp_path: Path) -> None:
    ours = processor()
    (tmp_path / "policy.toml").write_text(MEASURED + 'initdata = "any"\nminimum_tcb = "any"\n')
    asked = Policy.read(tmp_path / "policy.toml")
    policy = ours.policy(initdata=asked.initdata, minimum_tcb=asked.minimum_tcb)
    verdict = verify(ours.report(DATA, host_data=bytes(32)), policy, DATA)
    assert re.search(r"initdata +any +00000000", str(verdict))
    refusal(ours.report(DATA, host_data=bytes(32)), ours.policy(), "initdata")


def test_a_policy_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="policy.toml cannot be read: No such file or directory"):
        Policy.read(tmp_path / "policy.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(UsageError, match="is longer than 1048576 bytes"):
        Policy.read(tmp_path / "long.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no TOML file"):
        Policy.read(tmp_path / "binary.toml")


def test_a_chain_is_read_from_pem_and_der_beside_the_policy(tmp_path: Path) -> None:
    ours = processor()
    (tmp_path / "amd.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (ours.ask, ours.ark)))
    (tmp_path / "vcek.der").write_bytes(ours.vcek.public_bytes(Encoding.DER))
    pin = ours.ark.fingerprint(hashes.SHA256()).hex()
    (tmp_path / "policy.toml").write_text(
        f'{GOOD}chain = ["vcek.der", "amd.pem"]\nat = 2026-06-01T00:00:00Z\nproducts = ["Milan"]\n[arks]\nMilan = "{pin}"\n'
    )
    policy = Policy.read(tmp_path / "policy.toml")
    assert policy.chain == ours.chain
    assert verify(ours.report(DATA), policy, DATA).product == MILAN


def test_another_root_is_trusted_by_the_policys_fingerprint() -> None:
    ours = processor(TURIN)
    verdict = verify(ours.report(DATA), ours.policy(minimum_tcb=Tcb(fmc=1)), DATA)
    assert "fmc 1" in verdict.summary


def test_genoa_and_turin_are_the_default_and_milan_must_be_named() -> None:
    default = Policy(measurements=(MEASUREMENT.hex(),), initdata="any", minimum_tcb="any")
    assert default.products == (GENOA, TURIN)
    assert default.pins == {GENOA: ARKS[GENOA], TURIN: ARKS[TURIN]}
    assert default.warnings == ()
    assert dataclasses.replace(default, products=(GENOA, MILAN)).warnings == (WARNINGS[MILAN],)
    assert all("\n" not in warning for warning in WARNINGS.values())


# --- docs ------------------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "attestation.md").read_text(encoding="utf-8")


def test_the_pages_example_is_a_policy_with_every_key_listed(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.+?)```", PAGE, re.DOTALL)
    (tmp_path / "policy.toml").write_text(example)
    policy = Policy.read(tmp_path / "policy.toml")
    assert (policy.products, policy.warnings) == ((GENOA,), ())
    keys = {name.strip("[]") for name in re.findall(r"^\| `([\w\[\]]+)` \|", PAGE, re.MULTILINE)}
    assert {each.name for each in dataclasses.fields(Policy)} <= keys
    for product, default in (("Milan", "no: name it"), ("Genoa", "yes"), ("Turin", "yes")):
        assert re.search(rf"^\| {product}\b.*\| {default} \|.*`{ARKS[product][:16]}`", PAGE, re.MULTILINE)


# --- parsers ---------------------------------------------------------------------------------------------------------------

numbers = st.integers() | st.floats() | st.booleans() | st.none()
values = st.recursive(
    numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


def judged(evidence: Any) -> Verdict | None:
    try:
        return verify(evidence, processor().policy(), DATA)
    except AttestationError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 600
    return None


@few
@given(st.binary(max_size=2000) | st.binary(min_size=1184, max_size=1184))
def test_any_bytes_are_refused_properly(raw: bytes) -> None:
    assert judged(raw) is None


@few
@given(st.dictionaries(st.integers(0, 1183), st.integers(0, 255), min_size=1, max_size=8))
def test_a_damaged_report_is_refused_properly(changes: dict[int, int]) -> None:
    raw = processor().report(DATA)
    damaged = bytearray(raw)
    for index, byte in changes.items():
        damaged[index] = byte
    assert (judged(bytes(damaged)) is not None) == (bytes(damaged) == raw)


@few
@given(st.sampled_from(sorted(fields_of(report(curve_key("vcek"), DATA)))), values)
def test_a_field_of_anything_is_refused_properly(name: str, value: Any) -> None:
    evidence = processor().evidence(DATA)
    same = type(value) is type(evidence["attestation_report"][name]) and value == evidence["attestation_report"][name]
    evidence["attestation_report"][name] = value
    assert judged(evidence) is None or same or (name.startswith("cpuid") and not value)


@few
@given(
    st.dictionaries(
        st.sampled_from(["attestation_report", "cert_chain", "svn", "report_data"]) | st.text('aZ_0 "\\\0é\u2028', max_size=9),
        values,
    )
)
def test_json_of_anything_is_refused_properly(content: dict[str, Any]) -> None:
    assert judged(json.dumps(content).encode()) is None
    assert judged(content) is None


@few
@given(
    st.integers(0, 2), st.dictionaries(st.integers(0, 2000), st.integers(0, 255), min_size=1, max_size=6), st.integers(0, 2000)
)
def test_a_damaged_certificate_is_refused_properly(which: int, changes: dict[int, int], length: int) -> None:
    evidence = processor().evidence(DATA)
    data = evidence["cert_chain"][which]["data"]
    before = list(data)
    for index, byte in changes.items():
        data[index % len(data)] = byte
    if length < len(data) and length % 3 == 0:
        del data[length:]
    with_chain = processor().policy(chain=())
    try:
        verify(evidence, with_chain, DATA)
    except AttestationError:
        return
    assert data == before


@few
@given(st.binary(max_size=300))
def test_any_bytes_are_no_certificate(der: bytes) -> None:
    with pytest.raises(AttestationError):
        key_of(der)
    assert judged(processor().evidence(DATA) | {"cert_chain": [{"data": list(der)}]}) is None


@few
@given(st.binary(min_size=8, max_size=8), st.booleans())
def test_a_tcb_version_is_read_or_refused_for_its_reserved_bytes(raw: bytes, turin: bool) -> None:
    reserved = raw[4:7] if turin else raw[2:6]
    if any(reserved):
        with pytest.raises(AttestationError, match="reserved bytes of a TCB version"):
            Tcb.read(raw, turin)
    else:
        parts = dataclasses.asdict(Tcb.read(raw, turin))
        assert written({name: value for name, value in parts.items() if value is not None}) == raw
