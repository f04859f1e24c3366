"""The Lambda Runtime API (version 2018-06-01) for one worker: an HTTP server on an ephemeral port of the
loopback.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. The worker asks for work (`next`, a long
poll), answers it (`response` or `error`) and asks again; `init/error` says that it cannot. What the worker
sends is as untrusted as any input from the network: whatever it is, it ends in an HTTP status for this
worker, and is seen by no other.

The states, as in AWS's runtime interface emulator, whose statuses and error types the answers copy:

    starting ──next──► ready ──submit, next──► running ──response / error──► ready
        └──init/error──► failed

`next` while running is 403 (the runtime must answer first); a request id that is not the running one is 400.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field

import h11
import orjson

from sluicegate.functions.errors import FunctionError, FunctionFailure, FunctionInitFailed

PREFIX = "/2018-06-01/runtime/"
RESPONSE_LIMIT = 6 * 1024 * 1024 + 100  # Lambda's quota for a synchronous answer, with its own allowance
DISCARD_LIMIT = 64 * 1024 * 1024  # of a body that is too large; then the connection is cut
EARLY_LIMIT = 256 * 1024  # bytes that may come while the answer to `next` is awaited
CONNECTIONS = 32  # a runtime needs two

_ANSWERS = {202: b'{"status":"OK"}\n'}


@dataclass(slots=True, eq=False)
class Invocation:
    """One event for the handler. `deadline_ms` is Unix time in milliseconds; `answer` gets the body of the
    response.

    `taken` is true once the worker has it: from then on the handler may have run.
    """

    request_id: str
    payload: bytes
    deadline_ms: int
    arn: str
    trace_id: str
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    taken: bool = False

    def fail(self, failure: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(failure)


class RuntimeApi:
    """The server of one worker. One invocation at a time: the owner submits the next after the answer to the
    last.
    """

    def __init__(self) -> None:
        self.initialised: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the first `next`; `FunctionInitFailed` when the runtime reports that instead."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: Invocation | None = None
        self._arrived = asyncio.Event()
        self._running: Invocation | None = None
        self._answered_id = ""

    async def start(self) -> str:
        """Listen; returns `127.0.0.1:PORT`, the value of AWS_LAMBDA_RUNTIME_API."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 18)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def close(self) -> None:
        """Cut every connection. Does not end an invocation: its owner knows better why."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        if not self.initialised.cancel() and not self.initialised.cancelled():
            # Reported after nobody waited any more: not an unretrieved exception to complain about.
            self.initialised.exception()

    def submit(self, invocation: Invocation) -> None:
        """Give the worker its next invocation; `invocation.answer` tells the end."""
        self._waiting = invocation
        self._arrived.set()

    # Connections

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Without it an answer waits for the other side's delayed acknowledgement: 44 ms measured.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(reader, writer)
        try:
            while await self._exchange(connection):
                pass
        except h11.RemoteProtocolError as error:
            connection.refuse(error)
        except (ConnectionError, h11.LocalProtocolError):
            # Gone in the middle of an exchange. If that matters, the worker's exit says so.
            pass
        finally:
            writer.close()

    async def _exchange(self, connection: _Connection) -> bool:
        """One request and its answer; False when the connection is at its end."""
        request = await connection.request()
        if request is None:
            return False
        body = await connection.body(RESPONSE_LIMIT)
        method, path = request.method.decode(), request.target.decode("latin-1").partition("?")[0]
        if path == PREFIX + "invocation/next":
            if method != "GET":
                return await connection.answer(405)
            return await self._next(connection)
        status, answer = self._post(method, path, dict(request.headers), body)
        return await connection.answer(status, answer)

    # What the worker may say

    async def _next(self, connection: _Connection) -> bool:
        if self._running is not None:
            return await connection.answer(403, _transition("Running", "Ready"))
        if not self.initialised.done():
            self.initialised.set_result(None)
        while self._waiting is None:
            self._arrived.clear()
            # The poll may last for days; a worker that hangs up meanwhile must not be given an invocation.
            if not await connection.wait_for(self._arrived):
                return False
        invocation, self._waiting = self._waiting, None
        self._running = invocation
        invocation.taken = True
        headers = [
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(invocation.deadline_ms)),
            ("Lambda-Runtime-Invoked-Function-Arn", invocation.arn),
            ("Lambda-Runtime-Trace-Id", invocation.trace_id),
        ]
        return await connection.answer(200, invocation.payload, headers)

    def _post(
        self, method: str, path: str, headers: dict[bytes, bytes], body: bytes | None
    ) -> tuple[int, bytes]:
        parts = path.removeprefix(PREFIX).split("/") if path.startswith(PREFIX) else []
        match parts:
            case ["init", "error"] | ["invocation", _, "response" | "error"] if method != "POST":
                return 405, b""
            case ["init", "error"]:
                return self._init_error(headers, body)
            case ["invocation", request_id, "response" | "error" as what]:
                return self._result(request_id, what, headers, body)
        return 404, _error("NotFound", "404 page not found")

    def _init_error(self, headers: dict[bytes, bytes], body: bytes | None) -> tuple[int, bytes]:
        if self.initialised.done():
            return 403, _transition("Ready", "InitError")
        kind, message = _error_of(headers, body)
        self.initialised.set_exception(FunctionInitFailed(f"{kind}: {message}" if message else kind))
        return 202, _ANSWERS[202]

    def _result(
        self, request_id: str, what: str, headers: dict[bytes, bytes], body: bytes | None
    ) -> tuple[int, bytes]:
        invocation = self._running
        if invocation is None or invocation.request_id != request_id:
            if invocation is None and request_id == self._answered_id:
                return 403, _transition("Ready", "InvocationResponse")
            return 400, _error("InvalidRequestID", "Invalid request ID")
        self._running = None
        self._answered_id = request_id
        if body is None:
            limit = f"the answer is larger than Lambda's limit of {RESPONSE_LIMIT} bytes"
            invocation.fail(_TooLarge(limit))
            message = f"Exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes)."
            return 413, _error("RequestEntityTooLarge", message)
        if what == "error":
            invocation.fail(FunctionError(*_error_of(headers, body)))
        elif not invocation.answer.done():
            invocation.answer.set_result(body)
        return 202, _ANSWERS[202]


class _TooLarge(FunctionFailure):
    reason = "FunctionAnswerTooLarge"


class _Connection:
    """h11 over asyncio streams: whole requests in, whole answers out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        self._early = 0

    async def request(self) -> h11.Request | None:
        self._early = 0
        event = await self._event()
        return event if isinstance(event, h11.Request) else None

    async def body(self, limit: int) -> bytes | None:
        """The body of the current request; None when it is longer than `limit` (read and thrown away)."""
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self._event(), h11.Data):
            size += len(event.data)
            if size <= limit:
                parts.append(bytes(event.data))
            elif size > DISCARD_LIMIT:
                raise ConnectionAbortedError
        return b"".join(parts) if size <= limit else None

    async def wait_for(self, arrived: asyncio.Event) -> bool:
        """False when the other side hangs up before `arrived` is set."""
        loop = asyncio.get_running_loop()
        event = loop.create_task(arrived.wait())
        read = loop.create_task(self._reader.read(1 << 16))
        try:
            await asyncio.wait((event, read), return_when=asyncio.FIRST_COMPLETED)
        finally:
            event.cancel()
            read.cancel()
            done, _ = await asyncio.wait((event, read))
        if read in done and not read.cancelled():
            data = read.result()
            # The next request may come early (pipelining), but not a stream; the end is an empty read.
            self._early += len(data)
            self._http.receive_data(data)
            return bool(data) and self._early <= EARLY_LIMIT
        return True

    async def answer(
        self, status: int, body: bytes = b"", headers: list[tuple[str, str]] | None = None
    ) -> bool:
        """Send it; False when no further request can follow."""
        lines = headers if headers is not None else [("Content-Type", "application/json")]
        response = h11.Response(
            status_code=status,
            headers=[*lines, ("Content-Length", str(len(body)))],
            reason=_REASONS.get(status, ""),
        )
        head = self._http.send(response) or b""
        data = self._http.send(h11.Data(data=body)) or b""
        end = self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(head + data + end)
        await self._writer.drain()
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is not HTTP, as far as the connection's state allows it."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status = error.error_status_hint
            self._writer.write(
                f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n".encode()
                + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
            )

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11's sentinels are classes
            if self._http.they_are_waiting_for_100_continue:
                going_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                self._writer.write(self._http.send(going_on) or b"")
            self._http.receive_data(await self._reader.read(1 << 16))


_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
}


def deadline_ms(seconds: float) -> int:
    """Lambda's notion of a deadline, that many seconds from now: Unix time in milliseconds."""
    return int((time.time() + seconds) * 1000)


def _error(kind: str, message: str) -> bytes:
    return orjson.dumps({"errorMessage": message, "errorType": kind})


def _transition(before: str, after: str) -> bytes:
    what = f"State transition from {before} to {after} failed for runtime."
    what += " Error: State transition is not allowed"
    return _error("InvalidStateTransition", what)


def _error_of(headers: dict[bytes, bytes], body: bytes | None) -> tuple[str, str]:
    """`(errorType, errorMessage)` as reported; the body may be anything, the header then names the type."""
    try:
        document = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    header = headers.get(b"lambda-runtime-function-error-type", b"").decode("latin-1")
    return str(document.get("errorType") or header or "Unhandled"), str(document.get("errorMessage") or "")
