"""The program of a Python worker: becomes AWS's runtime, with faster JSON and HTTP.

Run by path as `python -P _worker_main.py HANDLER SOCKET`; it imports nothing of ours, so that the handler finds the
interpreter as AWS would leave it. SOCKET is the descriptor of the inherited socket at whose other end the Runtime API
is.

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

import binascii  # noqa: E402
import select  # noqa: E402
import socket  # noqa: E402
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INVOCATION = "/2018-06-01/runtime/invocation/"
_INIT_ERROR = "/2018-06-01/runtime/init/error"
_DEADLINE = "Lambda-Runtime-Deadline-Ms"
_STREAMING = "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
_ERROR_TYPE, _ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"
_LOOK_MS = 250  # a signal that comes just before the wait for work does not end it, and its handler is to run
_RECEIVE_BYTES = 1 << 18
_ERROR_CHARACTERS = 10_000
"""Of a message behind a streamed response, which goes with the headers."""
_OURS = frozenset(["_socket", "array", "binascii", "errno", "select", "selectors", "socket"])
"""What is imported here and AWS's runtime does without."""


def main() -> None:
    target, client = sys.argv[1], _Client(int(sys.argv[2]))
    sys.argv = ["awslambdaric", target]
    started = frozenset(sys.modules)
    from awslambdaric.__main__ import main as runtime  # type: ignore[import-untyped]

    of_aws = frozenset(sys.modules) - started
    _speed_up_json(client)
    _take_over_http(client)
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


def _take_over_http(client: "_Client") -> None:
    """Everything that the runtime asks of the Runtime API goes through `client` instead of libcurl and `http.client`,
    which need a port. libcurl also takes a sixth of the time of an echo and is deaf to signals: from Python 3.12 on the
    runtime calls it in a thread of its own for each invocation."""
    from awslambdaric import lambda_runtime_client  # type: ignore[import-untyped]
    from awslambdaric.lambda_config import LambdaConfigProvider  # type: ignore[import-untyped]

    def post_init_error(runtime: object, error: dict[str, object], kind: str | None = None) -> None:
        headers = {lambda_runtime_client.ERROR_TYPE_HEADER: str(kind or error["errorType"])}
        body = lambda_runtime_client.to_json(error).encode("utf-8", "replace")
        client.call("POST", _INIT_ERROR, body, headers)

    LambdaConfigProvider.SUPPORTED_THREADPOLLING_ENVS = frozenset()
    lambda_runtime_client.runtime_client = client
    lambda_runtime_client.BaseLambdaRuntimeClient.post_init_error = post_init_error


class _Client:
    """What the runtime calls, over the inherited socket. A result is sent together with the request for the next
    invocation, and both answers are read together.

    Made before the handler is loaded: a default timeout that the handler sets for its sockets must not hold here. The
    other side is `runtime_http.py`. No callbacks, as a parser in C has them: a signal's handler may raise `SystemExit`
    at any place, and through those it would not get.
    """

    def __init__(self, descriptor: int) -> None:
        self._host = "Host: runtime\r\n"
        self._next = f"GET {_INVOCATION}next HTTP/1.1\r\n{self._host}\r\n".encode()
        self._posted = False
        self._request_id = ""
        self._streaming = False  # the head of a response has been sent, and not its end
        self._read = b""
        self._socket = socket.socket(fileno=descriptor)
        # What the handler starts has no part in it.
        self._socket.set_inheritable(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def call(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        """The status of a request that is neither for an invocation nor its result."""
        lines = "".join(f"{name}: {' '.join(value.split())}\r\n" for name, value in headers.items())
        head = f"{method} {path} HTTP/1.1\r\n{self._host}{lines}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode("latin-1", "replace") + body)
        return self._answer()[0]

    def next(self) -> tuple[bytes, dict[str, str | int]]:
        if self._posted:
            status, _, _ = self._answer()
            # 413: the gateway has said that it is too large. The worker is none the worse.
            if status not in ("202", "413"):
                raise RuntimeError(f"Failed to post invocation response: status {status}")
            self._posted = False
        else:
            self._socket.sendall(self._next)
        status, headers, event = self._answer()
        if status != "200":
            raise RuntimeError(f"Failed to get next: status {status}")
        self._request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        return event, headers | {_DEADLINE: int(headers[_DEADLINE])}

    def post_piece(self, piece: bytes) -> None:
        """The next piece of a response that is posted while the handler goes on."""
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        if not self._streaming:
            self._streaming = True
            chunk = (
                f"POST {_INVOCATION}{self._request_id}/response HTTP/1.1\r\n{self._host}{_STREAMING}"
                "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
                f"Trailer: {_ERROR_TYPE}, {_ERROR_BODY}\r\n\r\n"
            ).encode() + chunk
        self._socket.sendall(chunk)

    def _end_pieces(self, trailers: str = "") -> None:
        self._streaming, self._posted = False, True
        self._socket.sendall(f"0\r\n{trailers}\r\n".encode("latin-1", "replace") + self._next)

    def post_invocation_result(
        self, request_id: str, result: bytes, content_type: str, invocation_id: str | None = None
    ) -> None:
        if self._streaming:
            return self._end_pieces()
        return self._post(f"{request_id}/response", result, content_type)

    def post_error(
        self, request_id: str, error: str, xray_fault: str, invocation_id: str | None = None
    ) -> None:
        if not self._streaming:
            return self._post(f"{request_id}/error", error.encode("utf-8", "replace"), "application/json")
        import json  # AWS's runtime has imported it

        report = json.loads(error)
        kind, message = str(report["errorType"]), str(report["errorMessage"])
        shown = json.dumps({"errorType": kind[:200], "errorMessage": message[:_ERROR_CHARACTERS]})
        body = binascii.b2a_base64(shown.encode(), newline=False).decode()
        kind = "".join(c if " " <= c <= "~" else "?" for c in kind[:200])
        return self._end_pieces(f"{_ERROR_TYPE}: {kind}\r\n{_ERROR_BODY}: {body}\r\n")

    def _post(self, path: str, body: bytes, content_type: str) -> None:
        head = (
            f"POST {_INVOCATION}{path} HTTP/1.1\r\n{self._host}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._posted = True
        self._socket.sendall(head.encode() + body + self._next)

    def _answer(self) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and body of the next one."""
        data = self._read
        while (start := data.find(b"\r\n\r\n") + 4) < 4:
            data += self._receive()
        first, *lines = data[: start - 4].decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        end = start + int(headers["Content-Length"])
        parts, size = [data], len(data)
        while size < end:
            parts.append(self._receive())
            size += len(parts[-1])
        data = b"".join(parts)
        self._read = data[end:]
        return first.split()[1], headers, data[start:end]

    def _receive(self) -> bytes:
        while not self._poll.poll(_LOOK_MS):
            pass
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise RuntimeError("the Runtime API has closed the connection")
        return data


if __name__ == "__main__":
    main()
