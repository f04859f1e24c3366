"""The gateway's end of the socket that a Python worker inherits: events out, answers in, as frames (`frames.py`).

It stands where the Runtime API (`runtime_api.py`) stands for other workers, and has the same states:

    starting ──N──► ready ──submit──► running ──R / X / F──► ready
        └──I──► failed

What comes in another order, or is no frame, was written by the handler's code: the worker is of no more use, and is
ended. What it sends is as untrusted as any input from the network, and is seen by no other worker.

No transport and no task: a read is handled in the callback in which it is made, and so is the write that it leads to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog

from sluicegate.functions import frames
from sluicegate.functions.errors import AnswerTooLarge, FunctionCrashed, FunctionError, FunctionInitFailed
from sluicegate.functions.frames import BODY_LIMIT, FrameReader, NotAFrame, event_frame
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.reports import error_of, place_of
from sluicegate.functions.streamed import CUT_SECONDS, Streamed

log = structlog.get_logger("sluicegate.functions")

_READ_BYTES = 64 * 1024
_BLAME = "something in it has written to descriptor 3, which is the gateway's"


class Pipe:
    """One invocation at a time: the owner submits the next after the answer to the last.

    `on_broken` is called when the worker must be ended because of what it sent while it had nothing to answer.
    """

    def __init__(self, function: str = "", on_broken: Callable[[], object] = lambda: None) -> None:
        self.initialised: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the first event may come; `FunctionInitFailed` when the worker reports that instead."""
        self.group: int | None = None
        self.met = True
        self.stranger = ""
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._on_broken = on_broken
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._running: Invocation | None = None
        self._pieces: list[bytes] | None = None  # of a streamed result that is wanted as a whole
        self._size = 0
        self._unsent = memoryview(b"")
        self._reading = self._hung_up = False

    def connect(self, inherited: socket.socket) -> None:
        """Use `inherited`, whose other end the worker inherits; it belongs to this from here on."""
        inherited.setblocking(False)
        self._socket = inherited
        self._read_on()

    async def close(self) -> None:
        """Hang up. Does not end an invocation: its owner knows better why."""
        self._hang_up()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if not self.initialised.cancel() and not self.initialised.cancelled():
            # Reported after nobody waited any more: not an unretrieved exception to complain about.
            self.initialised.exception()

    def submit(self, invocation: Invocation) -> None:
        """Give the worker its next invocation, which tells its own end."""
        if self._socket is None or self._hung_up:
            return
        self._running = invocation
        one = invocation
        frame = event_frame(one.request_id, one.deadline_ms, one.arn, one.trace_id, one.payload)
        try:
            # An answer may come before all of its event was read.
            sent = 0 if self._unsent else self._socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has closed its end; how it went is seen at the end of its process
            self._running = None
            return
        invocation.taken = True
        if sent < len(frame):
            self._unsent = memoryview(bytes(self._unsent) + frame[sent:])
            self._loop.add_writer(self._socket, self._write_on)

    def hold(self, held: bool) -> None:
        """Read nothing more while `held`."""
        if self._socket is None or self._hung_up:
            return
        if held and self._reading:
            self._loop.remove_reader(self._socket)
            self._reading = False
        elif not held and not self._reading:
            self._read_on()

    def _read_on(self) -> None:
        assert self._socket is not None  # noqa: S101
        self._loop.add_reader(self._socket, self._on_readable)
        self._reading = True

    def _write_on(self) -> None:
        assert self._socket is not None  # noqa: S101
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _hang_up(self) -> None:
        """Neither read nor write any more."""
        self._hung_up = True
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._reading = False

    def _on_readable(self) -> None:
        assert self._socket is not None  # noqa: S101
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._on_end()
        try:
            for kind, body in self._reader.feed(data):
                self._take(kind, body)
        except NotAFrame as error:
            self._break(str(error))

    def _on_end(self) -> None:
        """The worker has closed its end, most likely because it has ended."""
        self._hang_up()
        if self._running is not None and (self._running.stream is not None or self._pieces is not None):
            cut = FunctionError("Runtime.TruncatedResponse", "its response ended in the middle")
            invocation, self._running = self._running, None
            end = invocation.fail if invocation.stream is None else invocation.stream.end
            self._loop.call_later(CUT_SECONDS, end, cut)

    # What the worker may say

    def _take(self, kind: int, body: bytes | None) -> None:
        invocation = self._running
        if invocation is None:
            return self._take_at_start(kind, body)
        if kind == frames.PIECE and body is not None:
            return self._take_piece(invocation, body)
        streamed = invocation.stream is not None or self._pieces is not None
        if streamed is not (kind == frames.END) or kind not in (frames.RESULT, frames.ERROR, frames.END):
            raise NotAFrame(f"a frame {chr(kind)} came while an event was handled")
        self._running = None
        if kind == frames.END:
            self._end_pieces(invocation, body)
        elif body is None:
            invocation.fail(AnswerTooLarge(BODY_LIMIT))
        elif kind == frames.RESULT:
            invocation.succeed(body)
        else:
            invocation.fail(FunctionError(*error_of(body)))

    def _take_at_start(self, kind: int, body: bytes | None) -> None:
        if self.initialised.done() or kind not in (frames.NEXT, frames.INIT_ERROR):
            raise NotAFrame(f"a frame {chr(kind)} came while there was nothing to answer")
        if kind == frames.NEXT:
            return self.initialised.set_result(None)
        name, message = error_of(body)
        detail = f"{name}: {message}" if message else name
        self.initialised.set_exception(FunctionInitFailed(detail + place_of(body)))

    def _take_piece(self, invocation: Invocation, piece: bytes) -> None:
        if invocation.consume is not None:
            if invocation.stream is None:
                invocation.stream = Streamed(
                    invocation.consume, invocation.succeed, invocation.fail, self.hold
                )
            return invocation.stream.put(piece)
        if self._pieces is None:
            self._pieces, self._size = [], 0
        self._size += len(piece)
        if self._size <= BODY_LIMIT:
            self._pieces.append(piece)
        elif self._size > frames.DISCARD_LIMIT:
            raise NotAFrame(f"a streamed result has more than {frames.DISCARD_LIMIT} bytes")

    def _end_pieces(self, invocation: Invocation, report: bytes | None) -> None:
        pieces, self._pieces = self._pieces or [], None
        failure = None if report == b"" else FunctionError(*error_of(report))
        if invocation.stream is not None:
            invocation.stream.end(failure)
        elif failure is None and self._size > BODY_LIMIT:
            invocation.fail(AnswerTooLarge(BODY_LIMIT))
        elif failure is None:
            invocation.succeed(b"".join(pieces))
        else:
            invocation.fail(failure)

    def _break(self, what: str) -> None:
        """It cannot be understood from here on."""
        self._hang_up()
        log.warning(
            "a worker is ended: what came from it is not its runtime's", function=self._function, detail=what
        )
        detail = f"{_BLAME} ({what}); the worker was ended"
        invocation, self._running = self._running, None
        if not self.initialised.done():
            self.initialised.set_exception(FunctionInitFailed(detail))
        elif invocation is not None and not invocation.over:
            return invocation.fail(FunctionCrashed(detail))
        self._on_broken()
