"""A simulated processor: ARK, ASK and VCEK (or ASVK and VLEK) like AMD's, and the reports that it signs."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from workbench.attest import Policy, Tcb

PRIMES = Path(__file__).with_name("primes.txt")
MEASUREMENT, HOST_DATA, CHIP = bytes(range(48)), bytes(range(100, 132)), bytes(range(64, 128))
PROVIDER = "CN=cc-us-east-2.amazonaws.com"  # the form of a csp_id
TCB = {"boot_loader": 4, "tee": 1, "snp": 22, "microcode": 213}
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
OID = "1.3.6.1.4.1.3704.1."

# The offset and the length of a report's fields.
PLACES = {
    "version": (0x000, 4), "policy": (0x008, 8), "vmpl": (0x030, 4), "algorithm": (0x034, 4), "key_info": (0x048, 4),
    "report_data": (0x050, 64), "measurement": (0x090, 48), "host_data": (0x0C0, 32), "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3), "chip_id": (0x1A0, 64),
}  # fmt: skip


@functools.cache
def key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    """Return an RSA key by name. The primes of 4096-bit keys are in a file, because finding them takes a second."""
    if bits != 4096:
        return rsa.generate_private_key(65537, bits)
    p, q = _primes()[name]
    public, d = rsa.RSAPublicNumbers(65537, p * q), pow(65537, -1, (p - 1) * (q - 1))
    parts = d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    return rsa.RSAPrivateNumbers(p, q, *parts).private_key(unsafe_skip_rsa_key_validation=True)


@functools.cache
def _primes() -> dict[str, tuple[int, int]]:
    lines = PRIMES.read_text(encoding="ascii").splitlines()
    return {name: (int(p, 16), int(q, 16)) for name, p, q in (line.split() for line in lines if not line.startswith("#"))}


@functools.cache
def curve_key(name: str, p384: bool = True) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1() if p384 else ec.SECP256R1())


def certificate(
    subject: str,
    issuer: str,
    public: Any,
    signer: rsa.RSAPrivateKey,
    extensions: dict[str, bytes] | None = None,
    *,
    authority: bool | None = True,
    days: tuple[int, int] = (-100, 100),
    scheme: tuple[Any, Any] | None = None,
) -> x509.Certificate:
    """Return a certificate like AMD's, unless parameters change it. `days` are from now, `scheme` is padding and hash."""
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW + timedelta(days=days[0])).not_valid_after(NOW + timedelta(days=days[1]))
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    for suffix, value in (extensions or {}).items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(OID + suffix), value), critical=False)
    how, digest = scheme or (padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    return builder.sign(signer, digest, rsa_padding=how)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def integer(value: int) -> bytes:
    """Encode an INTEGER (DER)."""
    return bytes((2, 1, value)) if value < 128 else bytes((2, 2, 0, value))


def own_words(product: str, tcb: dict[str, int], chip: bytes = b"", provider: str = "") -> dict[str, bytes]:
    """Return the extensions of a VCEK, or of a provider's VLEK, which names no stepping and no processor."""
    suffixes = {"boot_loader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
    versions = {suffixes[part]: integer(value) for part, value in tcb.items()}
    identity = {"5": text(provider)} if provider else {"4": chip[:8] if product == "Turin" else chip}
    return {"1": integer(0), "2": text(product if provider else f"{product}-B0"), **versions, **identity}


def text(content: str) -> bytes:
    """Encode an IA5String (DER)."""
    return bytes((0x16, len(content))) + content.encode()


@dataclass(frozen=True)
class Processor:
    """A processor, its certificates and its key. With a provider, `vcek` is the provider's VLEK and `ask` the ASVK."""

    product: str
    ark: x509.Certificate
    ask: x509.Certificate
    vcek: x509.Certificate
    signer: ec.EllipticCurvePrivateKey = field(repr=False)
    tcb: dict[str, int] = field(default_factory=lambda: TCB)
    provider: str = ""

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(each.public_bytes(Encoding.DER) for each in (self.vcek, self.ask, self.ark))

    def policy(self, **changes: Any) -> Policy:
        """Return a policy that accepts the processor's reports."""
        pins = {self.product: self.ark.fingerprint(hashes.SHA256()).hex()}
        asked: dict[str, Any] = {"measurements": (MEASUREMENT.hex(),), "initdata": HOST_DATA.hex(), "at": NOW, "arks": pins}
        asked["minimum_tcb"] = Tcb(snp=1)
        if self.provider:
            asked |= {"signing_key": "VLEK", "provider": self.provider}
        return Policy(**(asked | {"products": (self.product,), "chain": self.chain} | changes))

    def report(self, data: bytes = b"", **changes: Any) -> bytes:
        """Return a signed report. `changes` are as in `report`."""
        chip = CHIP[:8].ljust(64, b"\0") if self.product == "Turin" else CHIP
        said: dict[str, Any] = {"reported_tcb": written(self.tcb), "cpuid": bytes(CPUID[self.product]), "chip_id": chip}
        if self.provider:  # as on AWS: signed with the VLEK, and the chip is masked
            said |= {"key_info": 1 << 2, "chip_id": bytes(64)}
        return report(self.signer, data, **(said | changes))

    def evidence(self, data: bytes = b"", **changes: Any) -> dict[str, Any]:
        """Return evidence in the agent's form, with the whole chain."""
        kinds = ("VLEK" if self.provider else "VCEK", "ASK", "ARK")
        chain = [{"cert_type": kind, "data": list(der)} for kind, der in zip(kinds, self.chain, strict=True)]
        return {"attestation_report": fields_of(self.report(data, **changes)), "cert_chain": chain}


@functools.cache
def processor(product: str = "Milan", provider: str = "") -> Processor:
    """Return the cached processor of a product. With a provider it signs with a VLEK."""
    tcb = TCB | ({"fmc": 1} if product == "Turin" else {})
    ark, ask, own = key("ark"), key("asvk" if provider else "ask"), curve_key("vlek" if provider else "vcek")
    root, middle, leaf = f"ARK-{product}", f"SEV-{product}", "SEV-VCEK"
    if provider:
        middle, leaf = f"SEV-VLEK-{product}", "SEV-VLEK"
    return Processor(
        product,
        certificate(root, root, ark.public_key(), ark),
        certificate(middle, root, ask.public_key(), ark),
        certificate(leaf, middle, own.public_key(), ask, own_words(product, tcb, CHIP, provider), authority=None),
        own,
        tcb,
        provider,
    )


def written(tcb: dict[str, int]) -> bytes:
    """Return the eight bytes of a TCB version."""
    if "fmc" in tcb:
        return bytes((tcb["fmc"], tcb["boot_loader"], tcb["tee"], tcb["snp"], 0, 0, 0, tcb["microcode"]))
    return bytes((tcb["boot_loader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"], tcb["microcode"]))


def report(signer: ec.EllipticCurvePrivateKey | None, data: bytes = b"", **changes: Any) -> bytes:
    """Return a report with the given fields, by the names of `PLACES` or by an offset (`at_0x18b`).

    A given signer signs it last.
    """
    said: dict[str, Any] = {"version": 3, "policy": 0x30000, "algorithm": 1, "report_data": data.ljust(64, b"\0")}
    said |= {"measurement": MEASUREMENT, "host_data": HOST_DATA, "chip_id": CHIP, "reported_tcb": written(TCB)} | changes
    raw = bytearray(1184)
    for name, value in said.items():
        offset, size = PLACES[name] if name in PLACES else (int(name.removeprefix("at_"), 16), 1)
        raw[offset : offset + size] = value.to_bytes(size, "little") if isinstance(value, int) else value
    if signer is not None:
        for index, number in enumerate(decode_dss_signature(signer.sign(bytes(raw[:0x2A0]), ec.ECDSA(hashes.SHA384())))):
            raw[0x2A0 + 72 * index : 0x2A0 + 72 * (index + 1)] = number.to_bytes(72, "little")
    return bytes(raw)


def fields_of(raw: bytes) -> dict[str, Any]:
    """Return a report as the agent's JSON."""
    turin = raw[0x188] >= 0x1A

    def number(offset: int, size: int) -> int:
        return int.from_bytes(raw[offset : offset + size], "little")

    def data(offset: int, size: int) -> list[int]:
        return list(raw[offset : offset + size])

    def tcb(offset: int) -> dict[str, int | None]:
        places = (0, 1, 2, 3, 7) if turin else (None, 0, 1, 6, 7)
        names = ("fmc", "bootloader", "tee", "snp", "microcode")
        return {name: None if at is None else raw[offset + at] for name, at in zip(names, places, strict=True)}

    def version(offset: int) -> dict[str, int]:
        return dict(zip(("build", "minor", "major"), raw[offset : offset + 3], strict=True))

    cpuid = raw[0x188:0x18B] if raw[0] >= 3 else (None, None, None)
    fields: dict[str, Any] = {"version": number(0, 4), "guest_svn": number(4, 4), "policy": number(8, 8)}
    fields |= {"family_id": data(0x10, 16), "image_id": data(0x20, 16), "vmpl": number(0x30, 4), "sig_algo": number(0x34, 4)}
    fields |= {"current_tcb": tcb(0x38), "plat_info": number(0x40, 8), "key_info": number(0x48, 4)}
    fields |= {"report_data": data(0x50, 64), "measurement": data(0x90, 48), "host_data": data(0xC0, 32)}
    fields |= {"id_key_digest": data(0xE0, 48), "author_key_digest": data(0x110, 48), "report_id": data(0x140, 32)}
    fields |= {"report_id_ma": data(0x160, 32), "reported_tcb": tcb(0x180)}
    fields |= dict(zip(("cpuid_fam_id", "cpuid_mod_id", "cpuid_step"), cpuid, strict=True))
    fields |= {"chip_id": data(0x1A0, 64), "committed_tcb": tcb(0x1E0), "current": version(0x1E8)}
    fields |= {"committed": version(0x1EC), "launch_tcb": tcb(0x1F0)}
    fields |= {"signature": {"r": data(0x2A0, 72), "s": data(0x2E8, 72)}}
    if raw[0] >= 5:
        fields |= {"launch_mit_vector": number(0x1F8, 8), "current_mit_vector": number(0x200, 8)}
    return json.loads(json.dumps(fields))  # type: ignore[no-any-return]
