"""The connections of one server: how many there may be, and who makes room when more come.

Theory of operation. The budget counts a connection from its `accept` until its descriptor is closed, a TLS handshake
included. A connection is in one of three states:

- *fresh*: none of its requests has arrived whole yet. Whoever only holds connections open stays here.
- *served*: a request has arrived and is not answered yet.
- *resting*: its last answer is written, or its reader does not take the answer.

When the budget is used up, a newcomer takes the place of the oldest fresh connection, else of the one that has rested
longest, if that is at least 3 s. Served ones are never closed for others. Without a place the newcomer is told so
in the server's own language: some are answered at a time, and the others are closed at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

import structlog

log = structlog.get_logger("sluicegate.http")

REST_SECONDS = 3.0
"""A client that comes back sooner is active, and keeps its connection."""
ASIDE = 16
"""Newcomers that are told at a time that there is no place, and connections that are accepted before the event loop
does something else. Where there are few places it is a sixth of these, 1 at least: such connections are open beside
those that have a place."""
PAUSE_SECONDS = 0.1
"""Until the next `accept` when the process or the system has no descriptor left."""
SHUTDOWN_SECONDS = 2.0
"""For the client's part of the end of TLS."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connection(asyncio.Protocol):
    """What is accepted."""

    def refuse(self) -> None:
        """Answer its request with the reason why it is not served, and close."""
        raise NotImplementedError

    def cut(self) -> None:
        """Close it now; what is not written yet is lost."""
        raise NotImplementedError


class Room:
    """The places of a server, as many as `limit` says at that moment. Belongs to the event loop.

    `clock` gives seconds.
    """

    def __init__(self, limit: Callable[[], int], clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._held: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._fresh: dict[Connection, None] = {}
        self._resting: dict[Connection, float] = {}

    def enter(self, one: Connection) -> bool:
        """Take a place for a newcomer, if need be another's. False: it is not served, and to be closed at once."""
        if len(self._held) >= self._limit() and not self.make_place():
            if len(self._refused) >= self.aside:
                return False
            self._refused.add(one)
            one.refuse()
            return True
        self._held.add(one)
        self._fresh[one] = None
        return True

    @property
    def aside(self) -> int:
        """How many may be open for a moment beside those that have a place."""
        return max(1, min(ASIDE, self._limit() // 6))

    def serve(self, one: Connection) -> None:
        """A request of it has arrived."""
        self._fresh.pop(one, None)
        self._resting.pop(one, None)

    def rest(self, one: Connection) -> None:
        """Nothing is done for it until it does something."""
        if one in self._held and one not in self._fresh:
            self._resting.pop(one, None)
            self._resting[one] = self._clock()

    def leave(self, one: Connection) -> None:
        """It is closed."""
        self._held.discard(one)
        self._refused.discard(one)
        self._fresh.pop(one, None)
        self._resting.pop(one, None)

    def make_place(self) -> bool:
        """Close the one that is missed least; False if each of them is needed."""
        found = next(iter(self._fresh), None)
        if found is None:
            found, since = next(iter(self._resting.items()), (None, 0.0))
            if found is None or self._clock() - since < REST_SECONDS:
                return False
        self.leave(found)
        found.cut()
        return True


class Acceptor:
    """Accepts on `listening` as long as there is room. uvicorn takes it for a server of asyncio's.

    `connect` makes the protocol of a connection. `tls` gives what a new connection speaks at that moment; None: plain
    HTTP. `seconds` bound a handshake.
    """

    def __init__(
        self,
        listening: socket.socket,
        room: Room,
        connect: Callable[[], Connection],
        tls: Callable[[], ssl.SSLContext | None],
        seconds: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._room = room
        self._connect = connect
        self._tls = tls
        self._seconds = seconds
        self._opening: dict[Connection, asyncio.Task[object]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        else:
            self._loop.remove_reader(self._listening)
        for opening in self._opening.values():
            opening.cancel()

    async def wait_closed(self) -> None:
        """Everything that is open has a protocol, for whose end uvicorn waits."""

    def stop_handshake(self, protocol: Connection) -> None:
        """Close a connection that is not open yet."""
        opening = self._opening.get(protocol)
        if opening is not None:
            opening.cancel()

    def _accept(self) -> None:
        for _ in range(self._room.aside):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    return self._wait(error)
                continue  # that one connection has gone, or a firewall forbids it (accept(2))
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        protocol = self._connect()
        if not self._room.enter(protocol):
            accepted.close()
            return
        tls = self._tls()
        limits = {"ssl_handshake_timeout": self._seconds, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, **(limits if tls is not None else {})
            )
        )
        self._opening[protocol] = opening
        opening.add_done_callback(lambda task: self._opened(protocol, task))

    def _opened(self, protocol: Connection, opening: asyncio.Task[object]) -> None:
        self._opening.pop(protocol, None)
        # The client's fault, whatever it is: no TLS, an old version, silence.
        if opening.cancelled() or opening.exception() is not None:
            self._room.leave(protocol)

    def _wait(self, error: OSError) -> None:
        """The connection stays in the kernel's queue, where it would call for us without end."""
        self._room.make_place()
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)
        log.warning("a connection waits because no descriptor is left", error=error.strerror)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)
