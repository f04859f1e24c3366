"""A terminal of a newcomer: an empty directory, a shell, and the ports that `sluicegate dev` and the documents name.

These ports are fixed, because what is printed has to name them. So each test gets a network namespace of its own where
that is possible, else takes its turn and the machine's ports.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from harness import HANG_SECONDS, HOST, PROGRAM, Host, Netns, Process

LISTENER = ("127.0.0.1", 2048)
SERVERS = (("127.0.0.1", 8080), ("127.0.0.1", 4566))
CLIENT_PORT = 4567
END_OF_SNIPPET = ")"


@pytest.fixture
def place() -> Iterator[Host | Netns]:
    """Where the ports of `dev` are free."""
    if Netns.missing() is None:
        own = Netns()
        yield own
        own.close()
        return
    turn = Path(tempfile.gettempdir(), f"sluicegate-test-dev-{os.getuid()}.lock")
    with turn.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind, (host, port) in (
            *((socket.SOCK_STREAM, address) for address in SERVERS),
            *((socket.SOCK_DGRAM, address) for address in (LISTENER, ("127.0.0.1", CLIENT_PORT))),
        ):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    pytest.skip(f"port {port}, which `sluicegate dev` uses, is taken: {error.strerror}")
        yield HOST


class Terminal:
    """A directory and a place: what a user has open. Commands run in a shell, exactly as written."""

    def __init__(self, directory: Path, place: Host | Netns) -> None:
        self.directory = directory
        self.place = place
        # As on a machine where the virtual environment is not active.
        venv = str(PROGRAM.parent)
        paths = [path for path in os.environ["PATH"].split(os.pathsep) if path != venv]
        self.environment = {"PATH": os.pathsep.join(paths)}
        self._started: list[Process] = []

    def start(self, command: str) -> Process:
        # `exec`, so that the process id is the program's and not the shell's.
        return self._start(["sh", "-c", f"exec {command}"])

    def _start(self, words: Sequence[str | Path]) -> Process:
        process = Process(words, self.directory, self.place, self.environment)
        self._started.append(process)
        return process

    def run(self, command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return self.place.run(
            lambda: subprocess.run(
                ["sh", "-c", command],
                cwd=self.directory,
                env={**os.environ, **self.environment},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=HANG_SECONDS,
            )
        )

    def dev(self, file: str = "") -> "Dev":
        return Dev(self, self._start([PROGRAM, "dev", *filter(None, [file])]))

    def refused(self, file: str = "") -> tuple[int, str]:
        """Exit code and standard error of a `dev` that must not start."""
        process = self._start([PROGRAM, "dev", *filter(None, [file])])
        code = process.wait()
        assert "Sluicegate is ready" not in process.stdout.text
        assert "Traceback" not in process.stderr.text
        return code, process.stderr.text

    def close(self) -> None:
        for process in reversed(self._started):
            process.close()


class Dev:
    """A `sluicegate dev` that is ready, and what it printed."""

    def __init__(self, terminal: Terminal, process: Process) -> None:
        self.terminal = terminal
        self.process = process
        self.text = process.stdout.wait(
            lambda lines: "\n".join(lines) if END_OF_SNIPPET in lines else None, "a snippet to its end"
        )

    @property
    def client_line(self) -> str:
        (line,) = re.findall(r"^ +(\S+ listen --bind .*)$", self.text or "", re.MULTILINE)
        return str(line)

    @property
    def python(self) -> str:
        (path,) = re.findall(r"\(boto3 in (\S+)\)$", self.text or "", re.MULTILINE)
        return str(path)

    @property
    def snippet(self) -> str:
        (text,) = re.findall(r"^import boto3.*?^\)$", self.text or "", re.MULTILINE | re.DOTALL)
        return f"{text}\n"

    def stop(self) -> None:
        """Ctrl-C."""
        self.process.signal(signal.SIGINT)
        assert self.process.wait() == 0


@pytest.fixture
def terminal(tmp_path: Path, place: Host | Netns) -> Iterator[Terminal]:
    """In an empty directory."""
    directory = tmp_path / "project"
    directory.mkdir()
    made = Terminal(directory, place)
    yield made
    made.close()


def listening(client: Process) -> None:
    client.stderr.wait(
        lambda lines: any(line.startswith("listening on ") for line in lines), "word that it listens"
    )


def received(client: Process, line: str) -> None:
    client.stdout.wait(lambda lines: line in lines, line)
