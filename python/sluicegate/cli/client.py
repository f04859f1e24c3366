"""Talking to a running gateway: the API's address, and sentences for what can go wrong on the way.

A key for a gateway that asks for one is read from the environment's `SLUICEGATE_API_KEY`: on the command line everybody
on the machine could see it.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from sluicegate.cli.errors import CliError, Exit

_F = TypeVar("_F", bound=Callable[..., Any])
DEFAULT_API = "http://127.0.0.1:8080"
_TIMEOUT_SECONDS = 90.0
"""More than `HoldSeconds` by default: the answer comes when every entry has ended."""


def api_option(command: _F) -> _F:
    """`--api URL`, else the environment's `SLUICEGATE_API` (contract section 8); the argument `api`."""
    option = click.option(
        "--api",
        envvar="SLUICEGATE_API",
        default=DEFAULT_API,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The gateway's API.",
    )
    return option(command)


def call(api: str, method: str, path: str, body: Any = None) -> Any:
    """One request to the gateway's API: its JSON answer.

    `CliError`: `UNREACHABLE` if nothing answers there or it is no gateway, `FAILED` with its reason if it
    refuses.
    """
    status, answer = request(api, method, path, body)
    if status >= 400:
        raise CliError(f"the gateway refused this: {reason(answer, status)}")
    return answer


def request(
    api: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """One request: `(status, its JSON answer)`, None for an answer without a body. `CliError` as `UNREACHABLE`."""
    import httpx  # Here, because it takes longer to import than the rest of the command line together.

    url = api.rstrip("/") + path
    sent = {**(headers or {}), **credentials()}
    try:
        # Environment proxies are for the internet, not for a gateway on this machine or network.
        with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
            response = client.request(method, url, json=body, headers=sent)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise CliError(f"{api} is not a URL, use the form {DEFAULT_API}") from None
    except httpx.TimeoutException:
        raise CliError(f"the gateway at {api} does not answer, look at its log", Exit.UNREACHABLE) from None
    except httpx.HTTPError as error:
        raise CliError(
            f"no gateway answers at {api} ({error}), "
            "start one with `sluicegate dev` or name its API with --api",
            Exit.UNREACHABLE,
        ) from None
    try:
        answer = response.json() if response.content else None
    except ValueError:
        raise CliError(
            f"{api} answers but not as a gateway (HTTP {response.status_code}), name its API with --api",
            Exit.UNREACHABLE,
        ) from None
    return response.status_code, answer


def credentials() -> dict[str, str]:
    """The headers that show who asks; none without a key."""
    key = os.environ.get("SLUICEGATE_API_KEY", "").strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise CliError("SLUICEGATE_API_KEY is not a key, `sluicegate keys create` makes one")
    return {"Authorization": f"Bearer {key}"}


def reason(answer: Any, status: int) -> str:
    """The API answers errors as RFC 9457 problems: `detail` is the sentence for people."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return detail if isinstance(detail, str) else f"HTTP {status}"


def no_gateway(api: str) -> CliError:
    """The error for a server at `api` whose answers are not those of a gateway."""
    return CliError(f"{api} answers but not as a gateway, name its API with --api", Exit.UNREACHABLE)
