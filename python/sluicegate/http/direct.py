"""Requests that are answered at once: without a task, and without middleware and router.

For example a publish: its application looks at the head (`enter`), is given the whole body, and has the answer in the
same turn of the event loop. `answering.py` asks it for requests that are plain and small. All others, and those that
`enter` refuses, go the way of ASGI (`__call__`), where the application makes the same calls: nothing is checked in two
ways, and a refusal has one text.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

BODY_LIMIT = 65_536
"""Bytes of a body that is held for an answer at once. A larger one is read as the application asks for it."""


class Answer(NamedTuple):
    """An HTTP answer. `headers` have lower-case names, `content-length` among them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Later(NamedTuple):
    """An answer that waits for one thing: `finish` makes it when `future` is done, and may have to await more. It costs
    no task."""

    future: asyncio.Future[Any]
    finish: "Callable[[], Answer | Awaitable[Answer]]"


Found = Answer | Later | Awaitable[Answer]
Take = Callable[[bytes], Found]
"""Takes the body."""


class Direct(ABC):
    """An ASGI application that answers some requests at once."""

    @abstractmethod
    def enter(self, scope: Scope) -> Take | None:
        """Who takes the body of this request; None if `__call__` is to answer it, with a refusal or otherwise."""

    @abstractmethod
    def failed(self) -> Answer:
        """The answer after an exception that nobody expects."""

    @abstractmethod
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


async def send_answer(send: Send, answer: Answer) -> None:
    """Answer by the way of ASGI."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


async def awaited(found: Found) -> Answer:
    """What a `Take` found, at its end."""
    if isinstance(found, Later):
        await asyncio.wait([found.future])
        found = found.finish()
    return found if isinstance(found, Answer) else await found
