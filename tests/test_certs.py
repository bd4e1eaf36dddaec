"""Development certificates, held against real TLS: who is believed, who is refused."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from workbench.certs import ROLES, Role, issue, role_of
from workbench.errors import UsageError, WorkbenchError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issue(folder)
    return folder


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes | None, str | None]:
    """Return the certificate that the server was shown, and its protocol, after a handshake and a byte each way."""
    near, far = socket.socketpair()
    result: list[tuple[bytes | None, str | None]] = []

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as tls:
                tls.sendall(tls.recv(1))
                result.append((tls.getpeercert(binary_form=True), tls.version()))
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as tls:
            tls.sendall(b"x")
            if tls.recv(1) != b"x":
                raise ssl.SSLError("closed")
    finally:
        near.close()
        thread.join(timeout=10)
    return result[0]


def serving(folder: Path, role: Role, asks: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / f"{role}.pem", folder / f"{role}.key")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


def calling(folder: Path, role: Role | None, trusts: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=(trusts or folder) / "ca.pem")
    if role:
        context.load_cert_chain(folder / f"{role}.pem", folder / f"{role}.key")
    return context


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
@pytest.mark.parametrize(("server", "client"), [("cloud", "edge"), ("edge", "client")])
def test_both_ends_are_known_to_each_other(made: Path, server: Role, client: Role, name: str) -> None:
    shown, version = shake(serving(made, server), calling(made, client), name)
    assert version == "TLSv1.3"
    assert shown is not None
    assert role_of(shown) == client


def test_another_name_a_foreign_authority_and_no_certificate_are_refused(made: Path, tmp_path: Path) -> None:
    issue(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        shake(serving(made, "cloud"), calling(made, "edge"), "elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer|self-signed|signature failure"):
        shake(serving(made, "cloud"), calling(made, "edge", trusts=tmp_path), "localhost")
    for caller in (calling(made, None), calling(tmp_path, "edge", trusts=made)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake(serving(made, "cloud"), caller, "localhost")


def test_a_phones_certificate_serves_nobody(made: Path) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake(serving(made, "client"), calling(made, "edge"), "localhost")


@pytest.mark.parametrize("shift", [-400, 400])
def test_an_expired_one_and_one_of_the_future_are_refused(tmp_path: Path, shift: int) -> None:
    issue(tmp_path, now=datetime.now(UTC) + timedelta(days=shift))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired|not yet valid"):
        shake(serving(tmp_path, "cloud", asks=False), calling(tmp_path, None), "localhost")


def test_renewed_ones_are_believed_by_who_trusts_the_authority(tmp_path: Path) -> None:
    first = issue(tmp_path)
    assert [path.name for path in first] == [f"{name}.{end}" for name in ("ca", *ROLES) for end in ("key", "pem")]
    before = {path: path.read_bytes() for path in first}
    old = calling(tmp_path, "edge")
    again = issue(tmp_path, roles=["cloud"])
    assert [path.name for path in again] == ["cloud.key", "cloud.pem"]
    assert {path for path in first if path.read_bytes() != before[path]} == set(again)
    shake(serving(tmp_path, "cloud"), old, "localhost")


def test_keys_are_their_owners_alone(made: Path) -> None:
    for path in made.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.suffix == ".key" else 0o644), path.name


def test_what_a_certificate_says(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "ca.pem").read_bytes())
    for role in ROLES:
        own = x509.load_pem_x509_certificate((made / f"{role}.pem").read_bytes())
        own.verify_directly_issued_by(authority)
        assert own.not_valid_after_utc - datetime.now(UTC) < timedelta(days=366)
        constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert not constraints.value.ca
    assert role_of(b"no certificate") is None
    assert role_of(authority.public_bytes(Encoding.DER)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 0}, "1 to 825 days, got 0"),
        ({"days": 826}, "1 to 825 days, got 826"),
        ({"names": ["a b"]}, "'a b' is neither a host name nor an address"),
        ({"names": ["grüße.example"]}, "written in ASCII"),
        ({"names": [""]}, "'' is neither"),
        ({"names": []}, "at least one host name"),
        ({"roles": ["phone"]}, "no role phone: choose among edge, cloud, client"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        issue(tmp_path / "new", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "ca.key").unlink(), "cannot be read"),
        (lambda f: (f / "ca.pem").write_text("x"), "cannot be read"),
        (lambda f: (f / "ca.key").write_bytes((f / "edge.key").read_bytes()), "not the key of ca.pem"),
    ],
)
def test_an_authority_that_does_not_fit_is_left_as_it_is(spoil: object, message: str, tmp_path: Path) -> None:
    issue(tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(WorkbenchError, match=message):
        issue(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_authority_that_has_expired_signs_nothing_more(tmp_path: Path) -> None:
    issue(tmp_path, days=1, now=datetime.now(UTC) - timedelta(days=11))
    with pytest.raises(UsageError, match="held until"):
        issue(tmp_path)
