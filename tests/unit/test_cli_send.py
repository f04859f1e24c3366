"""`sluicegate send` against a stand-in for the API: what goes over the wire, what is printed, how it ends."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluicegate.cli import main

SENT = {"MessageId": "m-1", "Entries": 1, "Sent": 1, "Duplicates": 0, "Failures": []}


class Api:
    """Answers with what a test puts there, and keeps what it was asked."""

    def __init__(self) -> None:
        self.sources = ["replies"]
        self.answer: Any = SENT
        self.status = 200
        self.requests: list[tuple[str, str, Any]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.requests.append(("GET", self.path, None))
                self.respond(200, {"Items": [{"Name": name} for name in api.sources], "NextToken": None})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                api.requests.append(("POST", self.path, json.loads(body)))
                self.respond(api.status, api.answer)

            def respond(self, status: int, answer: Any) -> None:
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def send(self, *arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(main, ["send", *arguments], input=stdin, env={"SLUICEGATE_API": self.url})

    @property
    def entry(self) -> Any:
        (entry,) = self.requests[-1][2]["Messages"]
        return entry


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield api
    api.server.shutdown()
    api.server.server_close()
    thread.join()


def test_the_only_source_is_used(api: Api) -> None:
    result = api.send("--to", "127.0.0.1:50123", "--hex", "01 02 03 04")
    assert (result.exit_code, result.stdout) == (0, "sent 1 of 1, 4 bytes by replies (message m-1)\n")
    assert api.requests == [
        ("GET", "/v1/packet-sources", None),
        (
            "POST",
            "/v1/packet-sources/replies/messages",
            {"Messages": [{"Data": "AQIDBA==", "Remote": {"Address": "127.0.0.1", "Port": 50123}}]},
        ),
    ]


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2026-06-09T10:00:00Z", "2026-06-09T10:00:00Z"),
        ("1781000000", 1_781_000_000),
        ("1781000000.5", 1_781_000_000.5),
        ("inf", "inf"),
    ],
)
def test_a_time_of_later(api: Api, at: str, shown: Any) -> None:
    api.answer = SENT | {"Sent": 0, "Scheduled": 1}
    done = api.send("--to", "192.0.2.7:5683", "--data", "hello", "--at", at)
    assert (done.exit_code, done.stdout) == (0, "scheduled 1 of 1, 5 bytes by replies (message m-1)\n")
    assert api.entry["SendAt"] == shown


def test_a_named_source_is_not_looked_up(api: Api) -> None:
    assert api.send("--source", "a b/c", "--tag", "T", "--data", "é").exit_code == 0
    assert [request[:2] for request in api.requests] == [("POST", "/v1/packet-sources/a%20b%2Fc/messages")]
    assert api.entry == {"Data": base64.b64encode("é".encode()).decode(), "Tag": "T"}


def test_ipv6_and_the_other_forms_of_payload(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"\x00\xff")
    for arguments in (["--file", str(file)], ["--base64", "AP8="], ["--hex", "00:FF"], ["-"]):
        assert api.send("--to", "[::1]:5", *arguments, stdin=b"\x00\xff").exit_code == 0
        assert api.entry == {"Data": "AP8=", "Remote": {"Address": "::1", "Port": 5}}


def test_an_empty_payload_is_an_empty_datagram(api: Api) -> None:
    assert api.send("--to", "127.0.0.1:5", "--data", "").exit_code == 0
    assert api.entry["Data"] == ""


def test_a_failed_entry_is_exit_1_with_its_reason(api: Api) -> None:
    failures = [{"Index": 0, "Reason": "RemoteDenied", "Detail": "10.0.0.1 is private"}]
    api.answer = SENT | {"Sent": 0, "Failures": failures}
    result = api.send("--to", "10.0.0.1:5", "--data", "x")
    assert result.exit_code == 1
    assert result.stderr == "error: RemoteDenied: 10.0.0.1 is private\n"
    assert result.stdout.startswith("sent 0 of 1")
    as_json = api.send("--to", "10.0.0.1:5", "--data", "x", "--output", "json")
    assert (as_json.exit_code, json.loads(as_json.stdout), as_json.stderr) == (1, api.answer, "")


@pytest.mark.parametrize(("sources", "words"), [([], "has no PacketSource"), (["a", "b"], "--source: a, b")])
def test_without_a_single_source(api: Api, sources: list[str], words: str) -> None:
    api.sources = sources
    result = api.send("--to", "127.0.0.1:5", "--data", "x")
    assert result.exit_code == 1
    assert words in result.stderr
    assert [request[0] for request in api.requests] == ["GET"]


def test_a_refusal_shows_the_gateways_own_words(api: Api) -> None:
    api.status, api.answer = 404, {"title": "Not Found", "detail": "there is no PacketSource 'x'"}
    result = api.send("--source", "x", "--to", "127.0.0.1:5", "--data", "x")
    assert result.exit_code == 1
    assert result.stderr == "error: the gateway refused this: there is no PacketSource 'x'\n"


@pytest.mark.parametrize("answer", [b"<html>", {"hello": "world"}, [], 5])
def test_something_else_answers_there(api: Api, answer: Any) -> None:
    api.answer = answer
    result = api.send("--source", "x", "--to", "127.0.0.1:5", "--data", "x")
    assert result.exit_code == 3
    assert "not as a gateway" in result.stderr


def test_no_gateway_there_is_exit_3(api: Api) -> None:
    arguments = ["send", "--to", "127.0.0.1:5", "--data", "x", "--api", "http://127.0.0.1:1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert "no gateway answers at http://127.0.0.1:1" in result.stderr
    assert "sluicegate dev" in result.stderr


def test_an_api_that_is_no_url() -> None:
    result = CliRunner().invoke(main, ["send", "--to", "127.0.0.1:5", "--data", "x", "--api", "127.0.0.1"])
    assert result.exit_code == 1
    assert "is not a URL" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "x"],
        ["--to", "127.0.0.1:5"],
        ["--to", "127.0.0.1:5", "--tag", "T", "--data", "x"],
        ["--to", "127.0.0.1:5", "--data", "x", "--hex", "00"],
        ["--to", "127.0.0.1", "--data", "x"],
        ["--to", "127.0.0.1:0", "--data", "x"],
        ["--to", "::1:5", "--data", "x"],
        ["--to", "127.0.0.1:5", "--hex", "0"],
        ["--to", "127.0.0.1:5", "--base64", "!"],
    ],
)
def test_a_wrong_command_line_sends_nothing(api: Api, arguments: list[str]) -> None:
    assert api.send(*arguments).exit_code == 2
    assert api.requests == []


def test_a_payload_file_that_is_not_there(api: Api, tmp_path: Path) -> None:
    result = api.send("--to", "127.0.0.1:5", "--file", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_a_peer_is_named_by_its_key(api: Api) -> None:
    assert api.send("--peer", "KEY=", "--data", "hi").exit_code == 0
    assert api.entry == {"Data": "aGk=", "Remote": {"PeerKey": "KEY="}}
    assert api.send("--peer", "KEY=", "--to", "192.0.2.1:5000", "--data", "hi").exit_code == 0
    assert api.entry["Remote"] == {"Address": "192.0.2.1", "Port": 5000, "PeerKey": "KEY="}
    refused = api.send("--peer", "KEY=", "--tag", "T", "--data", "hi")
    assert (refused.exit_code, "--peer KEY or --tag TAG" in refused.stderr) == (2, True)
