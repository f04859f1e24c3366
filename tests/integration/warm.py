"""`sluicegate` without its imports: a process has the program loaded, and forks for each one that a test starts.

A gateway that starts, and a short command, spend most of their time on imports, and tests start them by the thousand.
A fork is a process of its own, with the folder, environment, streams and network namespace that the test gave, and runs
the installed script from its first line. What is different in a fresh interpreter gets one: a library that is loaded
first, another encoding, a shell (`forks`). SLUICEGATE_FRESH=1 gives every program one.
"""

import contextlib
import ctypes
import functools
import gc
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

PROGRAM = Path(sys.executable).with_name("sluicegate")
CLONE_NEWNET = 0x40000000  # sched.h
_FRESH = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_")
"""Variables that a program reads before its first line."""


def _fresh(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name.startswith(_FRESH)}
    kept.pop("PYTHONPATH", None)
    return kept | {"PYTHONUNBUFFERED": "1"}


class Loaded:
    """The process that has the program loaded; there is one for each process of tests, from its first use on."""

    def __init__(self) -> None:
        self._environment = _fresh(os.environ)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fits(self, environment: Mapping[str, str]) -> bool:
        """True if a fork with this environment behaves as a fresh interpreter."""
        return _fresh(environment) == self._environment

    def spawn(self, request: Mapping[str, Any], files: Sequence[int]) -> None:
        socket.send_fds(self._channel, [json.dumps(request).encode()], files)

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


@functools.cache
def loaded() -> Loaded:
    """The one of this process of tests. `close_loaded` ends it."""
    return Loaded()


def close_loaded() -> None:
    """End the process that has the program loaded, if there is one."""
    if loaded.cache_info().currsize:
        loaded().close()
        loaded.cache_clear()


def forks(command: Sequence[str | Path], environment: Mapping[str, str]) -> bool:
    """True if a fork behaves as `command` does in a fresh interpreter."""
    return command[0] == PROGRAM and "SLUICEGATE_FRESH" not in environment and loaded().fits(environment)


class Fork:
    """What `subprocess.Popen` is, as far as tests need it, for a fork; in the network namespace `namespace`, if any."""

    def __init__(
        self,
        command: Sequence[str | Path],
        cwd: str | Path,
        env: Mapping[str, str],
        namespace: Path | None = None,
        stdin: int | None = None,
    ) -> None:
        self.args = command
        self.returncode: int | None = None
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        self._status, their_status = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = {
            "arguments": [str(word) for word in command],
            "folder": str(cwd),
            "environment": dict(env),
            "namespace": None if namespace is None else str(namespace),
            "processors": sorted(os.sched_getaffinity(0)),
        }
        try:
            given = nothing if stdin is None else stdin
            loaded().spawn(request, [given, their_out, their_err, their_status.fileno()])
        finally:
            for file in (their_out, their_err, nothing):
                os.close(file)
            their_status.close()
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(err, encoding="utf-8")
        self.pid = self._number()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(map(str, self.args)), timeout or 0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Everything that it prints, to the end; it is killed when that takes longer."""
        late = threading.Timer(timeout, self.kill)
        late.start()
        with self.stdout, self.stderr, ThreadPoolExecutor(1) as other:
            err = other.submit(self.stderr.read)
            said = self.stdout.read(), err.result()
        late.cancel()
        return said

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> None:
        self.returncode = self._number()
        self._status.close()

    def _number(self) -> int:
        said = self._status.recv(8, socket.MSG_WAITALL)
        assert len(said) == 8, "the process that has the program loaded has ended"
        return int.from_bytes(said, "little", signed=True)


# In the process that has the program loaded.


def _serve(channel: socket.socket) -> None:
    """Fork for each request, and say at its socket first the id, then the exit code."""
    waiting = selectors.DefaultSelector()
    waiting.register(channel, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is channel:
                request, files, _, _ = socket.recv_fds(channel, 1 << 20, 4)
                if not request:
                    return
                pid = os.fork()
                if pid == 0:
                    _run(json.loads(request), files)
                status = socket.socket(fileno=files.pop())
                for file in files:
                    os.close(file)
                _say(status, pid)
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
            else:
                pid, status = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                _say(status, code)
                status.close()


def _say(status: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody waits for it any more
        status.send(number.to_bytes(8, "little", signed=True))


def _run(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Become the program. It ends as an interpreter ends, by the end of this one."""
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, 1 << 20)
    os.sched_setaffinity(0, request["processors"])
    if request["namespace"] is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(request["namespace"]).open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
    os.chdir(request["folder"])
    loaded = _folders()
    os.environ.clear()
    os.environ.update(request["environment"])
    _search(loaded, _folders())
    sys.argv[:] = request["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _folders() -> list[str]:
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _search(loaded: Sequence[str], folders: Sequence[str]) -> None:
    """Find modules as with `folders` in PYTHONPATH and not `loaded`, and run what these have for every program."""
    if folders == loaded:
        return
    sys.path[1 : 1 + len(loaded)] = folders
    for folder in folders:
        file = Path(folder, "sitecustomize.py")
        if file.exists():
            runpy.run_path(str(file))
            return


def _load() -> None:
    """Import what commands import, with the path that the installed script has."""
    sys.path[0] = str(PROGRAM.parent)
    import sluicegate

    for module in pkgutil.walk_packages(sluicegate.__path__, "sluicegate."):
        if not module.name.startswith(("sluicegate.testing", "sluicegate.functions._worker")):
            __import__(module.name)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _load()
    _serve(socket.socket(fileno=int(sys.argv[1])))
