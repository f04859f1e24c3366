"""Where CloudFormation waits for the answers to its requests, as a server of the tests' own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Bucket:
    """Where CloudFormation waits for answers. `down` makes it fail."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.down = False
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not bucket.down:
                    assert self.headers["Content-Type"] == ""
                    bucket.answers.append({"path": self.path, **json.loads(body)})
                self.send_response(503 if bucket.down else 200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()
