"""The wire format of both services: the Open Inference Protocol v2 (KServe, Triton) with its binary tensor extension.

::

    plain     {"id", "parameters", "inputs": [{"name", "shape", "datatype", "parameters", "data"}], "outputs": [{"name", ...}]}
    binary    the same JSON, then the data of each tensor whose parameters have `binary_data_size`, in order, little-endian.
              The header Inference-Header-Content-Length is the length of the JSON in bytes. An element of the datatype BYTES
              is written as its length (4 bytes), then its content.

The services are the edge and the cloud. Received bytes may be hostile. Lengths, counts, shapes and the depth of the JSON are
checked before any object is built. Malformed bytes raise a `ProtocolError`, whose message contains no data of a tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProtocolError

__all__ = [
    "LENGTH_HEADER",
    "MAX_BODY",
    "MAX_JSON",
    "MAX_TIMEOUT_S",
    "Request",
    "Response",
    "Tensor",
    "read_request",
    "read_response",
    "write_request",
    "write_response",
]

LENGTH_HEADER = "Inference-Header-Content-Length"
DATATYPES: dict[str, str] = {
    "BOOL": "?",
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
MAX_BODY = 32 << 20  # bytes of a request
MAX_JSON = 1 << 20  # bytes; Python's objects take up to 30 times the memory of their JSON
MAX_TENSORS, MAX_RANK, MAX_ELEMENTS, MAX_ID = 64, 8, 1 << 24, 256
MAX_TIMEOUT_S = 600.0  # longest timeout of a request
MAX_STRINGS = 1 << 16  # elements of a BYTES tensor, each of which becomes an object
DATATYPE_OF = {np.dtype(code): datatype for datatype, code in DATATYPES.items()}
JSON_NUMBERS = (int, float, bool)


@dataclass(frozen=True)
class Tensor:
    """A named input or output of a model. `datatype` is the protocol's name of the type, such as FP32.

    `data` is an array of the shape `shape`. For the datatype BYTES it is a list of the elements in row-major order.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes] = field(repr=False)

    @classmethod
    def of(cls, name: str, data: NDArray[Any] | list[bytes]) -> Tensor:
        """Make a tensor from an array or from a list of byte strings. Raises ProtocolError for an unsupported dtype."""
        if isinstance(data, list):
            return cls(name, "BYTES", (len(data),), data)
        if data.dtype not in DATATYPE_OF:
            raise ProtocolError(f"tensor {name!r} of {data.dtype} cannot be sent")
        return cls(name, DATATYPE_OF[data.dtype], data.shape, data)


@dataclass(frozen=True)
class Request:
    """An inference request. `outputs` are the names of the requested outputs. An empty tuple requests all outputs.

    `binary` are the names of the outputs that the client requests as binary data. None means all outputs.
    """

    inputs: dict[str, Tensor]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] | None = frozenset()

    def wants_binary(self, name: str) -> bool:
        return self.binary is None or name in self.binary


@dataclass(frozen=True)
class Response:
    """An inference response. `model` is the name of the model, and `outputs` are its outputs by name."""

    model: str
    outputs: dict[str, Tensor]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    version: str = ""


def read_request(body: bytes, json_length: str | None = None) -> Request:
    """Parse the body of a request. Raises ProtocolError if the body is malformed.

    `json_length` is the value of the header `LENGTH_HEADER`, or None if this header was not sent.
    """
    content, rest = _content(body, json_length)
    asked = _entries(content, "outputs", required=False)
    everything = _parameters(content, "the request").get("binary_data_output", False)
    names = tuple(_name(entry, "outputs") for entry in asked)
    chosen = {name: _parameters(entry, f"output {name!r}").get("binary_data", everything) for name, entry in zip(names, asked)}  # noqa: B905
    if not all(isinstance(value, bool) for value in (everything, *chosen.values())):
        raise ProtocolError("binary_data and binary_data_output must be true or false")
    if len(chosen) != len(names):
        raise ProtocolError("an output is requested twice")
    binary = None if everything and not names else frozenset(name for name, value in chosen.items() if value)
    inputs = _tensors(_entries(content, "inputs"), rest, "input")
    return Request(inputs, _id(content), _parameters(content, "the request"), names, binary)


def read_response(body: bytes, json_length: str | None = None) -> Response:
    content, rest = _content(body, json_length)
    model, version = content.get("model_name", ""), content.get("model_version", "")
    if not (isinstance(model, str) and isinstance(version, str)):
        raise ProtocolError("model_name and model_version must be strings")
    outputs = _tensors(_entries(content, "outputs"), rest, "output")
    return Response(model, outputs, _id(content), _parameters(content, "the response"), version)


