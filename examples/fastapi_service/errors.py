"""What a client is told when something goes wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import cleveragents_plans as plans

_LOG = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why a request was refused."""

    error: str
    """The name of the error, for programs."""
    detail: str
    """One line for people: what was found, what was expected, what to do."""


#: What any request may be answered with, for the OpenAPI document.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 404, 409, 422, 503)
}


def handle_errors(app: FastAPI) -> None:
    """Let *app* answer with a `Problem` whatever goes wrong."""

    @app.exception_handler(plans.PlansError)
    async def _(request: Request, error: plans.PlansError) -> JSONResponse:
        status = error.http_status
        if status < 500:
            return _problem(status, type(error).__name__, str(error))
        # What is the matter with the database is not the client's business.
        _LOG.error("%s %s: %s", request.method, request.url.path, error)
        return _problem(status, type(error).__name__, "the log of the service has the reason")

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        found = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        return _problem(422, "InvalidRequest", "; ".join(found))

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        answer = _problem(error.status_code, HTTPStatus(error.status_code).phrase, error.detail)
        answer.headers.update(error.headers or {})  # as Allow
        return answer


def _problem(status: int, error: str, detail: str) -> JSONResponse:
    # The name of a field that a client invented may hold a lone surrogate, which no JSON can.
    text = detail.encode(errors="backslashreplace").decode()
    text = text if len(text) <= 500 else f"{text[:500]}…"
    return JSONResponse(Problem(error=error, detail=text).model_dump(), status)
