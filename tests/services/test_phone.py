"""The phone's page: access to its files, their headers, which pages may send requests, and the cloud's view."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from tests.support.services import (
    SECRET,
    Answered,
    Both,
    Log,
    ask,
    both_of,
    cloud_of,
    edge_of,
    form_of,
    measured,
    occupied,
    serving,
)
from tests.support.waiting import until
from workbench.codecs import Codec, Neural, Png
from workbench.data import Dataset
from workbench.pictures import to_uint8
from workbench.protocol import read_request
from workbench.services import edge as edge_module
from workbench.services import http
from workbench.services.attestation_agent import AttestationAgent
from workbench.services.intake import Intake
from workbench.services.phone import HEADERS, MEDIA_TYPES, POLICY, STATIC, PayloadSlice, decode_view
from workbench.services.trust import Token
from workbench.services.types import MOST_SHOWN
from workbench.weights import Pair

WITH_TOKEN = {"Authorization": f"Bearer {SECRET}"}
EDGE = {"token": Token(SECRET.encode()), "intake": Intake(200_000)}
SHOW = {"X-Show": "cloud"}
FILES = sorted(path.name for path in STATIC.iterdir())
PATHS = ["/" if name == "index.html" else f"/{name}" for name in FILES]


def stranger(both: Both, path: str, method: str = "GET", **headers: str) -> Answered:
    return ask(both.edge.url, path, None, both.certs, None, headers, method)


@pytest.mark.parametrize(("name", "path"), list(zip(FILES, PATHS, strict=True)), ids=FILES)
def test_a_file_is_given_to_everyone_under_strict_headers(both: Both, name: str, path: str) -> None:
    answer = stranger(both, path)
    assert answer.status == 200
    assert answer.body == (STATIC / name).read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert {header: answer.headers[header.lower()] for header in HEADERS} == HEADERS
    assert not [header for header in answer.headers if header.startswith("access-control-")]
    head = stranger(both, path, "HEAD")
    assert (head.status, head.body, head.headers["etag"]) == (200, b"", answer.headers["etag"])
    again = stranger(both, path, **{"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_the_policy_lets_a_page_do_what_it_must_and_nothing_else() -> None:
    rules = dict(part.strip().split(" ", 1) for part in POLICY.split(";"))
    assert rules.pop("img-src") == "'self' blob:"
    own = ("script-src", "style-src", "connect-src", "worker-src", "manifest-src")
    none = ("default-src", "base-uri", "form-action", "frame-ancestors")
    assert rules == dict.fromkeys(own, "'self'") | dict.fromkeys(none, "'none'")


def test_a_file_that_a_browser_has_is_not_sent_again(both: Both) -> None:
    path = PATHS[-1]
    mark = stranger(both, path).headers["etag"]
    for known in (mark, f"W/{mark}", f'"another", {mark}', "*"):
        answer = stranger(both, path, **{"If-None-Match": known})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-cache"
    assert stranger(both, path, **{"If-None-Match": f'{mark[:-2]}"'}).status == 200


def test_the_page_keeps_to_its_own_host_and_content_policy() -> None:
    for name in FILES:
        text = (STATIC / name).read_text(encoding="utf-8")
        assert set(re.findall(r"\b(?:https?|wss?|data):[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.findall(r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write", text), name
        if name.endswith(".js"):
            assert set(re.findall(r'from "([^"]+)"', text)) <= {f"./{other}" for other in FILES}, name
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
    assert set(re.findall(r'(?:href|src)="([^"]+)"', page)) <= set(PATHS)


def test_the_service_worker_keeps_exactly_the_pages_files() -> None:
    text = (STATIC / "worker.js").read_text(encoding="utf-8")
    found = re.search(r"const FILES = \[(.*?)\];", text, re.DOTALL)
    assert found is not None
    assert sorted(re.findall(r'"([^"]+)"', found[1])) == sorted(set(PATHS) - {"/worker.js"})


def test_the_elements_that_the_page_looks_for_are_there() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    there = re.findall(r'\sid="([^"]+)"', page)
    assert len(there) == len(set(there))
    wanted = {
        name for path in STATIC.glob("*.js") for name in re.findall(r'byId\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert wanted
    assert wanted <= set(there)


def test_other_paths_are_not_there(both: Both) -> None:
    paths = ("/index.html", "/phone.py", "/static/phone.js", "/../phone.js", "/phone.js/", "/%2e%2e/edge.py")
    assert {path: stranger(both, path).status for path in paths} == dict.fromkeys(paths, 404)


def test_a_file_is_only_read(both: Both) -> None:
    assert stranger(both, "/", "POST").status == 405
    assert stranger(both, "/phone.js", "DELETE").status == 405


def test_a_cloud_has_no_page(both: Both) -> None:
    for path in PATHS:
        assert ask(both.cloud.url, path, None, both.certs, "edge").status == 404


def test_the_page_learns_its_access_without_an_error(both: Both, digits: Dataset) -> None:
    nobody = stranger(both, "/page.json")
    assert nobody.status == 200
    assert nobody.json == {"ready": True, "token": True, "admitted": False, "why": "show a certificate or a bearer token"}
    assert stranger(both, "/page.json", Authorization="Bearer another-token-than-that").json == nobody.json
    known = stranger(both, "/page.json", **WITH_TOKEN)
    assert known.json == ask(both.edge.url, "/page.json", None, both.certs).json, "a certificate does as well"
    assert known.json == {
        "ready": True,
        "token": True,
        "admitted": True,
        "model": "resnet18",
        "classes": list(digits.classes),
        "codec": "png",
        "size": 32,
        "most": 256,
        "most_bytes": 200_000,
        "attestation": "none",
    }
    assert known.headers["cache-control"] == "no-store"
    assert SECRET not in known.body.decode()
    assert ask(both.edge.url, "/page.json", None, both.certs, "edge").json["admitted"] is False, "of a role that may not"


def test_the_page_learns_of_an_agent_and_of_missing_tls(networks: Pair, digits: Dataset, both: Both) -> None:
    guest = edge_of(networks, Png(), digits, both.cloud.url, both.certs, agent=AttestationAgent())
    with serving(guest, both.certs, "edge") as served:
        state = ask(served.url, "/page.json", None, both.certs).json
        assert (state["attestation"], state["token"]) == ("agent", False)
    with (
        serving(cloud_of(networks, Png(), digits, plain=True), None, "cloud") as cloud,
        serving(edge_of(networks, Png(), digits, cloud.url, None, plain=True), None, "edge") as plain,
    ):
        state = ask(plain.url, "/page.json").json
        assert (state["admitted"], state["attestation"]) == (True, "plain")


def test_an_edge_that_is_not_ready_says_so(networks: Pair, digits: Dataset, both: Both) -> None:
    edge = edge_of(networks, Png(), digits, both.cloud.url, both.certs, target="f" * 64)
    with serving(edge, both.certs, "edge", ready=False) as served:
        assert ask(served.url, "/page.json", None, both.certs).json["ready"] is False
        assert ask(served.url, "/", None, both.certs).status == 200


def test_a_picture_needs_a_credential(both: Both, files: list[bytes]) -> None:
    refused = ask(both.edge.url, "/recognize", files[0], both.certs, None)
    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    answer = ask(both.edge.url, "/recognize", files[0], both.certs, None, WITH_TOKEN)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")


OTHER_SITES: tuple[dict[str, str], ...] = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "what?"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
    {"Origin": "https://[broken"},
    {"Origin": "https://127.0.0.1"},
    {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"},
)


def test_the_page_of_another_site_cannot_send(both: Both, files: list[bytes], logged: Log) -> None:
    infer = ("/v2/models/resnet18/infer", "/v2/models/resnet18/versions/aaaaaaaaaaaaaaaa/infer")
    cases = [*(("/recognize", headers) for headers in OTHER_SITES), *((path, OTHER_SITES[0]) for path in infer)]
    for path, headers in cases:
        answer = ask(both.edge.url, path, files[0], both.certs, headers=headers)
        assert answer.status == 403, (path, headers)
        assert answer.json["error"] == "a page of another site may not send pictures: open the page of this edge, at its own /"
        assert not [header for header in answer.headers if header.startswith("access-control-")]
    until(lambda: len(logged.lines()) == len(cases))
    assert {(line["status"], line["images"]) for line in logged.lines()} == {(403, 0)}
    assert not logged.lines("pmc2-cloud"), "nothing went on"
    assert "elsewhere" not in logged.text


def test_another_site_gets_no_cors_permission(both: Both) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = stranger(both, "/recognize", "OPTIONS", **asked)
    assert answer.status == 405
    assert not [header for header in answer.headers if header.startswith("access-control-")]


@pytest.mark.parametrize("site", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}], ids=str)
def test_the_edges_own_page_can(both: Both, files: list[bytes], site: dict[str, str]) -> None:
    for origin in ({}, {"Origin": both.edge.url}):
        assert ask(both.edge.url, "/recognize", files[0], both.certs, headers=site | origin).status == 200


def test_without_tls_a_rebound_name_is_another_site(networks: Pair, digits: Dataset, files: list[bytes]) -> None:
    with (
        serving(cloud_of(networks, Png(), digits, plain=True), None, "cloud") as cloud,
        serving(edge_of(networks, Png(), digits, cloud.url, None, plain=True), None, "edge") as edge,
    ):
        port = edge.url.rpartition(":")[2]
        statuses = {
            name: ask(
                edge.url, "/recognize", files[0], headers={"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
            ).status
            for name in ("127.0.0.1", "localhost", "elsewhere.example")
        }
        assert statuses == {"127.0.0.1": 200, "localhost": 200, "elsewhere.example": 403}
        nameless = {"Origin": "null", "Host": ""}
        assert ask(edge.url, "/recognize", files[0], headers=nameless).status == 403
        assert ask(edge.url, "/recognize", files[0]).status == 200, "what is no browser says nothing of sites"


def test_a_form_that_is_too_long_is_refused(both: Both, files: list[bytes]) -> None:
    body, kind = form_of([bytes(50_000)] * 5)
    answer = ask(both.edge.url, "/recognize", body, both.certs, None, WITH_TOKEN | kind)
    assert (answer.status, answer.json) == (413, {"error": "a body may have at most 200000 bytes"})


def pixels(answer: Answered) -> np.ndarray[Any, Any]:
    files = [base64.b64decode(text, validate=True) for text in answer.json["cloud_picture"]]
    assert all(file.startswith(b"\x89PNG") for file in files)
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


@pytest.fixture
def payloads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    sent: list[bytes] = []
    send = http.PooledConnection.exchange

    async def noted(kept: http.PooledConnection, request: bytes) -> http.HttpAnswer:
        head, _, body = request.partition(b"\r\n\r\n")
        if length := re.search(rb"Inference-Header-Content-Length: (\d+)", head):
            sent.append(read_request(body, length[1].decode()).inputs["payload"].data[0])
        return await send(kept, request)

    monkeypatch.setattr(http.PooledConnection, "exchange", noted)
    return sent


@pytest.fixture(scope="module")
def neural_both(networks: Pair, neural: Neural, digits: Dataset, certs: Path) -> Iterator[Both]:
    with both_of(networks, neural, digits, certs) as both:
        yield both


@pytest.mark.parametrize("codec", ["neural_both", "both"])
def test_what_is_shown_is_what_the_cloud_decodes(
    codec: str, request: pytest.FixtureRequest, files: list[bytes], payloads: list[bytes]
) -> None:
    both: Both = request.getfixturevalue(codec)
    for n in (1, MOST_SHOWN):
        payloads.clear()
        body, headers = form_of(files[:n])
        answer = ask(both.edge.url, "/recognize", body, both.certs, headers=headers | SHOW)
        assert answer.status == 200
        (payload,) = payloads
        decoded = to_uint8(both.cloud.service.cloud.decode(payload)).permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]
        shown = pixels(answer)
        assert shown.shape == (n, 32, 32, 3)
        assert (shown == decoded).all()
        schema = both.edge.service.openapi()
        jsonschema.validate(answer.json, {**schema["components"]["schemas"]["Results"], "components": schema["components"]})


def test_of_a_payload_that_requests_share_each_is_shown_its_own(
    neural_both: Both, files: list[bytes], payloads: list[bytes]
) -> None:
    service, url, certs = neural_both.edge.service, neural_both.edge.url, neural_both.certs
    alone = [pixels(ask(url, "/recognize", file, certs, headers=SHOW)) for file in files[:8]]
    assert len({image.tobytes() for image in alone}) > 4, "the pictures differ, so that they could be mixed up"
    payloads.clear()
    with ThreadPoolExecutor(8) as pool:
        with occupied(service._lanes.pool):  # type: ignore[attr-defined]
            asked = [pool.submit(ask, url, "/recognize", file, certs, headers=SHOW) for file in files[:8]]
            until(lambda: service.waiting == 8)
        together = [pixels(each.result()) for each in asked]
    assert len(payloads) < 8, "requests were joined"
    for one, other in zip(alone, together, strict=True):
        assert (one == other).all()


def test_the_cloud_view_is_only_decoded_on_request(both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured(both.edge.url, both.certs).get("pmc2_milliseconds_count shown", 0)
    threads: list[str] = []

    def noted(codec: Codec, place: PayloadSlice) -> list[bytes]:
        threads.append(threading.current_thread().name)
        return decode_view(codec, place)

    monkeypatch.setattr(edge_module, "decode_view", noted)
    silent = ask(both.edge.url, "/recognize", files[0], both.certs)
    assert silent.status == 200
    assert threads == []
    assert not [key for key in silent.json if key.startswith("cloud_")]
    assert "shown" not in silent.json["milliseconds"]
    loud = ask(both.edge.url, "/recognize", files[0], both.certs, headers=SHOW)
    assert [name.rpartition("_")[0] for name in threads] == ["lane"], "on a lane, not on the loop"
    assert loud.json["results"] == silent.json["results"]
    assert loud.json["milliseconds"]["shown"] > 0
    until(lambda: measured(both.edge.url, both.certs).get("pmc2_milliseconds_count shown", 0) == before + 1)


def test_the_time_that_showing_takes_is_charged_to_no_component(
    both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(codec: Codec, place: PayloadSlice) -> list[bytes]:
        time.sleep(1)
        return decode_view(codec, place)

    monkeypatch.setattr(edge_module, "decode_view", slow)
    times = ask(both.edge.url, "/recognize", files[0], both.certs, headers=SHOW).json["milliseconds"]
    assert times["shown"] >= 1000
    assert sum(value for name, value in times.items() if name != "shown") < 1000


def test_only_the_clouds_view_can_be_asked_for(both: Both, files: list[bytes]) -> None:
    for value in ("", "Cloud", "edge", "cloud, cloud"):
        answer = ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Show": value})
        assert answer.status == 400, value
        assert answer.json == {"error": "the header X-Show can only be 'cloud': leave it out, or ask for what the cloud saw"}


def test_it_is_for_a_few_pictures(both: Both, files: list[bytes]) -> None:
    body, kind = form_of(files[: MOST_SHOWN + 1])
    answer = ask(both.edge.url, "/recognize", body, both.certs, headers=kind | SHOW)
    assert answer.status == 400
    assert answer.json == {"error": f"X-Show: cloud is for at most {MOST_SHOWN} pictures of a request, this one has 5"}
    assert ask(both.edge.url, "/recognize", body, both.certs, headers=kind).status == 200


def test_a_repeat_is_shown_the_same_and_only_where_it_asks(both: Both, files: list[bytes], payloads: list[bytes]) -> None:
    named = {"X-Request-Id": "shown-once"}
    first, again = (ask(both.edge.url, "/recognize", files[3], both.certs, headers=named | SHOW) for _ in range(2))
    assert len(payloads) == 1, "a repeat makes no work"
    assert first.json["cloud_picture"] == again.json["cloud_picture"]
    assert "cloud_picture" not in ask(both.edge.url, "/recognize", files[3], both.certs, headers=named).json


def test_a_deadline_holds_while_the_picture_is_decoded(both: Both, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def stuck(codec: Codec, place: PayloadSlice) -> list[bytes]:
        gate.wait(30)
        return decode_view(codec, place)

    monkeypatch.setattr(edge_module, "decode_view", stuck)
    try:
        late = ask(both.edge.url, "/recognize", files[0], both.certs, headers=SHOW | {"X-Timeout": "0.5"})
    finally:
        gate.set()
    assert (late.status, late.json) == (504, {"error": "the deadline passed before the answer was there"})
    assert ask(both.edge.url, "/recognize", files[0], both.certs, headers=SHOW).status == 200


def test_no_picture_is_logged(both: Both, files: list[bytes], logged: Log) -> None:
    answer = ask(both.edge.url, "/recognize", files[0], both.certs, None, WITH_TOKEN | SHOW)
    until(logged.lines)
    (line,) = logged.lines()
    assert line["ms"]["shown"] > 0
    assert line["bytes_out"] == len(answer.body)
    (picture,) = answer.json["cloud_picture"]
    assert not any(picture[start : start + 24] in logged.text for start in range(0, len(picture) - 24, 24))
    scores = np.zeros((1, 10), np.float32)
    shown = [repr(PayloadSlice(b"payload", 0, 1)), repr(edge_module.EdgeResult(scores, 1.0, {}, [b"picture"]))]
    assert not any(word in text for word in ("payload=b", "b'p", "picture'") for text in shown)
    assert len(json.dumps(line)) < 1000
