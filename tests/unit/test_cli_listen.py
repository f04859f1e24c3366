"""`sluicegate listen` against a real socket: what it sends, prints, and how it ends."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from sluicegate.cli import main
from sluicegate.cli.options import endpoint_text

Server = Callable[[str, list[bytes]], tuple[str, list[tuple[bytes, str]]]]


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a peer that answers the first datagram with the given ones: its endpoint, what it heard."""
    threads: list[threading.Thread] = []

    def start(host: str, answers: list[bytes]) -> tuple[str, list[tuple[bytes, str]]]:
        heard: list[tuple[bytes, str]] = []
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(10)
        sock.bind((host, 0))

        def answer() -> None:
            with sock:
                data, remote = sock.recvfrom(65535)
                heard.append((data, endpoint_text(*remote[:2])))
                for item in answers:
                    sock.sendto(item, remote)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return endpoint_text(*sock.getsockname()[:2]), heard

    yield start
    for thread in threads:
        thread.join()


def listen(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["listen", *arguments])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_sends_from_the_address_that_it_prints_and_shows_the_answer(server: Server, host: str) -> None:
    there, heard = server(host, [b"\x01\x02\x03\x04"])
    result = listen("--to", there, "--send", "hello", "--count", "1", "--timeout", "10")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{there} 4 bytes: 01 02 03 04\n"
    own = re.fullmatch(r"listening on (\S+)\n", result.stderr)
    assert own is not None
    assert heard == [(b"hello", own[1])]


def test_text_cannot_steer_the_terminal(server: Server) -> None:
    there, heard = server("127.0.0.1", ["grüß\x1b[2J\n".encode() + b"\xff"])
    result = listen("--to", there, "--hex", "00ff", "--count", "1", "--timeout", "10", "--format", "text")
    assert result.stdout == f"{there} 12 bytes: grüß\\x1b[2J\\n\\xff\n"
    assert heard[0][0] == b"\x00\xff"


@pytest.mark.parametrize("option", [["--format", "json"], ["--output", "json"]])
def test_json_is_one_object_per_datagram(server: Server, option: list[str]) -> None:
    there, _ = server("127.0.0.1", [b"hi", b""])
    result = listen("--to", there, "--send", "", "--count", "2", "--timeout", "10", *option)
    port = int(there.rpartition(":")[2])
    remote = {"IpAddress": "127.0.0.1", "Port": port}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"Remote": remote, "Bytes": 2, "Data": "aGk="},
        {"Remote": remote, "Bytes": 0, "Data": ""},
    ]


def test_a_timeout_is_exit_1_with_a_hint(server: Server) -> None:
    there, _ = server("127.0.0.1", [b"one"])
    result = listen("--to", there, "--send", "x", "--count", "2", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "error: received 1 of 2 datagrams in 0.2 s" in result.stderr
    assert "client_restrictions" in result.stderr
    assert listen("--timeout", "0.05").exit_code == 1


def test_without_a_count_anything_heard_is_success(server: Server) -> None:
    there, _ = server("127.0.0.1", [b"one", b"two"])
    result = listen("--to", there, "--send", "x", "--timeout", "0.3")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2


def test_a_port_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        there = endpoint_text(*taken.getsockname())
        result = listen("--bind", there, "--timeout", "1")
    assert result.exit_code == 1
    assert f"error: {there} cannot be bound: Address already in use" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--send", "x"],
        ["--to", "127.0.0.1:5"],
        ["--to", "127.0.0.1:5", "--send", "x", "--hex", "00"],
        ["--bind", "x"],
    ],
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    assert listen(*arguments).exit_code == 2
