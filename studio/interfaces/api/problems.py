"""Errors as answers: problem details (RFC 9457) with the sentence that a person reads, and nothing of the server."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from studio.core.errors import BadInput, Busy, DiskFull, NotFound, Offline, OutOfMemory, StudioError, sentence
from studio.interfaces.api.logs import HEADER, request_id

log = logging.getLogger(__name__)

STATUS = (  # the first that fits
    (NotFound, 404),
    (BadInput, 422),
    (Busy, 429),
    (DiskFull, 507),
    (OutOfMemory, 503),
    (Offline, 503),
    (StudioError, 500),
)
BUG = "Something went wrong inside the studio; its log says more."


class Problem(BaseModel):
    """What every error says. `error` is `detail` under the name that it had first."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such picture here; it may have been deleted."])
    error: str


DOCUMENTED: dict[str, Any] = {
    "description": "What is wrong with the request.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
}


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """The answer for an error, its sentence with what isn't valid Unicode spelled out: it may quote what was sent."""
    said = detail.encode(errors="backslashreplace").decode()
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=said, error=said)
    return ProblemResponse(body.model_dump(), status, dict(headers or {}))


def handle(app: FastAPI) -> None:
    """Answer every error of this app as a problem."""
    document = app.openapi

    def documented() -> dict[str, Any]:
        schema = document()
        schemas = schema["components"]["schemas"]
        schemas.setdefault("ProblemDetails", Problem.model_json_schema())
        for path, default in (("/v1/jobs", "generate"), ("/v1/runs", "lora")):
            kinds = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
            for one in (schemas[kind["$ref"].rpartition("/")[2]] for kind in kinds):
                # A request that doesn't say its kind is the first one: told by all others, it isn't theirs.
                if one["properties"]["kind"]["const"] != default:
                    one["required"] = sorted({*one.get("required", ()), "kind"})
        return schema

    app.openapi = documented  # type: ignore[method-assign]
    for error_class, status in STATUS:
        app.add_exception_handler(error_class, _sentence(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def _sentence(status: int) -> Any:
    def handler(request: Request, error: Exception) -> JSONResponse:
        told = request.app.state.redact({"error": str(error)})["error"]
        return problem(status, told, {"Retry-After": "5"} if status == 429 else None)

    return handler


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = () if first["type"] == "json_invalid" else first["loc"][1:]  # without "body" or "query"
    return problem(422, sentence(first, place))


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("a request failed", exc_info=error)
    return problem(500, BUG, {HEADER: request_id.get()})
