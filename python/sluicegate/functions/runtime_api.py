"""The Lambda Runtime API (version 2018-06-01) for one worker: HTTP over a socket that the worker inherits, or over
an ephemeral port of the loopback, where only the worker is believed (`owner.py`).

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. The worker asks for work (`next`, a long
poll), answers it (`response` or `error`) and asks again; `init/error` says that it cannot. What the worker
sends is as untrusted as any input from the network: whatever it is, it ends in an HTTP status for this
worker, and is seen by no other.

The states, as in AWS's runtime interface emulator, whose statuses and error types the answers copy:

    starting ──next──► ready ──submit, next──► running ──response / error──► ready
        └──init/error──► failed

`next` while running is 403 (the runtime must answer first); a request id that is not the running one is 400.

A `response` with the header `Lambda-Runtime-Function-Response-Mode: streaming` is handed to the invocation's `consume`
as it comes. The trailers `Lambda-Runtime-Function-Error-Type` and `-Error-Body` (base64 of the JSON that `error` takes)
behind its body say that the handler failed in the middle. Without `consume` it is an answer like any other.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import time

import orjson
import structlog

from sluicegate.functions import owner
from sluicegate.functions.errors import AnswerTooLarge, FunctionError, FunctionInitFailed
from sluicegate.functions.invocation import Invocation
from sluicegate.functions.reports import error_of, place_of
from sluicegate.functions.runtime_http import RESPONSE_LIMIT, Connection, Request
from sluicegate.functions.streamed import CUT_SECONDS, Streamed

log = structlog.get_logger("sluicegate.functions")

PREFIX = "/2018-06-01/runtime/"
CONNECTIONS = 32  # a runtime needs two
REFUSED_SECONDS = 10.0  # between two lines of the log about connections that were refused

_ANSWERS = {202: b'{"status":"OK"}\n'}


class RuntimeApi:
    """The server of one worker. One invocation at a time: the owner submits the next after the answer to the
    last.
    """

    def __init__(self, function: str = "") -> None:
        self.initialised: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done with the first `next`; `FunctionInitFailed` when the runtime reports that instead."""
        self.group: int | None = None
        """The process group whose connections to the port are believed; None: nobody's."""
        self.met = False
        """True once the worker has connected."""
        self.stranger = ""
        """Why a connection to the port was refused last; empty if none was."""
        self._function = function
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._refused = 0
        self._told = 0.0
        self._poller: Connection | None = None
        self._waiting: Invocation | None = None
        self._running: Invocation | None = None
        self._answered_id = ""

    async def start(self) -> str:
        """Listen on a port, for a program that has a client of its own; set `group` once it runs. Returns
        `127.0.0.1:PORT`, the value of AWS_LAMBDA_RUNTIME_API. Raises `OSError` and `owner.Unavailable`."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            owner.check_available(listening.getsockname())
            self._server = await asyncio.get_running_loop().create_server(self._accept, sock=listening.dup())
            host, port = listening.getsockname()
        return f"{host}:{port}"

    async def connect(self, inherited: socket.socket) -> None:
        """Serve the other end of `inherited`, a pair of Unix sockets; it belongs to the API from here on. Nobody who
        does not inherit that end can speak there. Raises `OSError`."""
        await asyncio.get_running_loop().create_unix_connection(self._accept, sock=inherited)

    async def close(self) -> None:
        """Cut every connection. Does not end an invocation: its owner knows better why."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        if self._refused:
            self._tell_refused()
        if not self.initialised.cancel() and not self.initialised.cancelled():
            # Reported after nobody waited any more: not an unretrieved exception to complain about.
            self.initialised.exception()

    def submit(self, invocation: Invocation) -> None:
        """Give the worker its next invocation; `invocation.answer` tells the end."""
        self._waiting = invocation
        if self._poller is not None:
            self._give(self._poller)

    # Connections

    def _accept(self) -> Connection:
        return Connection(self._admit, self._begin, self._exchange, self._lost)

    def _admit(self, connection: Connection, transport: asyncio.Transport) -> bool:
        if self._server is not None:
            peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            why = owner.stranger(peer, local, self.group) if peer and local else "it is gone already"
            if why is not None:
                self._refuse(why)
                return False
        if len(self._connections) >= CONNECTIONS:
            return False
        self._connections.add(connection)
        self.met = True
        return True

    def _refuse(self, why: str) -> None:
        """Note a connection that was not the worker's; the log gets a line now and then, whoever knocks."""
        self.stranger = why
        self._refused += 1
        if asyncio.get_running_loop().time() - self._told >= REFUSED_SECONDS:
            self._tell_refused()

    def _tell_refused(self) -> None:
        log.warning(
            "connections to the Runtime API of a function were refused, as they are not its worker's",
            function=self._function,
            connections=self._refused,
            last=self.stranger,
        )
        self._refused, self._told = 0, asyncio.get_running_loop().time()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._poller is connection:
            self._poller = None
        invocation = self._running
        if (
            connection.stream is not None
            and invocation is not None
            and invocation.stream is connection.stream
        ):
            self._running, self._answered_id = None, invocation.request_id
            cut = FunctionError("Runtime.TruncatedResponse", "its response ended in the middle")
            asyncio.get_running_loop().call_later(CUT_SECONDS, connection.stream.end, cut)

    def _begin(self, connection: Connection, request: Request) -> Streamed | None:
        """Where a response goes whose head has come: to the running invocation, if it can take it in pieces."""
        invocation = self._running
        if invocation is None or invocation.consume is None or invocation.stream is not None:
            return None
        if (request.method, request.path) != ("POST", f"{PREFIX}invocation/{invocation.request_id}/response"):
            return None
        invocation.stream = Streamed(invocation.consume, invocation.succeed, invocation.fail, connection.hold)
        return invocation.stream

    def _exchange(self, connection: Connection, request: Request) -> None:
        if request.path != PREFIX + "invocation/next":
            connection.answer(*self._post(request))
        elif request.method != "GET":
            connection.answer(405)
        else:
            self._next(connection)

    # What the worker may say

    def _next(self, connection: Connection) -> None:
        if self._running is not None:
            return connection.answer(403, _transition("Running", "Ready"))
        if not self.initialised.done():
            self.initialised.set_result(None)
        # The poll may last for days. Of two, the later one counts: the earlier one may be of a thread that is gone.
        self._poller = connection
        if self._waiting is not None:
            self._give(connection)

    def _give(self, connection: Connection) -> None:
        """Hand over what waits. A worker that hung up meanwhile is not given an invocation."""
        if self._waiting is None or connection.is_hung_up():
            return
        invocation, self._waiting, self._poller = self._waiting, None, None
        self._running = invocation
        invocation.taken = True
        headers = (
            f"Lambda-Runtime-Aws-Request-Id: {invocation.request_id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {invocation.deadline_ms}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {invocation.arn}\r\n"
            f"Lambda-Runtime-Trace-Id: {invocation.trace_id}\r\n"
        )
        connection.answer(200, invocation.payload, headers)

    def _post(self, request: Request) -> tuple[int, bytes]:
        path = request.path
        match path.removeprefix(PREFIX).split("/") if path.startswith(PREFIX) else []:
            case ["init", "error"] | ["invocation", _, "response" | "error"] if request.method != "POST":
                return 405, b""
            case ["init", "error"]:
                return self._init_error(request.headers, request.body)
            case ["invocation", request_id, "response" | "error" as what]:
                return self._result(request_id, what, request)
        return 404, _error("NotFound", "404 page not found")

    def _init_error(self, headers: dict[bytes, bytes], body: bytes | None) -> tuple[int, bytes]:
        if self.initialised.done():
            return 403, _transition("Ready", "InitError")
        kind, message = error_of(body, _kind(headers))
        detail = f"{kind}: {message}" if message else kind
        self.initialised.set_exception(FunctionInitFailed(detail + place_of(body)))
        return 202, _ANSWERS[202]

    def _result(self, request_id: str, what: str, request: Request) -> tuple[int, bytes]:
        invocation = self._running
        if invocation is None or invocation.request_id != request_id:
            if invocation is None and request_id == self._answered_id:
                return 403, _transition("Ready", "InvocationResponse")
            return 400, _error("InvalidRequestID", "Invalid request ID")
        self._running = None
        self._answered_id = request_id
        if request.stream is not None:
            request.stream.end(_error_behind(request))
        elif request.body is None:
            invocation.fail(AnswerTooLarge(RESPONSE_LIMIT))
            message = f"Exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes)."
            return 413, _error("RequestEntityTooLarge", message)
        elif what == "error":
            invocation.fail(FunctionError(*error_of(request.body, _kind(request.headers))))
        elif (error := _error_behind(request)) is not None:
            invocation.fail(error)
        else:
            invocation.succeed(request.body)
        return 202, _ANSWERS[202]


def deadline_ms(seconds: float) -> int:
    """Lambda's notion of a deadline, that many seconds from now: Unix time in milliseconds."""
    return int((time.time() + seconds) * 1000)


def _error(kind: str, message: str) -> bytes:
    return orjson.dumps({"errorMessage": message, "errorType": kind})


def _transition(before: str, after: str) -> bytes:
    what = f"State transition from {before} to {after} failed for runtime."
    what += " Error: State transition is not allowed"
    return _error("InvalidStateTransition", what)


def _error_behind(request: Request) -> FunctionError | None:
    """The error that the trailers of a streamed response tell, if they do."""
    if not request.streams or not request.trailers:
        return None
    try:
        body = base64.b64decode(request.trailers.get(b"lambda-runtime-function-error-body", b""))
    except ValueError:
        body = b""
    return FunctionError(*error_of(body, _kind(request.trailers)))


def _kind(headers: dict[bytes, bytes]) -> str:
    return headers.get(b"lambda-runtime-function-error-type", b"").decode("latin-1")
