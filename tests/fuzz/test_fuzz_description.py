"""The services satisfy their OpenAPI documents: schemathesis sends allowed and forbidden requests (`--payloads` / 40 each)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from workbench.services.trust import Token

from doors import parts  # isort: skip
from hostile import pictures  # isort: skip
from tests.support.services import cloud_of, edge_of, serving

if TYPE_CHECKING:
    from schemathesis import GenerationMode

TOKEN = Token(b"a token of the tests")
OPERATIONS = {
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2",
    "GET /v2/models/tiny",
    "GET /v2/models/tiny/ready",
    "POST /v2/models/tiny/infer",
    "GET /metrics",
}
UNSAID = {"positive_data_acceptance"}  # in a schema a picture is any bytes, but most bytes are no picture
TOO_LATE = {"not_a_server_error"}  # 504 is correct for a deadline of microseconds


@pytest.fixture(scope="module")
def documents() -> Iterator[dict[str, Any]]:
    import schemathesis  # takes a second

    pair, codecs, dataset = parts()
    png = codecs["png"]
    with (
        serving(cloud_of(pair, png, dataset, plain=True), None, "cloud") as behind,
        serving(edge_of(pair, png, dataset, behind.url, None, plain=True, token=TOKEN), None, "edge") as edge,
        serving(cloud_of(pair, png, dataset, plain=True, token=TOKEN), None, "cloud") as cloud,
    ):
        services = {"edge": edge, "cloud": cloud}
        yield {kind: schemathesis.openapi.from_url(f"{service.url}/openapi.json") for kind, service in services.items()}


def tried(operation: Any, mode: GenerationMode, examples: int) -> dict[int, int]:
    import schemathesis

    statuses: dict[int, int] = {}
    checks = {check.__name__: check for check in schemathesis.checks.CHECKS.get_all()}

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def asked(case: Any) -> None:
        answer = case.call(headers=TOKEN.header)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        left_out = UNSAID | (TOO_LATE if answer.status_code == 504 else set())
        case.validate_response(answer, excluded_checks=[checks[name] for name in left_out], headers=TOKEN.header)

    run: Callable[[], None] = asked
    with contextlib.suppress(Unsatisfiable):  # operations without parameters have no forbidden values
        run()
    return statuses


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the edge uses `random` on its own thread
@pytest.mark.timeout(36_000)  # the number of requests is an option
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param("edge", "positive", id="edge-allowed"),
        pytest.param("cloud", "negative", id="cloud-not allowed"),
        pytest.param("edge", "negative", id="edge-not allowed", marks=pytest.mark.system),
        pytest.param("cloud", "positive", id="cloud-allowed", marks=pytest.mark.system),
    ],
)
def test_a_service_does_what_its_document_says(
    kind: str, mode: str, documents: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    from schemathesis import GenerationMode

    examples = max(1, request.config.getoption("--payloads") // (20 if request.node.get_closest_marker("system") else 40))
    statuses: dict[str, dict[int, int]] = {}
    for result in documents[kind].get_all_operations():
        operation = result.ok()
        statuses[operation.label] = tried(operation, GenerationMode(mode), examples)
    assert set(statuses) == OPERATIONS | ({"POST /recognize"} if kind == "edge" else set())
    print(statuses)  # shown with -rP
    for label, seen in statuses.items():
        if label.startswith("GET"):
            assert set(seen) == {200} or (not seen and mode == "negative")
        else:
            assert 400 in seen
            assert set(seen) <= {200, 400, 504}


def test_an_id_is_as_long_as_the_document_says(documents: dict[str, Any]) -> None:
    url = documents["edge"].location.replace("openapi.json", "recognize")
    statuses = [
        requests.post(url, pictures()["digit"], headers={"X-Request-Id": "i" * length, **TOKEN.header}, timeout=60).status_code
        for length in (256, 257)
    ]
    assert statuses == [200, 400]
