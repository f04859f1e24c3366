"""Errors of the API: `application/problem+json` (RFC 9457), with every reason and its place where there are several.

`Errors` lists `{"Resource", "Pointer", "Cause", "Fix"}`: the pointer (RFC 6901) leads into the document that was sent.
For what stands in the configuration file it is `{"File", "Line", "Column", "Cause", "Fix"}`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sluicegate.http.doors import discard_body
from sluicegate.model import Finding
from sluicegate.running.documents import Refused
from sluicegate.running.registry import NotFound, ReloadRefused, WrongVersion
from sluicegate.state import StateError

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    found: Sequence[Finding] = (),
) -> Response:
    """One problem as a response."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if found:
        document["Errors"] = [one.document() for one in found]
    return Response(orjson.dumps(document), status, headers, media_type=MEDIA_TYPE)


async def refused(request: Request, error: Exception) -> Response:
    """409 if it does not go with what is there, else 422: the document itself is wrong."""
    assert isinstance(error, Refused)  # noqa: S101
    status = 409 if all(one.conflict for one in error.findings) else 422
    return problem(status, str(error), found=error.findings)


async def reload_refused(request: Request, error: Exception) -> Response:
    """The file is wrong: its reasons with file, line and column."""
    assert isinstance(error, ReloadRefused)  # noqa: S101
    detail = f"the file was not taken over, what ran before runs on: {error}"
    return problem(422, detail, found=error.findings)


async def not_found(request: Request, error: Exception) -> Response:
    return problem(404, str(error))


async def wrong_version(request: Request, error: Exception) -> Response:
    """412 with the version that it has now."""
    assert isinstance(error, WrongVersion)  # noqa: S101
    return problem(412, str(error), {"ETag": f'"{error.current}"'})


async def state_failed(request: Request, error: Exception) -> Response:
    """The state cannot be written: nothing was changed."""
    return problem(503, str(error), {"Retry-After": "5"})


async def http_problem(request: Request, error: Exception) -> Response:
    """What a handler raised by itself, and unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    detail = error.detail
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is nothing at {request.url.path[:200]}"
    elif error.status_code == 405:
        detail = f"{request.method} is not served at {request.url.path[:200]}"
    return problem(error.status_code, detail, error.headers)


async def internal_problem(request: Request, error: Exception) -> Response:
    return internal()


def internal() -> Response:
    """The answer after an exception that nobody expects."""
    return problem(500, "the gateway failed to answer: its log says why")


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The application for whoever finds no place among the API's connections."""
    await discard_body(scope, receive)
    detail = "as many clients are connected as the gateway serves at a time, try again"
    await problem(503, detail, {"Retry-After": "1", "Connection": "close"})(scope, receive, send)


HANDLERS = {
    Refused: refused,
    ReloadRefused: reload_refused,
    NotFound: not_found,
    WrongVersion: wrong_version,
    StateError: state_failed,
    HTTPException: http_problem,
    Exception: internal_problem,
}
