"""The wire protocol: round trips, an unmodified third-party client, and hostile bytes."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ProtocolError
from workbench.protocol import (
    DATATYPES,
    Request,
    Response,
    Tensor,
    read_request,
    read_response,
    write_request,
    write_response,
)

NUMBERS = [np.dtype(code) for code in DATATYPES.values()]


def noise(kind: np.dtype[Any], shape: list[int], seed: int) -> np.ndarray[Any, Any]:
    data = random.Random(seed).randbytes(int(np.prod(shape)) * kind.itemsize)
    return (np.frombuffer(data, np.uint8) > 127 if kind.kind == "b" else np.frombuffer(data, kind)).reshape(shape)


shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3)
arrays = st.builds(noise, st.sampled_from(NUMBERS), shapes, st.integers(0, 1000))
tensors = st.lists(st.one_of(arrays, st.lists(st.binary(max_size=20), max_size=5)), min_size=1, max_size=4)


def same(one: Tensor, other: Tensor) -> bool:
    if (one.name, one.datatype, one.shape) != (other.name, other.datatype, other.shape):
        return False
    if isinstance(one.data, list) or isinstance(other.data, list):
        return one.data == other.data
    return one.data.tobytes() == other.data.tobytes()


def named(values: list[Any]) -> dict[str, Tensor]:
    return {f"t{i}": Tensor.of(f"t{i}", value) for i, value in enumerate(values)}


# characters by name, because hypothesis needs two seconds to list those of Unicode
@given(tensors, st.text('a7 \0\n"\\é٣\uffff\U0001f600', max_size=20))
def test_what_is_written_is_read(values: list[Any], id: str) -> None:
    sent = named(values)
    body, length = write_request(list(sent.values()), id, {"strength": 0.5})
    request = read_request(body, length)
    assert (request.id, request.parameters["strength"], request.binary) == (id, 0.5, None)
    assert list(request.inputs) == list(sent)
    assert all(same(request.inputs[name], sent[name]) for name in sent)
    answer, head = write_response(Response("m", sent, parameters={"ms": 1.5}), request)
    read = read_response(answer, head)
    assert (read.model, read.id, read.parameters) == ("m", id, {"ms": 1.5})
    assert all(same(read.outputs[name], sent[name]) for name in sent)


@pytest.mark.parametrize("binary", [False, True])
def test_an_unmodified_client_is_understood_and_understands(binary: bool) -> None:
    pictures = np.array([b"\xff\xd8jpeg" if binary else b"text", b""], object)
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [triton.InferInput("image", [2], "BYTES"), triton.InferInput("x", [2, 3], "FP32")]
    inputs[0].set_data_from_numpy(pictures, binary_data=binary)
    inputs[1].set_data_from_numpy(numbers, binary_data=binary)
    asked = [
        triton.InferRequestedOutput("scores", binary_data=binary),
        triton.InferRequestedOutput("label", binary_data=binary),
    ]
    body, length = triton.InferenceServerClient.generate_request_body(inputs, outputs=asked, request_id="7")
    request = read_request(body, None if length is None else str(length))
    assert request.inputs["image"].data == list(pictures)
    np.testing.assert_array_equal(request.inputs["x"].data, numbers)
    assert request.outputs == ("scores", "label")
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    made = {
        each.name: each for each in (Tensor.of("label", [b"cat", b"dog"]), Tensor.of("scores", scores), Tensor.of("ms", scores))
    }
    answer, head = write_response(Response("m", made), request)
    result = triton.InferResult.from_response_body(answer, header_length=None if head is None else int(head))
    np.testing.assert_array_equal(result.as_numpy("scores"), scores)
    label = [each if isinstance(each, bytes) else each.encode() for each in result.as_numpy("label").tolist()]
    assert label == [b"cat", b"dog"]
    assert result.as_numpy("ms") is None, "not asked for"
    assert result.get_response()["id"] == "7"
    assert (head is not None) == binary


def test_without_a_word_about_outputs_all_are_sent_as_json() -> None:
    request = read_request(
        json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "INT8", "data": [[1], [-2]]}]}).encode()
    )
    assert request == Request({"x": request.inputs["x"]})
    assert request.inputs["x"].data.tolist() == [1, -2]  # type: ignore[union-attr]
    answer, head = write_response(Response("m", {"y": Tensor.of("y", np.array([True]))}), request)
    assert head is None
    assert json.loads(answer) == {
        "model_name": "m",
        "outputs": [{"name": "y", "datatype": "BOOL", "shape": [1], "data": [True]}],
    }


def plain(**changed: Any) -> bytes:
    entry = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    return json.dumps({"inputs": [{key: value for key, value in {**entry, **changed}.items() if value is not ...}]}).encode()


def binary(blob: bytes, **changed: Any) -> tuple[bytes, str]:
    head = plain(data=..., parameters={"binary_data_size": len(blob)}, **changed)
    return head + blob, str(len(head))


@pytest.mark.parametrize("form", [{"data": []}, {"data": ..., "parameters": {"binary_data_size": 0}}], ids=["json", "binary"])
def test_large_sides_next_to_a_side_of_zero_are_refused(form: dict[str, Any]) -> None:
    body = plain(shape=[0, *[1 << 24] * 3], **form)
    with pytest.raises(ProtocolError, match="shape must be"):
        read_request(body)
    with pytest.raises(ProtocolError, match="shape must be"):
        read_response(body.replace(b"inputs", b"outputs"))
    assert read_request(plain(shape=[0, 1 << 24], **form)).inputs["x"].shape == (0, 1 << 24)


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"", None, "cannot be read"),
        (b"\xff{}", None, "cannot be read"),
        (b"[" * 100_000, None, "cannot be read"),
        (b'{"inputs": NaN}', None, "cannot be read"),
        (b"[]", None, "must be an object"),
        (b"{}", None, "inputs is missing"),
        (b'{"inputs": [3]}', None, "list of at most 64 objects"),
        (json.dumps({"inputs": [{"name": f"x{i}"} for i in range(65)]}).encode(), None, "at most 64"),
        (json.dumps({"id": 3, "inputs": [{"name": "x"}]}).encode(), None, "datatype|id must be"),
        (plain(name=""), None, "needs a name"),
        (plain(datatype="FP8"), None, "datatype must be one of"),
        (plain(shape=[-1]), None, "shape must be"),
        (plain(shape=[]), None, "shape must be"),
        (plain(shape=[True, 2]), None, "shape must be"),
        (plain(shape=[1 << 20, 1 << 20]), None, "shape must be"),
        (plain(shape=[3]), None, r"2 elements, its shape \[3\] has 3"),
        (plain(data=...), None, "neither data nor"),
        (plain(data=[1, "2"]), None, "must be numbers"),
        (plain(data=[[1], 2]), None, "not of one kind"),
        (plain(datatype="UINT8", data=[1, 256]), None, "fit UINT8"),
        (plain(datatype="INT64", data=[1, 2.5]), None, "fit INT64"),
        (plain(datatype="BOOL", data=[1, 0]), None, "true or false"),
        (plain(datatype="BYTES", data=[1, 2]), None, "must be strings"),
        (plain(parameters={"binary_data_size": 4}), None, "0 are left"),
        (plain(parameters=[]), None, "must be an object"),
        (*binary(b"1234567"), "7 bytes, its shape"),
        (*binary(b"12", datatype="BOOL"), "byte of 0 or 1"),
        (*binary(b"\4\0\0\0ab", datatype="BYTES", shape=[1]), "ends behind the data"),
        (*binary(b"\0\0\0\0" * 2, datatype="BYTES", shape=[3]), "cannot hold 3"),
        (*binary(b"\1\0\0\0ab", datatype="BYTES", shape=[1]), "does not hold the 1"),
        (binary(b"12345678")[0] + b"9", binary(b"12345678")[1], "1 bytes are left"),
        (plain(), "-1", "must be a number of bytes"),
        (plain(), "9999", "must be a number of bytes"),
        (plain(), "²", "must be a number of bytes"),
        (b" " * (2 << 20), str((1 << 20) + 1), "is above"),
    ],
)
def test_what_is_not_of_the_protocol_is_one_error(body: bytes, length: str | None, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as caught:
        read_request(body, length)
    assert len(str(caught.value)) < 400


def test_twice_the_same_name_is_refused() -> None:
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    with pytest.raises(ProtocolError, match="'x' comes twice"):
        read_request(json.dumps({"inputs": [entry, entry]}).encode())
    with pytest.raises(ProtocolError, match="requested twice"):
        read_request(json.dumps({"inputs": [entry], "outputs": [{"name": "y"}, {"name": "y"}]}).encode())


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(ProtocolError, match="no output 'z'; there are y"):
        write_response(Response("m", {"y": Tensor.of("y", [b""])}), Request({}, outputs=("z",)))


def test_what_cannot_be_json_asks_for_binary() -> None:
    for value in (np.array([np.nan]), [b"\xff"]):
        with pytest.raises(ProtocolError, match="binary data"):
            write_response(Response("m", {"y": Tensor.of("y", value)}), Request({}))
    with pytest.raises(ProtocolError, match="complex128 cannot be sent"):
        Tensor.of("y", np.zeros(1, complex))


def test_no_repr_shows_data() -> None:
    assert "secret" not in repr(Request({"x": Tensor.of("x", [b"secret"])}))


WHOLE = [
    write_request([Tensor.of("image", [b"\xff\xd8" + bytes(40), b"x"]), Tensor.of("a", np.ones((2, 2), np.float32))], "id")[0],
    plain(),
    *(binary(struct.pack("<I", 2) + b"ab", datatype="BYTES", shape=[1])[:1]),
]


@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    length = data.draw(st.one_of(st.none(), st.integers(0, len(body)).map(str), st.text("0179-+_ .²٣e", max_size=4)))
    for read in (read_request, read_response):
        with contextlib.suppress(ProtocolError):
            read(bytes(body), length)
