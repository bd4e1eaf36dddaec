"""Plain requests in the forms of curl, browsers and programs: forms with pictures and parameters, and encoded bodies."""

from __future__ import annotations

import gzip
import http.client
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.services import Answered, Both, ask
from workbench.errors import ProtocolError
from workbench.services.forms import PARAMETERS, form_of
from workbench.services.trust import client_context

EDGE = {"least_strength": 0.0}
FORM = {"Content-Type": "multipart/form-data; boundary=seam"}
PICTURE = 'Content-Disposition: form-data; name="file"; filename="x.jpg"\r\nContent-Type: image/jpeg'
EMPTY = 'Content-Disposition: form-data; name="file"; filename=""\r\nContent-Type: application/octet-stream'


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


def form(*parts: tuple[str, bytes]) -> bytes:
    return (
        b"".join(b"--seam\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--seam--\r\n"
    )


def sent(both: Both, *parts: tuple[str, bytes], headers: Mapping[str, str] | None = None) -> Answered:
    return ask(both.edge.url, "/recognize", form(*parts), both.certs, headers={**FORM, **(headers or {})})


def error(answer: Answered) -> str:
    assert answer.status == 400
    return str(answer.json["error"])


def test_the_strength_may_be_a_field(both: Both, files: list[bytes]) -> None:
    by_header = ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Strength": "0"})
    assert by_header.status == 200
    assert by_header.json["results"] != ask(both.edge.url, "/recognize", files[0], both.certs).json["results"]
    for text in (b"0", b" 0\n", b"0.0", b"-0"):
        by_field = sent(both, (PICTURE, files[0]), (field("strength"), text))
        assert by_field.json["results"] == by_header.json["results"], text


def test_fields_may_stand_before_and_between_pictures(both: Both, files: list[bytes]) -> None:
    answer = sent(
        both,
        (field("id"), b"a-form"),
        (PICTURE, files[0]),
        (field("strength"), b"0"),
        (EMPTY, b""),
        (PICTURE, files[1]),
        (field("timeout"), b"20"),
        (field("show"), b"cloud"),
    )
    assert answer.status == 200
    assert (answer.json["id"], len(answer.json["results"]), len(answer.json["cloud_picture"])) == ("a-form", 2, 2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("strength", b"much", "the field strength must be a number"),
        ("strength", b"", "the field strength must be a number"),
        ("strength", b"2", "strength must be between 0"),
        ("strength", b"nan", "strength must be between 0"),
        ("strength", b"1" * 300, "field strength must be text of at most 256 bytes"),
        ("strength", b"\xff", "the form's field strength must be text"),
        ("timeout", b"0", "timeout must be a number above 0"),
        ("timeout", b"soon", "the field timeout must be a number"),
        ("show", b"edge", "can only be 'cloud'"),
        ("strenght", b"1", "the form's field 'strenght' is unknown; fields are strength, rate, timeout, id, show, and files"),
        ("X-Strength", b"1", "the form's field 'X-Strength' is unknown"),
        ("", b"1", "the form's field '' is unknown"),
        ("pictures[]", b"\xff\xd8", "the form's field 'pictures[]' is unknown"),
    ],
)
def test_a_field_that_cannot_be_is_named(both: Both, files: list[bytes], name: str, text: bytes, message: str) -> None:
    assert message in error(sent(both, (PICTURE, files[0]), (field(name), text)))


def test_a_parameter_is_given_once(both: Both, files: list[bytes]) -> None:
    for name, header in PARAMETERS.items():
        value = b"cloud" if name == "show" else b"1"
        twice = sent(both, (PICTURE, files[0]), (field(name), value), (field(name), value))
        assert f"the form's field {name} comes twice" in error(twice)
        apart = sent(both, (PICTURE, files[0]), (field(name), value), headers={header: value.decode()})
        assert f"{name} is given twice, as the header {header} and as a field" in error(apart)


def test_a_header_is_given_once(both: Both, files: list[bytes]) -> None:
    port = urlsplit(both.edge.url).port
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=client_context(both.certs, "client"))
    connection.putrequest("POST", "/recognize")
    for value in ("0", "1"):
        connection.putheader("X-Strength", value)
    connection.putheader("Content-Length", str(len(files[0])))
    connection.endheaders(files[0])
    answer = connection.getresponse()
    assert (answer.status, b"the header X-Strength comes 2 times" in answer.read()) == (400, True)
    connection.close()


