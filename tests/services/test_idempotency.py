"""A request that is repeated under its id: the same response, computed once."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Answered, Both, ask, measured, occupied
from tests.support.waiting import until
from workbench.certs import issue
from workbench.protocol import LENGTH_HEADER, Tensor, read_response, write_request
from workbench.services import idempotency
from workbench.services.cloud import CloudService
from workbench.services.edge import EdgeService

EDGE = {"least_strength": 0.0}


@pytest.fixture
def edge(both: Both) -> EdgeService:
    assert isinstance(both.edge.service, EdgeService)
    return both.edge.service


class Counted:
    def __init__(self, both: Both) -> None:
        self._both = both
        self._before = self._now()

    def _now(self) -> float:
        return measured(self._both.cloud.url, self._both.certs, "edge").get("pmc2_requests_total 200", 0)

    def __call__(self) -> int:
        return int(self._now() - self._before)


@pytest.fixture
def payloads(both: Both) -> Counted:
    return Counted(both)


def sent(both: Both, file: bytes, id: str, certs: Path | None = None, **headers: str) -> Answered:
    named = {"X-Request-Id": id} | {f"X-{name}": value for name, value in headers.items()}
    return ask(both.edge.url, "/recognize", file, certs or both.certs, headers=named)


def results(answer: Answered) -> Any:
    assert answer.status == 200
    return answer.json["results"]


def test_a_repeat_gets_the_same_answer_without_work(both: Both, files: list[bytes], payloads: Counted) -> None:
    first, again = (results(sent(both, files[0], "repeated")) for _ in range(2))
    assert first == again
    assert payloads() == 1
    for _ in range(2):  # a request without an id cannot be recognised
        assert ask(both.edge.url, "/recognize", files[0], both.certs).status == 200
    assert payloads() == 3


def test_a_repeat_may_come_through_either_door(both: Both, files: list[bytes], payloads: Counted) -> None:
    plain = results(sent(both, files[0], "either"))
    body, length = write_request([Tensor.of("image", [files[0]])], "either")
    answer = ask(both.edge.url, "/v2/models/resnet18/infer", body, both.certs, headers={LENGTH_HEADER: length})
    response = read_response(answer.body, answer.headers[LENGTH_HEADER.lower()])
    assert [float(score) for score in response.outputs["scores"].data[0]] == pytest.approx(plain[0]["scores"], abs=1e-5)
    assert response.id == "either"
    assert payloads() == 1


def test_repeats_in_flight_are_one(both: Both, edge: EdgeService, files: list[bytes], payloads: Counted) -> None:
    with ThreadPoolExecutor(4) as pool:
        with occupied(edge._lanes.pool):
            answers = [pool.submit(sent, both, files[0], "together") for _ in range(4)]
            until(lambda: edge.waiting == 1 and measured_held(both) == 4 * len(files[0]))
        found = [results(answer.result()) for answer in answers]
    assert all(result == found[0] for result in found)
    assert payloads() == 1


def measured_held(both: Both) -> float:
    return measured(both.edge.url, both.certs)["pmc2_held_bytes"]


def test_one_id_for_different_requests_is_not_confused(both: Both, files: list[bytes], payloads: Counted) -> None:
    alone = [results(ask(both.edge.url, "/recognize", file, both.certs)) for file in files[:2]]
    assert alone[0] != alone[1]
    for file, expected in zip(files[:2], alone, strict=True):
        assert results(sent(both, file, "reused"))[0]["scores"] == pytest.approx(expected[0]["scores"], abs=1e-5)
    assert results(sent(both, files[0], "reused", Strength="0.25")) != alone[0]
    assert payloads() == 5


def test_one_id_of_different_clients_is_not_confused(both: Both, files: list[bytes], tmp_path: Path, payloads: Counted) -> None:
    another = tmp_path / "certs"
    shutil.copytree(both.certs, another)
    issue(another, roles=["client"])
    for certs in (both.certs, another):
        assert sent(both, files[0], "shared", certs).status == 200
    assert payloads() == 2


def test_what_failed_may_be_tried_again(both: Both, edge: EdgeService, files: list[bytes], payloads: Counted) -> None:
    with occupied(edge._lanes.pool):
        assert sent(both, files[0], "failed", Timeout="0.2").status == 504
    until(lambda: payloads() == 1)  # it was being computed when its deadline passed
    assert [sent(both, files[0], "failed").status for _ in range(2)] == [200, 200]
    assert payloads() == 2
    for _ in range(2):
        assert sent(both, b"no picture", "bad").status == 400


def test_a_repeat_waits_no_longer_than_it_says(both: Both, edge: EdgeService, files: list[bytes], payloads: Counted) -> None:
    with ThreadPoolExecutor(1) as pool:
        with occupied(edge._lanes.pool):
            first = pool.submit(sent, both, files[0], "patient")
            until(lambda: edge.waiting == 1)
            assert sent(both, files[0], "patient", Timeout="0.2").status == 504
        assert first.result().status == 200
    assert payloads() == 1


def test_requests_that_joined_a_failing_one_fail_too(both: Both, edge: EdgeService, files: list[bytes]) -> None:
    with ThreadPoolExecutor(2) as pool, occupied(edge._lanes.pool):
        answers = [pool.submit(sent, both, files[0], "doomed", Timeout="1") for _ in range(2)]
        assert [answer.result().status for answer in answers] == [504, 504]
    assert sent(both, files[0], "doomed").status == 200


def test_answers_are_not_kept_without_bound(
    both: Both, edge: EdgeService, files: list[bytes], payloads: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "REMEMBERED", 3)
    for index in range(5):
        assert sent(both, files[0], f"kept {index}").status == 200
    assert len(edge._answers) == 3
    assert sent(both, files[0], "kept 4").status == 200
    assert payloads() == 5
    assert sent(both, files[0], "kept 0").status == 200
    assert payloads() == 6


def test_work_longer_than_an_attempt_is_computed_once(
    both: Both, edge: EdgeService, files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each attempt of the edge would start the work again, none would finish, and all requests would wait."""
    assert isinstance(both.cloud.service, CloudService)
    cloud, begun, gate = both.cloud.service, [], threading.Event()
    recognise, took = cloud.cloud.recognise, cloud.intake.body

    def slowly(*given: Any) -> Any:
        begun.append(given)
        assert gate.wait(60)
        return recognise(*given)

    attempts: list[Any] = []

    def counted(request: Any) -> Any:
        attempts.append(request)
        return took(request)

    monkeypatch.setattr(cloud.cloud, "recognise", slowly)
    monkeypatch.setattr(cloud.intake, "body", counted)
    monkeypatch.setattr(edge.cloud, "attempt_s", 0.3)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(sent, both, files[0], "slow")
        until(lambda: len(attempts) > 3)
        gate.set()
        assert answer.result().status == 200
    assert len(begun) == 1
