"""A standard output or error that nobody reads holds up neither packets, nor servers, nor the end of the gateway."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import HANG_SECONDS, PROGRAM, Client, free_port, until

END_SECONDS = 10
DRAIN_SECONDS = 10
"""A Destination that does not let go of its packets has so long at a stop (contract 8), and the rest comes after it."""
GARBAGE = 2108
"""Requests that are no HTTP: in the tests of before, so many lines filled a pipe."""

CHATTY = """
import sys
def handler(event, context):
    for message in event["Messages"]:
        for number in range(300):
            print("a line that nobody reads, number", number, file=sys.stderr)
    return {"Replies": [{"Tag": m["Tag"], "Data": m["Data"]} for m in event["Messages"]]}
"""

pytestmark = pytest.mark.attack


def full_pipe() -> tuple[int, int]:
    """A pipe without room, as `(read end, write end)`: whoever writes to it waits."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    return read, write


class Deaf:
    """A gateway whose standard streams end in full pipes; `heard` reads what was written to standard error since."""

    def __init__(self, directory: Path, destination: str, command: str = "run") -> None:
        self.api, self.sns, self.port = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
        (directory / "chatty.py").write_text(CHATTY)
        (directory / "gateway.yaml").write_text(
            f"api: {{ bind: '127.0.0.1:{self.api}' }}\nsns: {{ bind: '127.0.0.1:{self.sns}' }}\n"
            f"listeners:\n  - name: decoder\n    bind: 127.0.0.1:{self.port}\n"
            "    client_restrictions: { networks: [127.0.0.0/8] }\n"
            "    destinations:\n"
            "      - name: echo\n        destination_arn: 'function:chatty.py:handler'\n"
            "        batching: { count: 1, timeout_in_seconds: 0.01 }\n"
            f"      - name: other\n        destination_arn: '{destination}'\n"
            "        batching: { count: 1, timeout_in_seconds: 0.01 }\n"
        )
        self.waits = destination == "console:"
        self.out, self.err = full_pipe(), full_pipe()
        self._process = subprocess.Popen(
            [PROGRAM, command, "gateway.yaml"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=self.out[1],
            stderr=self.err[1],
        )
        until(lambda: self.answers(self.api), "the gateway serves")

    def answers(self, port: int) -> bool:
        """Whether the API answers a request."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as asked:
            asked.settimeout(HANG_SECONDS)
            asked.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return asked.recv(100).startswith(b"HTTP/1.1 200")
        return False

    def end(self) -> int:
        """SIGTERM; its exit code within 10 s, or 20 if a Destination waits for the reader."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(END_SECONDS + DRAIN_SECONDS * self.waits)

    def heard(self) -> bytes:
        """Read standard error from now on, until the process has ended; what comes after the filling of the pipe."""
        os.close(self.err[1])
        self.err = (self.err[0], -1)
        parts = []
        self._process.send_signal(signal.SIGTERM)
        while part := os.read(self.err[0], 1 << 16):
            parts.append(part)
        return b"".join(parts).lstrip(b"x")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for fd in (*self.out, *self.err):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def deaf(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deaf]:
    made = Deaf(tmp_path, *getattr(request, "param", ("file:packets.ndjson",)))
    yield made
    made.close()


def garbage(port: int, count: int) -> None:
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), HANG_SECONDS) as sent:
            sent.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")
            sent.recv(100)


def echo(port: int, count: int) -> None:
    """So many packets come back."""
    with Client() as client:
        for number in range(count):
            client.send(b"%d" % number, ("127.0.0.1", port))
            assert client.receive()[0] == b"%d" % number


@pytest.mark.parametrize(
    "deaf", [("file:packets.ndjson",), ("console:",), ("console:", "dev")], indirect=True
)
def test_prints_that_nobody_reads_hold_nothing_up(deaf: Deaf) -> None:
    echo(deaf.port, 100)
    assert deaf.answers(deaf.api)
    assert deaf.end() == 0


def test_garbage_for_the_servers_fills_no_log(deaf: Deaf) -> None:
    garbage(deaf.api, GARBAGE)
    garbage(deaf.sns, 100)
    assert deaf.answers(deaf.api)
    echo(deaf.port, 1)
    log = deaf.heard().decode()
    said = [line for line in log.splitlines() if "Invalid HTTP request" in line]
    told = sum(int(line.rpartition("Suppressed: ")[2]) for line in said if "Suppressed: " in line)
    lines = [line for line in said if "Suppressed: " not in line]
    assert len(lines) + told == GARBAGE + 100
    assert len(lines) < GARBAGE / 2


def test_what_did_not_fit_is_counted_and_told_once_it_flows(deaf: Deaf) -> None:
    """300 lines a packet, more than the queue of 1 MiB and the worker's 1,000 lines a second take."""
    echo(deaf.port, 60)
    log = deaf.heard().decode()
    assert "a line that nobody reads" in log
    assert "within a second are not shown" in log or "texts are missing here" in log


def test_a_closed_standard_output_is_not_the_state(tmp_path: Path) -> None:
    """Who closes a stream gives its number to the next file that is opened: events must not be written into that."""
    port = free_port()
    (tmp_path / "gateway.yaml").write_text(
        f"api: {{ bind: '127.0.0.1:{port}' }}\nlisteners:\n  - {{ name: a, bind: '127.0.0.1:0' }}\n"
    )
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "{PROGRAM}" run gateway.yaml <&- >&- 2>&-'],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    try:
        until(lambda: Deaf.answers(None, port), "the gateway serves")  # type: ignore[arg-type]
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    for file in tmp_path.iterdir():
        assert b"GatewayStarted" not in file.read_bytes(), file
