"""Development certificates under real TLS: which peers are trusted, and which are refused."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.authority import BOTH, sign
from workbench.certs import ROLES, SERVER, Role, folder_of, issue, role_of
from workbench.errors import UsageError, WorkbenchError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issue(folder)
    return folder


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes | None, str | None]:
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
    context.load_cert_chain(folder / role / f"{role}.pem", folder / role / f"{role}.key")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


def calling(folder: Path, role: Role | None, trusts: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=(trusts or folder) / "ca.pem")
    if role:
        context.load_cert_chain(folder / role / f"{role}.pem", folder / role / f"{role}.key")
    return context


@pytest.mark.parametrize(("server", "client"), [("cloud", "edge"), ("edge", "client")])
def test_both_ends_are_known_to_each_other(made: Path, server: Role, client: Role) -> None:
    for name in ("localhost", "127.0.0.1", "::1"):
        shown, version = shake(serving(made, server), calling(made, client), name)
        assert (version, role_of(shown or b"")) == ("TLSv1.3", client), name


def test_wrong_names_authorities_and_no_certificate_are_refused(made: Path, tmp_path: Path) -> None:
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
    parts = [f"{role}/{name}" for role in ROLES for name in (f"{role}.key", f"{role}.pem", "ca.pem")]
    assert [str(path.relative_to(tmp_path)) for path in first] == ["authority/ca.key", "ca.pem", *parts]
    before = {path: path.read_bytes() for path in first}
    old = calling(tmp_path, "edge")
    again = issue(tmp_path, roles=["cloud"])
    assert [path.name for path in again] == ["cloud.key", "cloud.pem", "ca.pem"]
    assert {path for path in first if path.read_bytes() != before[path]} == set(again[:2]), "the same authority as before"
    shake(serving(tmp_path, "cloud"), old, "localhost")


def test_keys_are_their_owners_alone(made: Path) -> None:
    for path in made.rglob("*"):
        mode = 0o700 if path.is_dir() else 0o600 if path.suffix == ".key" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_what_a_certificate_says(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "ca.pem").read_bytes())
    for role in ROLES:
        own = x509.load_pem_x509_certificate((made / role / f"{role}.pem").read_bytes())
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
        ({"cloud_names": []}, "at least one host name"),
        ({"names": ["10.0.0.256"]}, "'10.0.0.256' is neither"),
        ({"names": ["*.local"]}, "stands for every host under 'local'"),
        ({"names": ["*"]}, "is neither"),
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
        (lambda f: (f / "authority/ca.key").unlink(), "cannot be read"),
        (lambda f: (f / "ca.pem").write_text("x"), "cannot be read"),
        (lambda f: (f / "authority/ca.key").write_bytes((f / "edge/edge.key").read_bytes()), "not the key of ca.pem"),
    ],
)
def test_an_authority_that_does_not_fit_is_left_as_it_is(spoil: object, message: str, tmp_path: Path) -> None:
    issue(tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    before = contents(tmp_path)
    with pytest.raises(WorkbenchError, match=message):
        issue(tmp_path)
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_of(path: Path) -> set[str]:
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return {*names.value.get_values_for_type(x509.DNSName), *map(str, names.value.get_values_for_type(x509.IPAddress))}


def test_edge_and_cloud_have_names_of_their_own(tmp_path: Path) -> None:
    issue(tmp_path, ["edge.example", "192.0.2.7"], cloud_names=["cloud.example"])
    assert names_of(tmp_path / "edge/edge.pem") == {"edge.example", "192.0.2.7"}
    assert names_of(tmp_path / "cloud/cloud.pem") == {"cloud.example"}
    assert names_of(tmp_path / "client/client.pem") == set()
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'edge.example'"):  # as in a browser
        shake(serving(tmp_path, "cloud", asks=False), calling(tmp_path, None), "edge.example")


@pytest.mark.parametrize(
    ("names", "reached", "elsewhere"),
    [
        (["*.site.example"], "edge.site.example", "a.edge.site.example"),
        (["Edge.Example", "2001:db8::1"], "2001:db8::1", "2001:db8::2"),
        (["edge.example", "192.0.2.7"], "192.0.2.7", "127.0.0.1"),
        (["edge.example"], "edge.example", "localhost"),
    ],
)
def test_names_of_every_kind_pass_their_authoritys_constraints(
    tmp_path: Path, names: list[str], reached: str, elsewhere: str
) -> None:
    issue(tmp_path, names)
    shake(serving(tmp_path, "edge"), calling(tmp_path, "client"), reached)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        shake(serving(tmp_path, "edge"), calling(tmp_path, "client"), elsewhere)


SHARED = (
    "edge.example edge.example", "edge.example EDGE.example", "192.0.2.7 192.0.2.7", "192.0.2.7 ::ffff:192.0.2.7",
    "2001:db8::1 2001:0db8:0:0::1", "*.site.example cloud.site.example", "edge.site.example *.site.example",
    "*.site.example *.site.example",
)  # fmt: skip


@pytest.mark.parametrize("names", SHARED)
def test_a_name_that_edge_and_cloud_would_share_is_refused(tmp_path: Path, names: str) -> None:
    edge, cloud = names.split()
    with pytest.raises(UsageError, match="would be a name of the edge and of the cloud.*--cloud-names"):
        issue(tmp_path / "new", [edge], cloud_names=["localhost", cloud])
    assert not (tmp_path / "new").exists()


def test_an_authority_signs_only_the_names_it_was_made_for(tmp_path: Path) -> None:
    issue(tmp_path, ["*.site.example", "192.0.2.7"])
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    permitted = {str(subtree.value) for subtree in constraints.value.permitted_subtrees or ()}
    assert permitted == {"site.example", "192.0.2.7/32", "localhost", "127.0.0.1/32", "::1/128"}
    issue(tmp_path, ["edge.site.example"], roles=["edge"])
    with pytest.raises(UsageError, match=r"was made for site.example.* and may not sign other.example\. Remove"):
        issue(tmp_path, ["other.example"])
    with pytest.raises(UsageError, match=r"may not sign 192.0.2.8"):
        issue(tmp_path, ["192.0.2.8"])


@pytest.mark.parametrize(
    "hosts", [["bank.example"], ["localhost", "bank.example"], ["192.0.2.9"], ["2001:db8::1"], ["notlocalhost"]]
)
def test_a_stolen_authority_key_is_limited_to_its_names(made: Path, tmp_path: Path, hosts: list[str]) -> None:
    sign(made, tmp_path / "edge", "edge", uris=["urn:pmc2:edge"], hosts=hosts)
    (tmp_path / "ca.pem").write_bytes((made / "ca.pem").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake(serving(tmp_path, "edge", asks=False), calling(made, None), hosts[-1])


def test_an_authority_without_constraints_signs_nothing(made: Path, tmp_path: Path) -> None:
    """An authority of an older version, moved into today's folders manually."""
    issue(tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "authority/ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    (tmp_path / "ca.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(UsageError, match=r"may sign every name.*Remove .*, make it again"):
        issue(tmp_path)


@pytest.mark.parametrize("others", [["ca"], ["ca", "edge", "cloud", "client"], ["edge", "cloud"]])
def test_a_folder_with_keys_of_several_roles_is_refused(made: Path, tmp_path: Path, others: list[str]) -> None:
    for name in others:
        source = made / ("authority" if name == "ca" else name) / f"{name}.key"
        (tmp_path / f"{name}.key").write_bytes(source.read_bytes())
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"side by side, as older versions made it.*`workbench certs .* \[--names"):
        issue(tmp_path)
    with pytest.raises(UsageError, match="side by side"):
        folder_of(tmp_path, "edge")
    assert contents(tmp_path) == before


