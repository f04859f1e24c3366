"""`POST /v1/packet-sources/NAME/messages`: sourcing packets, with an account of each entry (contract section 8)."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sluicegate.api import problems
from sluicegate.egress.message import EgressClosed, EgressFull, Message, Outcome
from sluicegate.http.direct import Answer, Found, Later, Take, awaited, send_answer
from sluicegate.http.doors import BodyTooLarge, Disconnected, read_body, refused_origin
from sluicegate.ids import new_id
from sluicegate.sources.base import Sender

BODY_LIMIT = 262_144  # as a message to SNS
ROOM_SECONDS = 5.0  # how long a POST waits for room to send before it answers 429
PATH = "/v1/packet-sources/{name}/messages"
_BEFORE, _AFTER = PATH.split("{name}")


class Absences(Protocol):
    """Says that there is no such resource."""

    def absent(self, kind: str, name: str) -> str: ...


class MessagesView(Protocol):
    """What this route needs to see of a running gateway."""

    @property
    def registry(self) -> Absences: ...

    def source(self, name: str) -> tuple[Sender, int, str] | None:
        """`(egress of its Listener, index in the Listener's spec, state of contract 1.3)`, None when
        unknown."""


class Messages:
    """The route's ASGI application, for requests that were let in."""

    def __init__(self, gateway: MessagesView, room_seconds: float = ROOM_SECONDS) -> None:
        self._gateway = gateway
        self._room_seconds = room_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(scope, receive, BODY_LIMIT)
        except BodyTooLarge:
            raise HTTPException(413, f"a message is at most {BODY_LIMIT} bytes") from None
        except Disconnected:
            return
        await send_answer(send, await awaited(self.take(scope, scope["path_params"]["name"], body)))

    def enter(self, scope: Scope) -> Take | None:
        """Who takes the body of this request, which was let in; None if it is another route's."""
        path = scope["path"]
        name = path[len(_BEFORE) : -len(_AFTER)]
        if path != _BEFORE + name + _AFTER or not name or "/" in name or scope["method"] != "POST":
            return None
        return lambda body: self.take(scope, name, body)

    def take(self, scope: Scope, name: str, body: bytes) -> Found:
        """Send a message; the answer is its account."""
        refused = refused_origin(scope)
        if refused is not None:
            return _problem(403, refused)
        found = self._gateway.source(name)
        if found is None:
            return _problem(404, self._gateway.registry.absent("PacketSource", name))
        sender, index, state = found
        if state != "Active":
            return _problem(409, f"PacketSource {name} is {state}: it takes messages when Active")
        message = Message(new_id(), index, body, time.time(), settles=False)
        done = sender.send_now(message)
        if done is None:
            return self._ended(sender, index, sender.send(message, room_seconds=self._room_seconds))
        return Later(done, lambda: self._finish(sender, index, done))

    def _finish(
        self, sender: Sender, index: int, done: asyncio.Future[Outcome]
    ) -> Answer | Awaitable[Answer]:
        if done.cancelled() or done.exception() is not None or done.result().failures:
            return self._ended(sender, index, done)
        return _account(done.result(), settled=True)

    async def _ended(self, sender: Sender, index: int, ending: Awaitable[Outcome]) -> Answer:
        try:
            outcome = await ending
        except EgressFull:
            return _problem(429, "the sender has no room: try again later", {"Retry-After": "1"})
        except EgressClosed:
            return _problem(503, "the Listener of this PacketSource is stopping")
        kept = not outcome.letters_lost
        settled = not outcome.failures or (kept and await _settled(sender, index, self._room_seconds))
        return _account(outcome, settled)


async def _settled(sender: Sender, index: int, seconds: float) -> bool:
    """True once the failures are where dead letters go, if they go anywhere."""
    try:
        async with asyncio.timeout(seconds):
            await sender.settle(index)
    except (TimeoutError, EgressClosed):
        return False
    return True


def _account(outcome: Outcome, settled: bool) -> Answer:
    account = {
        "MessageId": outcome.message_id,
        "Entries": outcome.entries,
        "Sent": outcome.sent,
        "Duplicates": outcome.duplicates,
        **({"Scheduled": outcome.scheduled} if outcome.scheduled else {}),
        "Failures": [
            {"Index": failure.index}
            | ({} if failure.remote_index is None else {"RemoteIndex": failure.remote_index})
            | {"Reason": failure.reason, "Detail": failure.detail}
            for failure in outcome.failures or ()
        ],
        "Settled": settled,
    }
    body = orjson.dumps(account)
    return Answer(200, [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")], body)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Answer:
    return answer_of(problems.problem(status, detail, headers))


def answer_of(response: Response) -> Answer:
    """A response of Starlette's."""
    return Answer(response.status_code, response.raw_headers, bytes(response.body))
