"""The client's attestation policy: requirements on the evidence of an edge, given in code or in a TOML file.

The edge runs in a guest, a confidential virtual machine. The edge's evidence is a report on the guest. It is signed with a
processor's key (VCEK) or a cloud provider's key (VLEK). AMD's root (ARK) certifies this key through an intermediate authority
(ASK or ASVK).
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import AttestationError, UsageError, unknown
from .certificates import load
from .products import ARKS, DEFAULT_PRODUCTS, PRODUCTS, WARNINGS, der_blocks
from .report import Tcb

__all__ = ["Policy"]

EVIDENCE_KINDS = ("snp", "sample")
ANY = "any"
TCB_PARTS = ("boot_loader", "tee", "snp", "microcode")
SIGNING_KEYS = ("VCEK", "VLEK")
MOST_PROVIDER = 128  # characters
MOST_FILE = 1 << 20  # bytes of a policy, and of a file of certificates
MOST_CERTIFICATES = 32

TEMPLATE = """\
# What the edge's evidence must prove before a picture leaves this machine. All keys; a leading # marks a default.
#   workbench recognize cat.png --certs data/certs --policy policy.toml

kind = "snp"                   # AMD SEV-SNP; "sample": evidence of the runtime for development, WHICH PROVES NOTHING

measurements = [               # accepted SHA-384 of the guest at its start: kernel, agent and their parameters
  "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
]
initdata = "..."               # SHA-256 of the guest's initdata (the report's HOST_DATA), as `workbench launch` names it: the
                               # agent's policy and the image. "any" trusts every image and policy that the host chooses

# products = ["Genoa", "Turin"]  # trusted processors; "Milan" must be named, because software alone can forge its evidence
# signing_key = "VCEK"         # "VLEK": the key that AMD issues to a cloud provider, which its hosts share; needs `provider`
# provider = ""                # the VLEK's csp_id, such as "CN=cc-us-east-2.amazonaws.com"
# chain = []                   # certificates, PEM or DER files relative to this one: the processor's VCEK (or the VLEK) if the
                               # evidence lacks it, and other authorities than AMD's ARK, ASK and ASVK, which are built in
# debug = false                # allow a guest whose memory its host may read
# vmpl = 0                     # the privilege level that requested the report, 0 to 3
# masked_chip_id = false       # allow a host that hides its processor's number
# allow_expired = false        # accept certificates that are not valid (any more)
# at = 2026-01-31T12:00:00Z    # the time at which they must be valid; default: now

[minimum_tcb]                  # the oldest firmware that is trusted, from AMD's security bulletins; all zero is refused, and
boot_loader = 0                # minimum_tcb = "any" (in place of this table, above it) trusts firmware with published faults
tee = 0
snp = 0
microcode = 0
# fmc = 0                      # of Turin only

