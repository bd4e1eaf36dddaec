"""The OpenAPI documents of edge and cloud."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..protocol import LENGTH_HEADER
from .types import MOST_SHOWN, Model

__all__ = ["cloud_document", "edge_document"]

Document = dict[str, Any]


def edge_document(model: Model, attested: bool = False) -> Document:
    """Return the OpenAPI document of an edge that serves `model`. `attested` adds the path for attestation evidence."""
    document = _document("PMC² edge", model, "image", "JPEG or PNG files, as binary data")
    limits = [
        _header("X-Request-Id", {"type": "string", "maxLength": 256}, "repeats under the same id get the same response"),
        _header("X-Timeout", {"type": "number", "exclusiveMinimum": 0, "maximum": 600}, "deadline in seconds"),
        _header("X-Strength", {"type": "number", "minimum": 0, "maximum": 1}, "strength of the perturbation (default: 1)"),
        _header("X-Rate", {"type": "number", "minimum": 0, "maximum": 1}, "rate of the codec `neural` (default: the edge's)"),
        _header(
            "X-Show", {"enum": ["cloud"]}, f"`cloud` returns the pictures that the cloud decodes, for at most {MOST_SHOWN}"
        ),
    ]
    picture = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    fields: Document = {name: {"type": "number", "minimum": 0, "maximum": 1} for name in ("strength", "rate")}
    fields |= {"timeout": {"type": "number", "exclusiveMinimum": 0}}
    fields |= {"id": {"type": "string", "maxLength": 256}, "show": {"enum": ["cloud"]}}  # form fields in place of the headers
    several = {"type": "object", "properties": fields, "minProperties": 1}
    several["additionalProperties"] = {"type": "string", "format": "binary"}
    document["paths"]["/recognize"] = {
        "post": {
            "summary": "Recognise a picture, or several in a form",
            "parameters": limits,
            "requestBody": {
                "required": True,
                "content": {"image/jpeg": picture, "image/png": picture, "multipart/form-data": {"schema": several}},
            },
            "responses": _responses("the labels, in the order of the pictures", {"$ref": "#/components/schemas/Results"}),
        }
    }
    document["components"]["schemas"]["Results"] = _object(
        {
            "model": {"type": "string"},
            "id": {"type": "string"},
            "results": {
                "type": "array",
                "items": _object({"label": {"type": "string"}, "class": {"type": "integer"}, "scores": _array("number")}),
            },
            "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
            "payload_bytes": {"type": "number"},
            "cloud_picture": _array("string", contentEncoding="base64", contentMediaType="image/png"),
        },
        ["model", "results", "milliseconds", "payload_bytes"],
    )
    if attested:
        document["paths"]["/attestation"] = {"get": _attestation()}
        document["components"]["schemas"]["Evidence"] = _object({"evidence": {"type": "object"}})
    return document


def _attestation() -> Document:
    nonce = {"type": "string", "pattern": "^(?:[0-9a-fA-F]{2}){16,64}$"}
    refused = {"404": "there is no TLS key to bind evidence to", "429": "too many requests: retry after Retry-After seconds"}
    refused |= {"400": "no nonce of 16 to 64 bytes", "502": "the agent has no evidence", "503": "the agent cannot be reached"}
    refused |= {"504": "the agent did not answer", **{status: _REFUSALS[status] for status in ("401", "403")}}
    return {
        "summary": "Evidence of the guest, bound to SHA-256(nonce, public key of the certificate shown on this connection)",
        "parameters": [{"name": "nonce", "in": "query", "required": True, "schema": nonce}],
        "responses": {
            "200": _response("the evidence of the guest's agent", {"$ref": "#/components/schemas/Evidence"}),
            **{status: _response(text, _ERROR) for status, text in sorted(refused.items())},
        },
    }


def cloud_document(model: Model) -> Document:
    return _document("PMC² cloud", model, "payload", "one payload of the codec that the metadata names, as binary data")


def _document(title: str, model: Model, tensor: str, what: str) -> Document:
    ok = {"type": "object"}
    infer = {
        "summary": f"Recognise (Open Inference Protocol v2); the input `{tensor}` of BYTES: {what}",
        "parameters": [
            _header(LENGTH_HEADER, {"type": "integer", "minimum": 0}, "length of the JSON that precedes binary data")
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": _responses("label, class and scores", ok),
    }
    not_yet = _ok(ok) | {"503": _response("not yet", ok)}
    metrics = {"200": {"description": "text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    metrics |= {status: _response(_REFUSALS[status], _ERROR) for status in ("401", "403")}
    paths = {
        "/v2/health/live": _get("The service runs", _ok(ok)),
        "/v2/health/ready": _get("The service has warmed up, and an edge has verified its cloud", not_yet),
        "/v2": _get("The service's metadata", _ok(ok)),
        f"/v2/models/{model.name}": _get("The model's metadata", _responses("metadata", ok), free=False),
        f"/v2/models/{model.name}/ready": _get("The model is ready", not_yet),
        f"/v2/models/{model.name}/infer": {"post": infer},
        "/metrics": _get("Prometheus metrics", metrics, free=False),
        "/openapi.json": _get("This document", _ok(ok)),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "security": [{"bearer": []}, {"certificate": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}},
            "schemas": {"InferRequest": _infer_request(tensor), "Error": _object({"error": {"type": "string"}})},
        },
    }


def _infer_request(tensor: str) -> Document:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8}
    entry = {"name": {"const": tensor}, "datatype": {"const": "BYTES"}, "shape": shape, "data": _array("string")}
    return _object(
        {
            "id": {"type": "string", "maxLength": 256},
            "parameters": {
                "type": "object",
                "properties": {
                    "timeout": {"type": "number", "minimum": 1_000_000, "maximum": 600_000_000, "description": "microseconds"},
                    "strength": {"type": "number", "minimum": 0, "maximum": 1},
                    "rate": {"type": "number", "minimum": 0, "maximum": 1},
                },
            },
            "inputs": {"type": "array", "items": _object(entry, ["name", "datatype", "shape"]), "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": _object({"name": {"enum": ["label", "class", "scores"]}})},
        },
        ["inputs"],
    )


_ERROR: Document = {"$ref": "#/components/schemas/Error"}
_REFUSALS = {
    "400": "malformed request, unreadable picture, or payload of another codec or other weights",
    "401": "no certificate and no token",
    "403": "the certificate's role is not allowed, or a page of another site sent the request",
    "408": "the body came too slowly",
    "413": "the body is too long",
    "415": "the body has a content coding, such as gzip",
    "429": "the queue is full: retry after Retry-After seconds",
    "502": "the cloud has other weights, or is not trusted",
    "503": "the cloud cannot be reached",
    "504": "the deadline passed",
}


def _responses(text: str, schema: Document) -> Document:
    return {"200": _response(text, schema)} | {status: _response(why, _ERROR) for status, why in _REFUSALS.items()}


def _get(summary: str, responses: Document, free: bool = True) -> Document:
    return {"get": {"summary": summary, **({"security": []} if free else {}), "responses": responses}}


def _ok(schema: Document) -> Document:
    return {"200": _response("OK", schema)}


def _response(text: str, schema: Document) -> Document:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _header(name: str, schema: Document, text: str) -> Document:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": text}


def _array(kind: str, **more: str) -> Document:
    return {"type": "array", "items": {"type": kind, **more}}


def _object(properties: Document, required: list[str] | None = None) -> Document:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
