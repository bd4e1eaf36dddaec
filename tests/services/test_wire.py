"""The wire format: the Open Inference Protocol with its own unmodified client, and plain requests for curl and phones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import tritonclient.http as triton

from tests.support.services import WEIGHTS, Answered, Both, Served, ask, both_of, cloud_of, form_of, measured, serving
from tests.support.waiting import until
from workbench import __version__
from workbench.certs import Role
from workbench.codecs import Neural, Png
from workbench.data import Dataset
from workbench.pictures import to_float
from workbench.services.trust import client_context
from workbench.system import Cloud, Edge
from workbench.weights import Pair

MODEL = "resnet18"
INFER = f"/v2/models/{MODEL}/infer"
SERVICES: dict[str, Role] = {"edge": "client", "cloud": "edge"}


@pytest.fixture(scope="module")
def both(networks: Pair, neural: Neural, digits: Dataset, certs: Path) -> Iterator[Both]:
    with both_of(networks, neural, digits, certs) as both:
        yield both


@pytest.fixture(scope="module")
def pngs(digits: Dataset) -> list[bytes]:
    return Png().encode_each(to_float(digits.test.images[:60]))


@pytest.fixture(scope="module")
def payload(networks: Pair, neural: Neural, digits: Dataset) -> bytes:
    return Edge(networks.generator, neural).protect(to_float(digits.test.images[:3]))


def served(both: Both, what: str) -> Served:
    return both.edge if what == "edge" else both.cloud


@pytest.fixture(scope="module")
def clients(both: Both) -> Iterator[dict[str, triton.InferenceServerClient]]:
    made = {what: triton_client(served(both, what).url, both, role) for what, role in SERVICES.items()}
    yield made
    for client in made.values():
        client.close()


def triton_client(url: str, both: Both, role: Role) -> triton.InferenceServerClient:
    files = {"ca_certs": "ca.pem", "certfile": f"{role}.pem", "keyfile": f"{role}.key"}
    return triton.InferenceServerClient(
        url.removeprefix("https://"),
        ssl=True,
        ssl_options={option: str(both.certs / role / name) for option, name in files.items()},
        ssl_context_factory=lambda: client_context(both.certs, role),
    )


def tensor(name: str, files: list[bytes]) -> triton.InferInput:
    made = triton.InferInput(name, [len(files)], "BYTES")
    made.set_data_from_numpy(np.array(files, dtype=np.object_))
    return made


@pytest.mark.parametrize("what", SERVICES)
def test_triton_finds_the_service_ready_and_reads_what_it_is(clients: dict[str, Any], what: str) -> None:
    client = clients[what]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("vgg13_bn")
    metadata = client.get_server_metadata()
    assert metadata["name"] == f"pmc2-{what}"
    assert metadata["version"] == __version__
    assert "binary_tensor_data" in metadata["extensions"]


@pytest.mark.parametrize(("what", "tensor", "weights"), [("edge", "image", "generator"), ("cloud", "payload", "target")])
def test_triton_reads_what_the_model_takes(
    clients: dict[str, Any], digits: Dataset, what: str, tensor: str, weights: str
) -> None:
    metadata = clients[what].get_model_metadata(MODEL)
    assert metadata["name"] == MODEL
    assert metadata["versions"] == [WEIGHTS[weights][:16]]
    assert [(each["name"], each["datatype"]) for each in metadata["inputs"]] == [(tensor, "BYTES")]
    assert [(each["name"], each["datatype"]) for each in metadata["outputs"]] == [
        ("label", "BYTES"),
        ("class", "INT64"),
        ("scores", "FP32"),
    ]
    assert metadata["parameters"]["classes"].split(",") == list(digits.classes)
    assert clients[what].get_model_metadata(MODEL, metadata["versions"][0]) == metadata


@pytest.mark.parametrize("kind", ["files", "pngs"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_has_pictures_recognised(
    request: pytest.FixtureRequest,
    clients: dict[str, Any],
    networks: Pair,
    neural: Neural,
    digits: Dataset,
    kind: str,
    binary: bool,
) -> None:
    sent = request.getfixturevalue(kind)[:5]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "class", "scores")]
    result = clients["edge"].infer(MODEL, [tensor("image", sent)], request_id=f"{kind}-{binary}", outputs=outputs)
    edge, cloud = Edge(networks.generator, neural), Cloud(neural, networks.target)
    expected = cloud.recognise(edge.protect(edge.receive(sent, 32))).numpy()
    np.testing.assert_allclose(result.as_numpy("scores"), expected, rtol=1e-4, atol=1e-5)
    classes = expected.argmax(1)
    assert result.as_numpy("class").tolist() == classes.tolist()
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label").tolist()]
    assert labels == [digits.classes[index] for index in classes]
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == (
        f"{kind}-{binary}",
        MODEL,
        WEIGHTS["generator"][:16],
    )
    assert response["parameters"]["payload_bytes"] > 0
    assert response["parameters"]["generator_ms"] > 0


@pytest.mark.parametrize("binary", [True, False])
def test_triton_has_a_payload_recognised(
    clients: dict[str, Any], networks: Pair, neural: Neural, payload: bytes, binary: bool
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("scores", "class")]
    result = clients["cloud"].infer(MODEL, [tensor("payload", [payload])], outputs=outputs)
    expected = Cloud(neural, networks.target).recognise(payload).numpy()
    np.testing.assert_allclose(result.as_numpy("scores"), expected, rtol=1e-4, atol=1e-5)
    assert result.as_numpy("class").tolist() == expected.argmax(1).tolist()


def test_only_the_outputs_that_are_asked_for_are_sent(clients: dict[str, Any], files: list[bytes]) -> None:
    result = clients["edge"].infer(
        MODEL, [tensor("image", files[:2])], outputs=[triton.InferRequestedOutput("class", binary_data=True)]
    )
    assert [each["name"] for each in result.get_response()["outputs"]] == ["class"]
    with pytest.raises(triton.InferenceServerException, match="no output 'logits'; there are label, class, scores"):
        clients["edge"].infer(MODEL, [tensor("image", files[:2])], outputs=[triton.InferRequestedOutput("logits")])


@pytest.mark.parametrize("what", SERVICES)
def test_an_unknown_model_is_not_found(clients: dict[str, Any], files: list[bytes], what: str) -> None:
    with pytest.raises(triton.InferenceServerException, match="there is no such model here; there is 'resnet18'"):
        clients[what].infer("vgg13_bn", [tensor("image", files[:1])])
    with pytest.raises(triton.InferenceServerException, match="there is no such model here"):
        clients[what].get_model_metadata(MODEL, "0" * 16)


@pytest.mark.parametrize(
    ("what", "name", "count", "reason"),
    [
        ("edge", "picture", 1, "the input must be one tensor 'image' of BYTES"),
        ("edge", "image", 0, "a request has 1 to 256 pictures, this one 0"),
        ("edge", "image", 257, "a request has 1 to 256 pictures, this one 257"),
        ("cloud", "image", 1, "the input must be one tensor 'payload' of BYTES with one element"),
        ("cloud", "payload", 2, "the input must be one tensor 'payload' of BYTES with one element"),
    ],
)
def test_other_inputs_are_refused(
    clients: dict[str, Any], files: list[bytes], what: str, name: str, count: int, reason: str
) -> None:
    with pytest.raises(triton.InferenceServerException, match=reason) as caught:
        clients[what].infer(MODEL, [tensor(name, files[:1] * count)])
    assert caught.value.status() == "400"


def test_a_picture_is_recognised_as_it_is(both: Both, digits: Dataset, files: list[bytes], pngs: list[bytes]) -> None:
    for file in (files[0], pngs[0]):
        answer = ask(both.edge.url, "/recognize", file, both.certs, headers={"X-Request-Id": f"one-{len(file)}"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        (result,) = answer.json["results"]
        assert result["label"] == digits.classes[result["class"]]
        assert sum(result["scores"]) == pytest.approx(1, abs=1e-4)
        assert result["class"] == int(np.argmax(result["scores"]))
        assert answer.json["id"] == f"one-{len(file)}"
        assert answer.json["model"] == MODEL
        assert answer.json["payload_bytes"] > 0
        assert min(answer.json["milliseconds"].values()) >= 0


def test_a_form_of_several_is_answered_in_its_order(both: Both, files: list[bytes]) -> None:
    context = client_context(both.certs, "client")
    with httpx.Client(base_url=both.edge.url, verify=context, trust_env=False) as client:
        form = [("picture", (f"{index}.jpg", file, "image/jpeg")) for index, file in enumerate(files[:7])]
        answer = client.post("/recognize", files=form)
    assert answer.status_code == 200
    scores = [result["scores"] for result in answer.json()["results"]]
    for file, row in zip(files[:7], scores, strict=True):
        (alone,) = ask(both.edge.url, "/recognize", file, both.certs).json["results"]
        assert alone["scores"] == pytest.approx(row, abs=1e-5)
    assert len({tuple(row) for row in scores}) > 1


def test_what_is_no_form_is_refused(both: Both, files: list[bytes]) -> None:
    body, headers = form_of(files[:2])
    wrong: list[tuple[bytes, dict[str, str]]] = [
        (b"", {}),
        (b"", headers),
        (body[:-80], {"Content-Type": "multipart/form-data"}),
        (body, {"Content-Type": "multipart/form-data; boundary=another"}),
        (b"--between-two-pictures--\r\n", headers),
        (form_of(files[:1] * 257)[0], headers),
    ]
    for content, kind in wrong:
        answer = ask(both.edge.url, "/recognize", content, both.certs, headers=kind)
        assert answer.status == 400
        assert set(answer.json) == {"error"}


def test_what_is_no_picture_is_refused_without_quoting_it(both: Both, files: list[bytes]) -> None:
    for content in (b"a picture of words", files[0][:100], b"GIF89a" + bytes(100)):
        answer = ask(both.edge.url, "/recognize", content, both.certs)
        assert answer.status == 400
        assert set(answer.json) == {"error"}
        assert "of words" not in answer.json["error"]


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("X-Timeout", "soon", "the header X-Timeout must be a number"),
        ("X-Timeout", "0", "timeout must be a number above 0, at most 600 s"),
        ("X-Timeout", "-1", "timeout must be"),
        ("X-Timeout", "nan", "timeout must be"),
        ("X-Timeout", "601", "timeout must be"),
        ("X-Strength", "much", "the header X-Strength must be a number"),
        ("X-Strength", "nan", "strength must be between 0"),
        ("X-Strength", "1.5", "strength must be between 0"),
        ("X-Strength", "0.5", "this edge protects at a strength of 1 or more, got 0.5"),
    ],
)
def test_headers_out_of_range_are_refused(both: Both, files: list[bytes], header: str, value: str, reason: str) -> None:
    answer = ask(both.edge.url, "/recognize", files[0], both.certs, headers={header: value})
    assert answer.status == 400
    assert reason in answer.json["error"]


def test_parameters_of_another_kind_are_refused(both: Both) -> None:
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["x"]}]
    for name, value in (("strength", "1"), ("strength", True), ("timeout", "1"), ("timeout", 0), ("timeout", True)):
        answer = ask(both.edge.url, INFER, json.dumps({"inputs": inputs, "parameters": {name: value}}).encode(), both.certs)
        assert (answer.status, name in answer.json["error"]) == (400, True), (name, value)


def test_metrics_count_what_was_done(both: Both, files: list[bytes]) -> None:
    services: list[tuple[str, Role]] = [(both.edge.url, "client"), (both.cloud.url, "edge")]
    before = [measured(url, both.certs, role) for url, role in services]
    body, headers = form_of(files[:3])
    assert ask(both.edge.url, "/recognize", body, both.certs, headers=headers).status == 200
    assert ask(both.edge.url, "/recognize", b"no picture", both.certs).status == 400

    def moved(index: int, name: str) -> float:
        return measured(services[index][0], both.certs, services[index][1]).get(name, 0.0) - before[index].get(name, 0.0)

    until(lambda: moved(0, "pmc2_requests_total 200") == 1 and moved(0, "pmc2_requests_total 400") == 1)
    until(lambda: moved(1, "pmc2_requests_total 200") == 1)
    for index in (0, 1):
        assert moved(index, "pmc2_images_total") == 3
        assert moved(index, "pmc2_payload_bytes_total") > 0
        assert moved(index, "pmc2_milliseconds_count total") == 1
        assert moved(index, "pmc2_milliseconds_sum total") > 0
        assert moved(index, "pmc2_waiting_images") == moved(index, "pmc2_held_bytes") == 0
    assert moved(0, "pmc2_milliseconds_sum generator") > 0
    assert moved(0, "pmc2_milliseconds_sum network_edge_cloud") > 0


@pytest.mark.parametrize("what", SERVICES)
def test_the_description_is_valid_openapi(both: Both, what: str) -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31  # the import takes a second

    role = SERVICES[what]
    document = ask(served(both, what).url, "/openapi.json", certs=both.certs, role=role).json
    jsonschema.validators.validator_for(OPENAPI_31)(OPENAPI_31).validate(document)
    for path, operations in document["paths"].items():
        for method in operations:
            answer = ask(
                served(both, what).url, path, b"{}" if method == "post" else None, both.certs, role, method=method.upper()
            )
            assert str(answer.status) in operations[method]["responses"]
            assert answer.status in (200, 400)


def test_answers_are_as_they_are_described(both: Both, files: list[bytes]) -> None:
    document = ask(both.edge.url, "/openapi.json", certs=both.certs).json
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"]}
    for answer, name in (
        (ask(both.edge.url, "/recognize", files[0], both.certs, headers={"X-Request-Id": "described"}), "Results"),
        (ask(both.edge.url, "/recognize", b"", both.certs), "Error"),
    ):
        jsonschema.Draft202012Validator(described | {"$ref": f"#/components/schemas/{name}"}).validate(answer.json)


def refused(answer: Answered, status: int) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json) == {"error"}


@pytest.mark.parametrize("what", SERVICES)
def test_paths_that_there_are_not_are_404(both: Both, what: str) -> None:
    for path in ("/v3", "/v2/", "/v2/models", "/metrics/", "/docs", "/v2/models/other/infer", "/%00", "//v2"):
        body = b"{}" if path.endswith("infer") else None
        refused(ask(served(both, what).url, path, body, both.certs, SERVICES[what]), 404)


@pytest.mark.parametrize("what", SERVICES)
def test_other_methods_are_405(both: Both, what: str) -> None:
    for method, path in (("GET", INFER), ("PUT", INFER), ("POST", "/v2"), ("DELETE", "/metrics")):
        answer = ask(served(both, what).url, path, certs=both.certs, role=SERVICES[what], method=method)
        refused(answer, 405)
        assert answer.headers["allow"]


def test_recognize_is_the_edges_alone_and_takes_a_post(both: Both, files: list[bytes]) -> None:
    refused(ask(both.edge.url, "/recognize", certs=both.certs), 405)
    refused(ask(both.cloud.url, "/recognize", files[0], both.certs, "edge"), 404)


def test_a_versioned_path_is_the_same_model(both: Both) -> None:
    version = WEIGHTS["target"][:16]
    body = b'{"inputs": []}'
    answer = ask(both.cloud.url, f"/v2/models/{MODEL}/versions/{version}/infer", body, both.certs, "edge")
    refused(answer, 400)
    refused(ask(both.cloud.url, f"/v2/models/{MODEL}/versions/1/infer", body, both.certs, "edge"), 404)


def test_a_service_is_live_before_it_is_ready(both: Both, networks: Pair, neural: Neural, digits: Dataset) -> None:
    service = cloud_of(networks, neural, digits)
    service.ready = False
    with serving(service, both.certs, "cloud", ready=False) as cloud:
        for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 503), (f"/v2/models/{MODEL}/ready", 503)):
            assert ask(cloud.url, path, certs=both.certs, role="edge").status == status
        service.ready = True
        assert ask(cloud.url, "/v2/health/ready", certs=both.certs, role="edge").json == {"ready": True}
