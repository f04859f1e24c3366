"""`sluicegate tail`: what a running gateway does, as it happens."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from sluicegate.cli.client import api_option, no_gateway
from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError, Exit
from sluicegate.cli.event_text import event_line
from sluicegate.cli.options import output_option
from sluicegate.cli.trust import NO_GATEWAY, cause, trusted, unreachable
from sluicegate.events.types import TYPES

if TYPE_CHECKING:
    import httpx

ANSWER_SECONDS = 10.0
"""How long the gateway may take to answer at all; then the time of --timeout begins."""
SILENCE_SECONDS = 30.0
"""The gateway sends something every 10 s: after this it is gone, whatever its socket says."""
RETRY_SECONDS = 0.5


@click.command("tail")
@click.option("--listener", multiple=True, metavar="NAME", help="Only of this Listener.")
@click.option("--remote", metavar="REMOTE", help="Only of this address, network (CIDR) or address:port.")
@click.option(
    "--direction", type=click.Choice(["in", "out"]), help="Only of packets that come in, or go out."
)
@click.option("--reason", multiple=True, metavar="REASON", help="Only with this Reason.")
@click.option("--event", multiple=True, metavar="EVENT", help="Only events of this name.")
@click.option(
    "--rate", type=int, metavar="N", help="Events of packets a second and Listener.  [default: 100]"
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="End after S seconds."
)
@api_option
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    listener: tuple[str, ...],
    remote: str | None,
    direction: str | None,
    reason: tuple[str, ...],
    event: tuple[str, ...],
    rate: int | None,
    count: int | None,
    timeout: float | None,
    api: Api,
    output: str,
) -> None:
    """Show events as they happen, one line each, until interrupted.

    More than --rate events of packets are counted and told. If the gateway goes away, waits for it to come back.
    --listener, --reason and --event may be given several times; json is one object per line.

    \b
    sluicegate tail --direction out
    sluicegate tail --event SourceFailed --event ReplyFailed --output json
    """
    query: dict[str, Any] = {"listener": listener, "reason": reason, "event": event}
    query |= {"remote": remote, "direction": direction, "rate": rate}
    stream = _Tail(
        api,
        {name: value for name, value in query.items() if value not in (None, ())},
        output == "json",
        count,
    )
    try:
        asyncio.run(stream.run(timeout))
    except KeyboardInterrupt:
        ctx.exit(Exit.OK if count is None else Exit.FAILED)
    if stream.seen == 0:
        stream.note(f"nothing happened in {timeout:g} s that the filters let through")
    if count is not None and stream.seen < count:
        raise CliError(f"saw {stream.seen} of {count} events in {timeout:g} s; does a filter leave them out?")


class _Tail:
    """One run of the command. `seen` counts events; notes about the stream are shown but are none."""

    def __init__(self, api: Api, query: dict[str, Any], as_json: bool, count: int | None) -> None:
        self.seen = 0
        self._api = api
        self._query = query
        self._json = as_json
        self._count = count
        self._connected = False
        self._seconds: float | None = None
        self._end = asyncio.Timeout(None)

    async def run(self, seconds: float | None) -> None:
        """Until `count` events were seen, or `seconds` after the gateway answered.

        `CliError` if there is no gateway, or it refuses.
        """
        import httpx  # Here, because it takes longer to import than the rest of the command line together.

        # Environment proxies are for the internet, not for a gateway on this machine or network.
        limits = httpx.Timeout(ANSWER_SECONDS, read=SILENCE_SECONDS)
        self._seconds = seconds
        async with httpx.AsyncClient(timeout=limits, trust_env=False, verify=trusted(self._api)) as client:
            try:
                async with asyncio.timeout(ANSWER_SECONDS) as self._end:
                    await self._follow(client)
            except TimeoutError:
                if not self._connected:
                    raise unreachable(self._api, "it does not answer", NO_GATEWAY) from None

    async def _follow(self, client: "httpx.AsyncClient") -> None:
        import httpx

        while True:
            away, step = "it ended the stream", NO_GATEWAY
            try:
                async with aclosing(self._lines(client)) as lines:
                    async for line in lines:
                        if self._show(line):
                            return
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise CliError(f"{self._api} is not a URL, use the form http://127.0.0.1:8080") from None
            except httpx.HTTPError as error:
                away, step = cause(self._api, error)
            if not self._connected:
                raise unreachable(self._api, away, step)
            self.note(f"the gateway at {self._api} went away ({away}), waiting for it")
            await self._wait(client)

    async def _lines(self, client: "httpx.AsyncClient") -> AsyncGenerator[str, None]:
        """The lines of one connection, without the empty ones that only show that it lives."""
        url = self._api.url.rstrip("/") + "/v1/events"
        credentials = self._api.credentials
        headers = {"Accept": "application/x-ndjson", **credentials.headers}
        async with client.stream("GET", url, params=self._query, headers=headers) as response:
            if response.is_error:
                said = _reason(await response.aread(), response.status_code)
                advice = (
                    f" ({credentials.advice})" if response.status_code == 401 and credentials.advice else ""
                )
                raise CliError(f"the gateway refused this: {said}{advice}")
            if not response.headers.get("content-type", "").startswith("application/x-ndjson"):
                raise no_gateway(self._api)
            if self._connected:
                self.note("the gateway is back")
            else:
                self.note(f"watching {self._api}")
                self._connected = True
                now = asyncio.get_running_loop().time()
                self._end.reschedule(None if self._seconds is None else now + self._seconds)
            rest = b""
            async for chunk in response.aiter_bytes():
                # Not `aiter_lines`: for it U+2028 inside of a text is the end of a line too.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    yield line.decode("utf-8", "replace")

    async def _wait(self, client: "httpx.AsyncClient") -> None:
        """Returns when the gateway answers again."""
        import httpx

        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                answer = await client.get(self._api.url.rstrip("/") + "/healthz")
            except httpx.HTTPError:
                continue
            if answer.is_success:
                return

    def _show(self, line: str) -> bool:
        """Print it; True when that was the last one."""
        event = json.loads(line)
        click.echo(line if self._json else event_line(event))
        known = TYPES.get(event["Event"])
        if known is None or known.kind != "note":
            self.seen += 1
        return self._count is not None and self.seen >= self._count

    def note(self, text: str) -> None:
        """Say something about the stream, on standard error."""
        click.echo(click.style(text, fg="yellow"), err=True)


def _reason(body: bytes, status: int) -> str:
    """The API answers errors as RFC 9457 problems: `detail` is the sentence for people."""
    try:
        detail = json.loads(body).get("detail")
    except (ValueError, AttributeError):
        detail = None
    return detail if isinstance(detail, str) else f"HTTP {status}"