# [arks]                       # SHA-256 of a product's root certificate (ARK), in place of the built-in one
# Turin = "..."
"""


@dataclass(frozen=True)
class Policy:
    """The requirements on evidence. Raises UsageError for missing or invalid values.

    kind: "snp" or "sample". Sample evidence comes from the development runtime and proves nothing. A sample policy must leave
        all other fields at their defaults. A policy of kind "snp" accepts no sample evidence.
    measurements: accepted launch measurements of the guest, SHA-384 in hexadecimal; at least one.
    initdata: SHA-256 of the guest's configuration (initdata) in hexadecimal, or "any" to accept every configuration; required.
    products: trusted generations of processors. Milan must be named explicitly; `warnings` gives the reason.
    signing_key: "VCEK", the key of one processor, or "VLEK", a key that AMD issues to a cloud provider.
    provider: the exact csp_id in the VLEK's certificate; required with "VLEK", forbidden with "VCEK".
    chain: certificates (DER) in addition to the certificates in the evidence. If neither contains an authority's certificate
        (ARK, ASK or ASVK), AMD's certificates in this package are used.
    minimum_tcb: the oldest trusted firmware versions, or "any" to trust all; required.
    debug: accept a guest that its host may debug.  vmpl: the guest's privilege level that requested the report, 0 to 3.
    masked_chip_id: accept a report that does not name its processor.
    allow_expired: accept certificates that are not valid at the time `at`.
    at: the time, with a time zone, at which certificates must be valid (None: now).
    arks: {product: SHA-256 of its root certificate (ARK) in hexadecimal}. They replace the built-in digests.
    """

    kind: str = "snp"
    measurements: tuple[str, ...] = ()
    initdata: str = ""
    products: tuple[str, ...] = DEFAULT_PRODUCTS
    signing_key: str = "VCEK"
    provider: str = ""
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    minimum_tcb: Tcb | str | None = None
    debug: bool = False
    vmpl: int = 0
    masked_chip_id: bool = False
    allow_expired: bool = False
    at: datetime | None = None
    arks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in EVIDENCE_KINDS:
            raise unknown("kind of evidence", self.kind, EVIDENCE_KINDS)
        if self.kind == "sample":
            self._check_sample()
            return
        _check_digests("measurements", self.measurements, 48)
        if not self.measurements:
            raise UsageError("a policy needs the measurement of at least one guest: measurements = [...]")
        self._check_required()
        self._check_products()
        self._check_signing_key()
        if self.vmpl not in range(4):
            raise UsageError(f"vmpl is from 0 to 3, got {self.vmpl}")
        if self.at is not None and self.at.tzinfo is None:
            raise UsageError(f"at = {self.at} has no time zone: write Z behind it")
        if len(self.chain) > MOST_CERTIFICATES:
            raise UsageError(f"a policy has at most {MOST_CERTIFICATES} certificates in its chain, got {len(self.chain)}")

    def _check_sample(self) -> None:
        for each in dataclasses.fields(self):
            default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
            if each.name != "kind" and getattr(self, each.name) != default:
                raise UsageError(f"sample evidence proves nothing, so a policy of that kind cannot ask for {each.name}")

    def _check_required(self) -> None:
        if not self.initdata:
            raise UsageError(
                "a policy needs initdata: the measurement alone accepts every image and agent's policy that the host chooses. "
                f"`workbench launch` names the digest of its edge; initdata = {ANY!r} accepts them all"
            )
        if self.initdata != ANY:
            _check_digests("initdata", (self.initdata,), 32)
        if self.minimum_tcb != ANY and not (isinstance(self.minimum_tcb, Tcb) and any(vars(self.minimum_tcb).values())):
            raise UsageError(
                "a policy needs minimum_tcb, the oldest firmware that is trusted, above zero: older firmware has published "
                f"faults that forge evidence. AMD's security bulletins name the versions; minimum_tcb = {ANY!r} accepts all"
            )

    def _check_products(self) -> None:
        if not self.products:
            raise UsageError(f"a policy needs at least one of the products {', '.join(PRODUCTS)}")
        for name in (*self.products, *self.arks):
            if name not in PRODUCTS:
                raise unknown("product", name, PRODUCTS)
        for name, pin in self.arks.items():
            _check_digests(f"arks.{name}", (pin,), 32)

    def _check_signing_key(self) -> None:
        if self.signing_key not in SIGNING_KEYS:
            raise unknown("signing key", self.signing_key, SIGNING_KEYS)
        if self.signing_key == "VLEK" and not self.provider:
            raise UsageError('signing_key = "VLEK" needs the provider: provider = "CN=cc-us-east-2.amazonaws.com", for example')
        if self.signing_key == "VCEK" and self.provider:
            raise UsageError(f'provider = {self.provider[:60]!r} is for signing_key = "VLEK": a VCEK names no provider')
        if not (self.provider.isascii() and self.provider.isprintable() and len(self.provider) <= MOST_PROVIDER):
            raise UsageError(f"provider must be at most {MOST_PROVIDER} printable ASCII characters, got {self.provider[:60]!r}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about published attacks on the trusted products. Each warning is one sentence."""
        return tuple(WARNINGS[name] for name in self.products if self.kind == "snp" and name in WARNINGS)

    @property
    def pins(self) -> dict[str, str]:
        """The trusted root certificates, as {product: SHA-256 in hexadecimal}."""
        known = {**ARKS, **{name: pin.lower() for name, pin in self.arks.items()}}
        return {name: known[name] for name in self.products}

    @property
    def oldest_tcb(self) -> Tcb:
        """The oldest trusted firmware versions. If `minimum_tcb` is "any", all versions are zero."""
        return self.minimum_tcb if isinstance(self.minimum_tcb, Tcb) else Tcb()

    @property
    def time(self) -> datetime:
        return self.at or datetime.now(UTC)

    @staticmethod
    def template() -> str:
        """Return the text of a policy file with every key and a comment on each."""
        return TEMPLATE

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read a policy from a TOML file. Raises UsageError, which names the file, for an invalid policy."""
        try:
            content = tomllib.loads(_bytes(path).decode("utf-8-sig"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{path} is no TOML file ({' '.join(str(error).split())[:200]})") from None
        try:
            return cls(**{name: _value(path, name, value) for name, value in _known(content, cls).items()})
        except UsageError as error:
            raise UsageError(f"{path}: {error}; `workbench init-deployment --policy FILE` writes one with every key") from None


def _known(content: dict[str, Any], kind: type[Any], within: str = "") -> dict[str, Any]:
    names = [each.name for each in dataclasses.fields(kind)]
    for name in content:
        if name not in names:
            raise unknown("key", f"{within}{name}", [f"{within}{each}" for each in names])
    return content


def _value(path: Path, name: str, value: Any) -> Any:
    if name in ("measurements", "products", "chain"):
        texts = _list(name, value)
        return tuple(der for text in texts for der in _certificates(path.parent / text)) if name == "chain" else texts
    if name == "minimum_tcb" and value == ANY:
        return ANY
    if name == "minimum_tcb":
        if isinstance(value, dict) and (missing := [part for part in TCB_PARTS if part not in value]):
            raise UsageError(f"minimum_tcb.{missing[0]} is missing: a part that is left out would accept every version of it")
        return Tcb(**{part: _checked(f"{name}.{part}", number, int) for part, number in _table(name, value, Tcb).items()})
    if name == "arks":
        return {product: _checked(f"{name}.{product}", pin, str) for product, pin in _table(name, value).items()}
    types: dict[str, type] = {"kind": str, "initdata": str, "signing_key": str, "provider": str, "vmpl": int, "at": datetime}
    return _checked(name, value, types.get(name, bool))


def _checked(name: str, value: Any, kind: type) -> Any:
    words = {
        str: "a text",
        int: "a number from 0 to 255",
        bool: "true or false",
        datetime: "a time such as 2026-01-31T12:00:00Z",
    }
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 256):
        raise UsageError(f"{name} must be {words[kind]}, got {str(value)[:60]!r}")
    return value


def _list(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"{name} must be a list of texts, got {str(value)[:60]!r}")
    return tuple(_checked(f"{name}[{index}]", each, str) for index, each in enumerate(value))


def _table(name: str, value: Any, kind: type[Any] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{name} must be a table, got {str(value)[:60]!r}")
    return value if kind is None else _known(value, kind, f"{name}.")


def _check_digests(name: str, texts: tuple[str, ...], size: int) -> None:
    for text in texts:
        if not re.fullmatch(f"[0-9a-fA-F]{{{2 * size}}}", text):
            raise UsageError(f"{name} must be {size} bytes in hexadecimal, got {text[:24]!r} ({len(text)} characters)")


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    if len(content) > MOST_FILE:
        raise UsageError(f"{path} is longer than {MOST_FILE} bytes: it is no policy and no certificate")
    return content


def _certificates(path: Path) -> list[bytes]:
    content = _bytes(path)
    try:
        certificates = der_blocks(content) or [content]
        for der in certificates:
            load(der, path.name)
        return certificates
    except (ValueError, AttestationError):
        raise UsageError(f"{path} holds no certificates, or one that cannot be read: PEM or DER is expected") from None
