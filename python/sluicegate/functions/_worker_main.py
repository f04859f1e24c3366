"""The program of a Python worker: becomes AWS's runtime, with faster JSON and a pipe in place of HTTP.

Run by path as `python -P _worker_main.py HANDLER SOCKET`; it imports nothing of ours, so that the handler finds the
interpreter as AWS would leave it. SOCKET is the descriptor of the inherited socket at whose other end the gateway is;
`frames.py` says what goes over it.

AWS's runtime knows functions that return a result. Here a handler may also be `async def`, and may be a generator: each
thing that it yields is posted at once, as a line of a streamed response. So is what it returns at its end, and what an
iterator that it returns has.

The handler's folder may have modules with names of the standard library. What AWS's runtime itself imports is loaded
before the folder is searched, and stays Python's own. What only this program needs is taken away again where the folder
has a module of that name. So `import uuid` finds there what it finds on AWS.
"""

import os
import sys

_FOLDERS = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
_SEARCHED = sys.path[:]
sys.path[:] = [one for one in sys.path if one not in _FOLDERS]  # what is imported here is Python's own

import array  # noqa: E402
import socket  # noqa: E402
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEADLINE = "Lambda-Runtime-Deadline-Ms"
_TRACE_ID = "_X_AMZN_TRACE_ID"
_TRACE_ID_KEY = _TRACE_ID.encode()
_LOOK_US = 250_000
"""A signal that comes just before the wait for work does not end it, and its handler is to run."""
_RECEIVE_BYTES = 1 << 16
_PIECE_BYTES = 1 << 18
_HEADER, _EVENT = 5, 15  # bytes of a frame's header, and of everything before the head of an event
_ERROR_CHARACTERS = 10_000
"""Of a message behind a streamed response."""
_OURS = frozenset(["_socket", "array", "errno", "select", "selectors", "socket"])
"""What is imported here and AWS's runtime does without."""


def main() -> None:
    target, client = sys.argv[1], _Client(int(sys.argv[2]))
    sys.argv = ["awslambdaric", target]
    started = frozenset(sys.modules)
    from awslambdaric.__main__ import main as runtime  # type: ignore[import-untyped]

    of_aws = frozenset(sys.modules) - started
    _speed_up_json(client)
    _take_over(client)
    _search_the_folder(target, (frozenset(sys.modules) - started - of_aws) | _OURS)
    runtime(sys.argv)


def _search_the_folder(handler: str, ours: frozenset[str]) -> None:
    """The function's folder is the first to be searched, as on AWS. Modules of `ours`, and the handler's own, are
    imported anew where it has one of their names; our functions keep those that they have."""
    from importlib.machinery import PathFinder

    folders = [os.environ["LAMBDA_TASK_ROOT"], *_FOLDERS]
    sys.path[:] = [folders[0], *_SEARCHED]
    for name in {one for one in ours if "." not in one} | {handler.replace("/", ".").partition(".")[0]}:
        found = PathFinder.find_spec(name, folders) if name in sys.modules else None
        if found is not None and found.origin is not None:
            for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                del sys.modules[loaded]


def _speed_up_json(client: "_Client") -> None:
    """Events and results through orjson, a third of the time; what it refuses goes the runtime's own way. What a result
    still has to do is done here, where the runtime reports its exceptions as the handler's.

    The runtime names this attribute as the place to do so; a handler that sets its own comes later and wins.
    """
    import orjson
    from awslambdaric.lambda_runtime_client import BaseLambdaRuntimeClient  # type: ignore[import-untyped]
    from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller  # type: ignore[import-untyped]

    # Refused by AWS, so not to be accepted here either.
    options = (
        orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
    )

    class Marshaller(LambdaMarshaller):  # type: ignore[misc]
        def unmarshal_request(self, request: bytes, content_type: str = "application/json") -> object:
            if content_type == "application/json":
                try:
                    return orjson.loads(request)
                except orjson.JSONDecodeError:
                    pass
            return super().unmarshal_request(request, content_type)

        def marshal_response(self, response: object) -> tuple[object, str]:
            if not isinstance(response, bytes):
                try:
                    return orjson.dumps(response, None, options), "application/json"
                except TypeError:
                    pass
                if isinstance(response, Awaitable):
                    return self.marshal_response(_run(_result_of(response)))
                if isinstance(response, Iterator | AsyncIterator):
                    _for_each(response, self._post)
                    return b"null", "application/json"
            return super().marshal_response(response)  # type: ignore[no-any-return]

        def _post(self, one: object) -> None:
            """Post one thing that a handler has yielded. Bytes are a part of a document, whose author cuts it."""
            if isinstance(one, bytes):
                return client.post_piece(one)
            if one is None:
                return None
            try:
                document = orjson.dumps(one, None, options)
            except TypeError:
                document = super().marshal_response(one)[0].encode("utf-8", "replace")
            return client.post_piece(document + b"\n")

    BaseLambdaRuntimeClient.marshaller = Marshaller()


_runner: "Any" = None
"""The event loop of `async` handlers, kept from one invocation to the next: so may clients be that belong to it."""


