"""A web hook for tests, or a service: it notes the requests that come in, and answers as a test says."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

OK = (200, {"Content-Type": "application/json"}, b"null")
Response = tuple[int, Mapping[str, str], bytes]


@dataclass
class Request:
    target: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["Messages"]
        return found

    @property
    def data(self) -> list[str]:
        return [message["Data"] for message in self.messages]


@dataclass
class WebHook:
    """Listens on loopback from `start` to `stop`; `respond` may block, until `stop`."""

    respond: Callable[[Request], Response] = lambda request: OK
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    """Those that were answered with 2xx."""
    stopped: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "WebHook":
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                if hook.stopped.is_set():
                    self.close_connection = True
                    return
                hook.requests.append(request)
                status, headers, answer = hook.respond(request)
                if 200 <= status < 300:
                    hook.taken.append(request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST  # as S3

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the gateway has hung up

        self.stopped.clear()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def stop(self) -> None:
        self.stopped.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    @property
    def data(self) -> list[str]:
        """`Data` of all packets that were taken, in order of the requests."""
        return [one for request in self.taken for one in request.data]


@pytest.fixture
def web_hook() -> Iterator[WebHook]:
    made = WebHook().start()
    yield made
    made.stop()