@pytest.mark.parametrize(
    "head",
    [
        PICTURE,
        PICTURE.replace('"', ""),
        PICTURE.upper().replace("FORM-DATA; NAME", "form-data; name").replace("FILENAME", "filename"),
        'Content-Disposition: form-data; name="blob"; filename="blob"',
        'Content-Disposition: form-data; name="p"\r\nContent-Type: image/jpeg',
        'Content-Disposition: form-data; name="p"\r\nContent-Type: application/octet-stream',
        'Content-Disposition: form-data; name="p"; filename="ä.jpg"\r\nContent-Transfer-Encoding: binary',
        'Content-Disposition: form-data; name="strength"; filename="strength.jpg"',
        "Content-Type: image/jpeg",
    ],
)
def test_a_file_is_a_picture_however_it_is_described(both: Both, files: list[bytes], head: str) -> None:
    answer = sent(both, (head, files[0]))
    assert (answer.status, len(answer.json["results"])) == (200, 1)


def test_a_form_without_a_picture_is_refused(both: Both) -> None:
    forms: tuple[list[tuple[str, bytes]], ...]
    forms = ([], [(EMPTY, b"")], [(field("strength"), b"1")], [(EMPTY, b""), (field("id"), b"x")])
    for parts in forms:
        assert error(sent(both, *parts)) in ("the form holds no picture", "the form cannot be read (MultipartParseError)")


def test_a_file_that_is_empty_is_no_input_that_was_left_empty(both: Both, files: list[bytes]) -> None:
    assert "picture 0 bytes cannot be read" in error(sent(both, (PICTURE, files[0]), (PICTURE, b"")))


def test_a_part_in_a_coding_is_named(both: Both, files: list[bytes]) -> None:
    codings = {
        "Content-Transfer-Encoding": "base64",
        "content-transfer-encoding": "quoted-printable",
        "Content-Encoding": "gzip",
    }
    for header, coding in codings.items():
        answer = sent(both, (f"{PICTURE}\r\n{header}: {coding}", files[0]))
        assert f"the part 'file' is in the coding b'{coding}'" in error(answer)


def test_false_boundaries_do_not_cost_the_parser_time() -> None:
    body = form((PICTURE, b"\r\n--seamX" * 100_000))
    with pytest.raises(ProtocolError, match="this form has more"):
        form_of(body, FORM["Content-Type"], 256)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_sends_a_form(both: Both, files: list[bytes], tmp_path: Path) -> None:
    picture = tmp_path / "x.jpg"
    picture.write_bytes(files[0])
    own = both.certs / "client"
    command = ["curl", "-sS", "--cacert", own / "ca.pem", "--cert", own / "client.pem", "--key", own / "client.key"]
    command += ["-F", f"file=@{picture}", "-F", "strength=0", f"{both.edge.url}/recognize"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert '"results"' in result.stdout


def test_a_body_in_a_coding_is_refused_before_it_is_read(both: Both, files: list[bytes]) -> None:
    codings = ("gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "compress", "identity, gzip", "gzip, gzip", ",x")
    infer = ("/v2/models/resnet18/infer", "/v2/models/resnet18/versions/aaaaaaaaaaaaaaaa/infer")
    for path, coding in (*(("/recognize", coding) for coding in codings), *((path, "gzip") for path in infer)):
        answer = ask(both.edge.url, path, gzip.compress(files[0]), both.certs, headers={"Content-Encoding": coding})
        assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity"), (path, coding)
        assert answer.json["error"].endswith("is not read: send the body without a coding")


def test_identity_is_no_coding(both: Both, files: list[bytes]) -> None:
    for coding in ("identity", "Identity", "", "identity, identity"):
        headers = {"Content-Encoding": coding}
        assert ask(both.edge.url, "/recognize", files[0], both.certs, headers=headers).status == 200, coding


def test_the_cloud_refuses_codings_too(both: Both) -> None:
    headers = {"Content-Encoding": "deflate"}
    answer = ask(both.cloud.url, "/v2/models/resnet18/infer", zlib.compress(b"{}"), both.certs, "edge", headers)
    assert answer.status == 415


def test_the_role_is_checked_before_the_body(both: Both) -> None:
    answer = ask(both.edge.url, "/recognize", b"x", both.certs, "edge", {"Content-Encoding": "gzip"})
    assert answer.status == 403