def test_a_roles_folder_is_found_and_has_nothing_of_the_others(made: Path) -> None:
    for role in ROLES:
        own = folder_of(made, role)
        assert folder_of(own, role) == own
        assert sorted(path.name for path in own.iterdir()) == sorted(["ca.pem", f"{role}.key", f"{role}.pem"])


@pytest.mark.parametrize(
    ("uris", "uses", "role"),
    [
        (["urn:pmc2:edge"], BOTH, "edge"),
        ([], BOTH, None),
        (["urn:pmc2:edge", "urn:pmc2:cloud"], BOTH, None),
        (["urn:pmc2:edge:x"], BOTH, None),
        (["urn:pmc2:edge"], None, None),
        (["urn:pmc2:edge"], BOTH[1:], None),
    ],
)
def test_a_certificate_without_one_role_and_its_use_has_no_role(
    made: Path, tmp_path: Path, uris: list[str], uses: tuple[x509.ObjectIdentifier, ...] | None, role: Role | None
) -> None:
    sign(made, tmp_path, "x", uris=uris, uses=uses)
    assert role_of(x509.load_pem_x509_certificate((tmp_path / "x.pem").read_bytes()).public_bytes(Encoding.DER), SERVER) == role


def test_an_authority_that_has_expired_signs_nothing_more(tmp_path: Path) -> None:
    issue(tmp_path, days=1, now=datetime.now(UTC) - timedelta(days=11))
    with pytest.raises(UsageError, match="held until"):
        issue(tmp_path)