def _run(work: "Coroutine[Any, Any, object]") -> object:
    global _runner
    import asyncio  # only where the handler needs it; found as its own import would find it
    import contextvars

    _runner = _runner or asyncio.Runner()
    return _runner.run(work, context=contextvars.copy_context())


async def _result_of(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _for_each(results: Iterator[object] | AsyncIterator[object], post: Callable[[object], None]) -> None:
    if isinstance(results, AsyncIterator):
        _run(_for_each_async(results, post))
        return
    while True:
        try:
            one = next(results)
        except StopIteration as end:
            return post(
                end.value
            )  # what a generator returns: in one branch it yields, in another it does not
        post(one)


async def _for_each_async(results: AsyncIterator[object], post: Callable[[object], None]) -> None:
    async for one in results:
        post(one)


def _take_over(client: "_Client") -> None:
    """Everything that the runtime asks of the Runtime API goes through `client` instead of libcurl and `http.client`,
    which need a port. libcurl also takes a sixth of the time of an echo and is deaf to signals: from Python 3.12 on the
    runtime calls it in a thread of its own for each invocation."""
    from awslambdaric import lambda_runtime_client  # type: ignore[import-untyped]
    from awslambdaric.lambda_config import LambdaConfigProvider  # type: ignore[import-untyped]

    def post_init_error(runtime: object, error: dict[str, object], kind: str | None = None) -> None:
        report = error | {"errorType": kind} if kind else error
        client.post_init_error(lambda_runtime_client.to_json(report).encode("utf-8", "replace"))

    LambdaConfigProvider.SUPPORTED_THREADPOLLING_ENVS = frozenset()
    _take_over_trace_id()
    lambda_runtime_client.runtime_client = client
    lambda_runtime_client.BaseLambdaRuntimeClient.post_init_error = post_init_error


def _take_over_trace_id() -> None:
    """glibc keeps every value that a variable of the environment ever had: 140 bytes for each invocation. So only
    Python's own view of it changes; what a handler starts without an `env` sees the first one."""
    from awslambdaric import bootstrap

    setting = bootstrap.update_xray_env_variable

    def update(trace_id: str | None) -> None:
        if trace_id is None or _TRACE_ID not in os.environ:
            setting(trace_id)
        else:
            os.environ._data[_TRACE_ID_KEY] = os.environ.encodevalue(trace_id)  # type: ignore[attr-defined]

    bootstrap.update_xray_env_variable = update


class _Client:
    """What the runtime calls, over the inherited socket: an answer is one write, the next event one read.

    Made before the handler is loaded: a default timeout that the handler sets for its sockets must not hold here. The
    other side is `pipe.py`.
    """

    def __init__(self, descriptor: int) -> None:
        self._ready = False
        self._streaming = False  # a piece of a response has been sent, and not its end
        self._read = b""
        self._socket = socket.socket(fileno=descriptor)
        # What the handler starts has no part in it.
        self._socket.set_inheritable(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, array.array("l", (0, _LOOK_US)))

    def post_init_error(self, report: bytes) -> None:
        self._send(b"I", report)

    def next(self) -> tuple[bytes, dict[str, str | int]]:
        if not self._ready:
            self._ready = True
            self._send(b"N", b"")
        frame = self._frame()
        end = _EVENT + int.from_bytes(frame[13:15], "little")
        request_id, arn, trace_id = frame[_EVENT:end].decode().split("\n")
        return frame[end:], {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Invoked-Function-Arn": arn,
            "Lambda-Runtime-Trace-Id": trace_id,
            _DEADLINE: int.from_bytes(frame[_HEADER:13], "little"),
        }

    def post_piece(self, piece: bytes) -> None:
        """The next piece of a response that is posted while the handler goes on."""
        self._streaming = True
        for start in range(0, max(1, len(piece)), _PIECE_BYTES):
            self._send(b"P", piece[start : start + _PIECE_BYTES])

    def post_invocation_result(
        self, request_id: str, result: bytes, content_type: str, invocation_id: str | None = None
    ) -> None:
        if self._streaming:
            self._streaming = False
            self._send(b"F", b"")
        else:
            self._send(b"R", result)

    def post_error(
        self, request_id: str, error: str, xray_fault: str, invocation_id: str | None = None
    ) -> None:
        if not self._streaming:
            return self._send(b"X", error.encode("utf-8", "replace"))
        import json  # AWS's runtime has imported it

        self._streaming = False
        report = json.loads(error)
        kind, message = str(report["errorType"])[:200], str(report["errorMessage"])[:_ERROR_CHARACTERS]
        return self._send(b"F", json.dumps({"errorType": kind, "errorMessage": message}).encode())

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(len(body).to_bytes(4, "little") + kind + body)

    def _frame(self) -> bytes:
        """The next one."""
        data = self._read or self._receive()
        while len(data) < _HEADER:
            data += self._receive()
        end = _HEADER + int.from_bytes(data[:4], "little")
        if (size := len(data)) < end:
            parts = [data]
            while size < end:
                parts.append(self._receive())
                size += len(parts[-1])
            data = b"".join(parts)
        self._read = data[end:]
        return data[:end]

    def _receive(self) -> bytes:
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue
            if not data:
                raise RuntimeError("the gateway has closed the connection")
            return data


if __name__ == "__main__":
    main()
