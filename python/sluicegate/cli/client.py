"""Talking to a running gateway, and sentences for what can go wrong on the way. Which gateway, and with which key, is
decided in `cli/credentials.py`.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from sluicegate.cli.credentials import DEFAULT_API, DEFAULT_CONFIG, Api, Credentials, choose
from sluicegate.cli.errors import CliError, Exit
from sluicegate.cli.trust import cause, trusted, unreachable

_TIMEOUT_SECONDS = 90.0
"""More than `HoldSeconds` by default: the answer comes when every entry has ended."""


def api_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--api`, `--config` and `--api-key` (contract section 8): the argument `api` of the command, an `Api`."""

    @click.option(
        "--api",
        envvar="SLUICEGATE_API",
        show_envvar=True,
        metavar="URL",
        help=f"The gateway's API.  [default: that of its file, else {DEFAULT_API}]",
    )
    @click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The gateway's file, which leads to its key.  [default: ./{DEFAULT_CONFIG}]",
    )
    @click.option(
        "--api-key",
        envvar="SLUICEGATE_API_KEY",
        show_envvar=True,
        metavar="KEY",
        help="A key. Other users of this machine can see a command line: the variable is safer.",
    )
    @functools.wraps(command)
    def chosen(
        *arguments: Any, api: str | None, config: Path | None, api_key: str | None, **options: Any
    ) -> Any:
        return command(*arguments, api=choose(api, config, api_key), **options)

    return chosen


def call(api: Api, method: str, path: str, body: Any = None) -> Any:
    """One request to the gateway's API: its JSON answer.

    `CliError`: `UNREACHABLE` if nothing answers there or it is no gateway, `FAILED` with its reason if it
    refuses.
    """
    status, answer = request(api, method, path, body)
    if status >= 400:
        raise CliError(f"the gateway refused this: {reason(answer, status)}")
    return answer


def request(
    api: Api, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """One request: `(status, its JSON answer)`, None for an answer without a body. `CliError` as `UNREACHABLE`."""
    credentials = api.credentials
    status, answer = _request(api, method, path, body, headers, credentials)
    if status in (401, 403):
        again = api.credentials
        if again.key is not None and again.key != credentials.key:
            # The file was gone or old, and the gateway has made another key since.
            status, answer = _request(api, method, path, body, headers, again)
        elif credentials.advice and isinstance(answer, dict) and "detail" in answer:
            answer["detail"] = f"{answer['detail']} ({credentials.advice})"
    return status, answer


def _request(
    api: Api,
    method: str,
    path: str,
    body: Any,
    headers: Mapping[str, str] | None,
    credentials: Credentials,
) -> tuple[int, Any]:
    import httpx  # Here, because it takes longer to import than the rest of the command line together.

    url = api.url.rstrip("/") + path
    sent = {**(headers or {}), **credentials.headers}
    try:
        # Environment proxies are for the internet, not for a gateway on this machine or network. A redirect is not
        # followed: the key is for this address alone.
        with httpx.Client(
            timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False, verify=trusted(api)
        ) as client:
            response = client.request(method, url, json=body, headers=sent)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise CliError(f"{api} is not a URL, use the form {DEFAULT_API}") from None
    except httpx.TimeoutException:
        raise CliError(f"the gateway at {api} does not answer, look at its log", Exit.UNREACHABLE) from None
    except httpx.HTTPError as error:
        raise unreachable(api, *cause(api, error)) from None
    try:
        answer = response.json() if response.content else None
    except ValueError:
        raise CliError(
            f"{api} answers but not as a gateway (HTTP {response.status_code}), name its API with --api",
            Exit.UNREACHABLE,
        ) from None
    return response.status_code, answer


def reason(answer: Any, status: int) -> str:
    """The API answers errors as RFC 9457 problems: `detail` is the sentence for people."""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return detail if isinstance(detail, str) else f"HTTP {status}"


def no_gateway(api: Api) -> CliError:
    """The error for a server at `api` whose answers are not those of a gateway."""
    return CliError(f"{api} answers but not as a gateway, name its API with --api", Exit.UNREACHABLE)