def _content(body: bytes, json_length: str | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 10 and int(json_length) <= len(body)):
            raise ProtocolError(f"{LENGTH_HEADER} must be a number of bytes, at most the body's {len(body)}")
        length = int(json_length)
    if length > MAX_JSON:
        raise ProtocolError(f"JSON of {length} bytes is above {MAX_JSON}: send tensors as binary data")
    try:
        content = _DECODER.decode(bytes(body[:length]).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the body's JSON cannot be read ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ProtocolError("the body's JSON must be an object")
    return content, memoryview(body)[length:]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# built once, which saves a third of the time for each message
_DECODER, _ENCODER = json.JSONDecoder(parse_constant=_refuse), json.JSONEncoder(allow_nan=False)


def _entries(content: dict[str, Any], key: str, required: bool = True) -> list[dict[str, Any]]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or len(entries) > MAX_TENSORS:
        raise ProtocolError(f"{key} must be a list of at most {MAX_TENSORS} objects")
    if required and not entries:
        raise ProtocolError(f"{key} is missing or empty")
    return entries


def _name(entry: dict[str, Any], where: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID:
        raise ProtocolError(f"each of {where} needs a name of 1 to {MAX_ID} characters")
    return name


def _id(content: dict[str, Any]) -> str:
    found = content.get("id", "")
    if not isinstance(found, str) or len(found) > MAX_ID:
        raise ProtocolError(f"id must be a string of at most {MAX_ID} characters")
    return found


def _parameters(entry: dict[str, Any], what: str) -> dict[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise ProtocolError(f"the parameters of {what} must be an object")
    if any(type(value) is int and not -(1 << 63) <= value < 1 << 64 for value in found.values()):
        raise ProtocolError(f"a whole number among the parameters of {what} has more than 64 bits")
    return found


def _tensors(entries: list[dict[str, Any]], rest: memoryview, kind: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for entry in entries:
        name = _name(entry, f"{kind}s")
        if name in tensors:
            raise ProtocolError(f"{kind} {name!r} comes twice")
        datatype, shape = entry.get("datatype"), entry.get("shape")
        if not isinstance(datatype, str) or datatype not in ("BYTES", *DATATYPES):
            raise ProtocolError(f"{kind} {name!r}: datatype must be one of BYTES, {', '.join(DATATYPES)}")
        most = MAX_STRINGS if datatype == "BYTES" else MAX_ELEMENTS
        if (
            not isinstance(shape, list)
            or not 0 < len(shape) <= MAX_RANK
            or not all(type(side) is int and 0 <= side <= MAX_ELEMENTS for side in shape)
            or math.prod(max(side, 1) for side in shape) > most  # numpy refuses large sides next to a side of 0, too
        ):
            raise ProtocolError(f"{kind} {name!r}: shape must be 1 to {MAX_RANK} sides of at most {most} elements in all")
        size = _parameters(entry, f"{kind} {name!r}").get("binary_data_size")
        if size is None:
            data = _from_json(entry.get("data"), datatype, tuple(shape), f"{kind} {name!r}")
        else:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise ProtocolError(f"{kind} {name!r}: binary_data_size must be a number of bytes, {len(rest)} are left")
            if "data" in entry:
                raise ProtocolError(f"{kind} {name!r} has both data and binary_data_size")
            data = _from_bytes(rest[:size], datatype, tuple(shape), f"{kind} {name!r}")
            rest = rest[size:]
        tensors[name] = Tensor(name, datatype, tuple(shape), data)
    if len(rest):
        raise ProtocolError(f"{len(rest)} bytes are left behind the last tensor")
    return tensors


def _from_json(data: Any, datatype: str, shape: tuple[int, ...], what: str) -> NDArray[Any] | list[bytes]:
    if not isinstance(data, list):
        raise ProtocolError(f"{what} has neither data nor binary_data_size")
    depth = 0
    while data and isinstance(data[0], list) and depth < MAX_RANK:
        if not all(isinstance(row, list) for row in data):
            raise ProtocolError(f"{what}: rows of data are not of one kind")
        data, depth = [each for row in data for each in row], depth + 1
    if len(data) != math.prod(shape):
        raise ProtocolError(f"{what}: {len(data)} elements, its shape {list(shape)} has {math.prod(shape)}")
    if datatype == "BYTES":
        if not all(isinstance(each, str) for each in data):
            raise ProtocolError(f"{what}: elements of BYTES in JSON must be strings; send binary data for anything else")
        return [each.encode("utf-8", "surrogatepass") for each in data]
    if not all(type(each) in JSON_NUMBERS for each in data):
        raise ProtocolError(f"{what}: data must be numbers")
    kind = np.dtype(DATATYPES[datatype])
    if kind.kind in "ui" and not all(type(each) is int and np.iinfo(kind).min <= each <= np.iinfo(kind).max for each in data):
        raise ProtocolError(f"{what}: data must be whole numbers that fit {datatype}")
    if kind.kind == "b" and not all(type(each) is bool for each in data):
        raise ProtocolError(f"{what}: data must be true or false")
    try:
        with np.errstate(over="ignore"):
            return np.array(data, kind).reshape(shape)
    except OverflowError as error:
        raise ProtocolError(f"{what}: a number does not fit {datatype}") from error


def _from_bytes(data: memoryview, datatype: str, shape: tuple[int, ...], what: str) -> NDArray[Any] | list[bytes]:
    count = math.prod(shape)
    if datatype != "BYTES":
        kind = np.dtype(DATATYPES[datatype])
        if len(data) != count * kind.itemsize:
            raise ProtocolError(
                f"{what}: {len(data)} bytes, its shape {list(shape)} of {datatype} takes {count * kind.itemsize}"
            )
        if kind.kind == "b" and bytes(data).strip(b"\0\1"):
            raise ProtocolError(f"{what}: a BOOL is a byte of 0 or 1")
        return np.frombuffer(data, kind).reshape(shape)
    if 4 * count > len(data):
        raise ProtocolError(f"{what}: {len(data)} bytes cannot hold {count} elements")
    elements: list[bytes] = []
    position = 0
    while position + 4 <= len(data) and len(elements) < count:
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if length > len(data) - position:
            raise ProtocolError(f"{what}: element {len(elements)} ends behind the data")
        elements.append(bytes(data[position : position + length]))
        position += length
    if len(elements) != count or position != len(data):
        raise ProtocolError(f"{what}: its data does not hold the {count} elements of its shape")
    return elements


def write_request(inputs: Sequence[Tensor], id: str = "", parameters: dict[str, Any] | None = None) -> tuple[bytes, str]:
    """Return the body of a request, and the value of its header `LENGTH_HEADER`.

    Inputs are sent as binary data. All outputs are requested as binary data.
    """
    content: dict[str, Any] = {"id": id} if id else {}
    content["parameters"] = {**(parameters or {}), "binary_data_output": True}
    return _written(content, "inputs", inputs, [True] * len(inputs))


def write_response(response: Response, request: Request) -> tuple[bytes, str | None]:
    """Return the body of a response, and the value of its header `LENGTH_HEADER` (None: plain JSON).

    The body has the outputs that `request` names, or all outputs if it names none. Raises ProtocolError if a named output is
    missing.
    """
    if missing := [name for name in request.outputs if name not in response.outputs]:
        raise ProtocolError(f"no output {missing[0]!r}; there are {', '.join(response.outputs)}")
    outputs = [response.outputs[name] for name in request.outputs or response.outputs]
    content: dict[str, Any] = {"model_name": response.model}
    content |= {"model_version": response.version} if response.version else {}
    content |= {"id": request.id} if request.id else {}
    content |= {"parameters": response.parameters} if response.parameters else {}
    body, length = _written(content, "outputs", outputs, [request.wants_binary(each.name) for each in outputs])
    return body, length if any(request.wants_binary(each.name) for each in outputs) else None


def _written(content: dict[str, Any], key: str, tensors: Sequence[Tensor], binary: Sequence[bool]) -> tuple[bytes, str]:
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for tensor, raw in zip(tensors, binary, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw:
            blobs.append(_to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _to_json(tensor)
        entries.append(entry)
    try:
        head = _ENCODER.encode({**content, key: entries}).encode()
    except ValueError as error:
        raise ProtocolError("a number that is none cannot be sent as JSON: request binary data") from error
    return b"".join([head, *blobs]), str(len(head))


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.data, list):
        return b"".join(struct.pack("<I", len(each)) + each for each in tensor.data)
    return np.ascontiguousarray(tensor.data, DATATYPES[tensor.datatype]).tobytes()


def _to_json(tensor: Tensor) -> list[Any]:
    if isinstance(tensor.data, list):
        try:
            return [each.decode("utf-8") for each in tensor.data]
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{tensor.name!r} is no text: request it as binary data") from error
    return tensor.data.ravel().tolist()  # type: ignore[no-any-return]
