"""Processes on chosen cores, and what they use. Whatever is started here is stopped here, by its id."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
HANG_SECONDS = 60.0

CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE = CORES[0]
"""Where the generator, the sink and this process run."""
TESTED_CORE = CORES[-1]
"""Where the system under test runs, with all of its threads and workers."""

PROJECT = Path(__file__).resolve().parent.parent
BUILT = PROJECT / "target" / "bench"


class BenchError(Exception):
    """A benchmark cannot run, or its system under test did something else than it was asked for."""


class Process:
    """A program with a line-based output, on one core. Use as a context manager: its end kills it."""

    def __init__(
        self, command: Sequence[str | Path], core: int, *, cwd: Path = PROJECT, stdout: int = subprocess.PIPE
    ) -> None:
        self.name = Path(command[0]).name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed by __exit__
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # inherited by what is started now
        try:
            self._process = subprocess.Popen(  # noqa: S603 the commands are ours
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=self._errors
            )
        finally:
            os.sched_setaffinity(0, before)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self) -> None:
        """Waits for the line `ready`."""
        if (line := self.line()) != "ready":
            raise BenchError(f"{self.name} said {line!r} instead of ready: {self.errors()}")

    def line(self) -> str:
        """The next line of its output, without its end."""
        stream = self._process.stdout
        assert stream is not None  # noqa: S101
        if not select.select([stream], [], [], HANG_SECONDS)[0]:
            raise BenchError(f"{self.name} said nothing for {HANG_SECONDS:.0f} s")
        if not (line := stream.readline()):
            raise BenchError(f"{self.name} has ended: {self.errors()}")
        return line.decode().strip()

    def report(self) -> dict[str, Any]:
        """The next line of its output, which is JSON."""
        return self._parse(self.line().encode())

    def result(self) -> dict[str, Any]:
        """What it prints at its own end, a line of JSON."""
        return self._parse(self._read_out())

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def stop(self) -> dict[str, Any]:
        """SIGTERM, then what it printed at its end."""
        self._process.terminate()
        return self.result()

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait(HANG_SECONDS)

    def errors(self) -> str:
        """The last of its error output."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def cpu_seconds(self) -> float:
        """Processor time that it and all that come from it, ended or not, have used so far."""
        return sum(_cpu_seconds(pid) for pid in [self.pid, *self.children()])

    def memory(self) -> dict[int, int]:
        """Resident bytes of it and of each process that comes from it."""
        return {pid: int(_read(pid, "statm").split()[1]) * PAGE for pid in [self.pid, *self.children()]}

    def children(self) -> list[int]:
        """Ids of all living processes that come from it: a worker of a function is the child of its keeper."""
        found: list[int] = []
        waiting = [self.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    children = [int(child) for child in (task / "children").read_text().split()]
                    found += children
                    waiting += children
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read_out(self) -> bytes:
        try:
            output, _ = self._process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not end within {HANG_SECONDS:.0f} s") from None
        if self._process.returncode != 0:
            raise BenchError(f"{self.name} ended with {self._process.returncode}: {self.errors()}")
        return bytes(output)

    def _parse(self, output: bytes) -> dict[str, Any]:
        try:
            found = json.loads(output.splitlines()[-1])
        except (IndexError, ValueError):
            raise BenchError(f"{self.name} printed {output!r} instead of a result: {self.errors()}") from None
        if not isinstance(found, dict):
            raise BenchError(f"{self.name} printed {found!r} instead of a result")
        return found


def baseline(name: str, *arguments: object) -> list[str]:
    """The command of a program of `bench/baseline`, built if it is older than its source."""
    source = Path(__file__).parent / "baseline" / f"{name}.c"
    program = BUILT / name
    newest = max(source.stat().st_mtime, source.with_name("common.h").stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O2", "-march=native", "-Wall", "-Wextra", "-o", str(program), str(source)]
        built = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        if built.returncode != 0:
            raise BenchError(f"{source.name} does not compile:\n{built.stderr}")
    return [str(program), *map(str, arguments)]


def example(name: str) -> list[str]:
    """The command of a Rust program of `crates/sluice-core/examples`, built if need be as the gateway is."""
    target = PROJECT / "target"
    command = ["cargo", "build", "--release", "--locked", "--target-dir", str(target), "-p", "sluice-core"]
    command += ["-p", "sluice-py"]  # so that its dependencies are those that are built already
    built = subprocess.run([*command, "--example", name], cwd=PROJECT, capture_output=True, text=True)  # noqa: S603
    if built.returncode != 0:
        raise BenchError(f"{name} does not compile:\n{built.stderr[-2000:]}")
    return [str(target / "release" / "examples" / name)]


def module(name: str, *arguments: object) -> list[str]:
    """The command of a Python program of `bench`."""
    return [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]


@contextlib.contextmanager
def sink(port: int, numbers: int, *, offload: bool = False, inside: Sequence[str] = ()) -> Iterator[Process]:
    """Counts what arrives at any loopback address at `port`. `inside`: what puts a command into a network namespace."""
    command = [*inside, *baseline("sink", port, numbers, int(offload))]
    with Process(command, LOAD_CORE) as process:
        process.wait_ready()
        yield process


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: a disk that writes back would compete for the processor."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def settle() -> None:
    """Lets what is on its way arrive."""
    time.sleep(0.15)


def commit() -> str:
    """The commit under test, with a `+` if the tree differs from it."""
    git: Mapping[str, Any] = {"cwd": PROJECT, "capture_output": True, "text": True}
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **git).stdout.strip()  # noqa: S607
    tree = subprocess.run(["git", "status", "--porcelain", "crates", "python"], **git).stdout  # noqa: S607
    return head + ("+" if tree else "") if head else "unknown"


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise BenchError(f"process {pid} is gone ({error.strerror})") from None


def _cpu_seconds(pid: int) -> float:
    # Its own time from its clock, in nanoseconds (clock_getcpuclockid(3) makes the number so): a short run is a few
    # ticks. That of ended children from proc(5): fields counted from behind the name, which may hold anything.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    try:
        own = time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        raise BenchError(f"process {pid} is gone ({error.strerror})") from None
    return own + sum(map(int, fields[13:15])) / TICKS
