"""A worker that cannot be started: the failure says why and what to do, nothing is left of it, and it heals."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluicegate.functions import Function, FunctionInitFailed
from waiting import until

pytestmark = pytest.mark.attack

MANY = 1000
KINDS = ["python", "executable"]


def make(directory: Path, kind: str) -> Function:
    directory.mkdir(exist_ok=True)
    if kind == "python":
        (directory / "main.py").write_text("def handler(event, context): return event\n")
        return Function(directory / "main.py", "handler", name="limited", concurrency=1)
    program = directory / "bootstrap"
    program.write_text(
        f"#!{sys.executable}\n"
        "import http.client, os\n"
        'api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])\n'
        "while True:\n"
        '    api.request("GET", "/2018-06-01/runtime/invocation/next")\n'
        "    answer = api.getresponse()\n"
        '    request_id, body = answer.headers["Lambda-Runtime-Aws-Request-Id"], answer.read()\n'
        '    api.request("POST", f"/2018-06-01/runtime/invocation/{request_id}/response", body)\n'
        "    api.getresponse().read()\n"
    )
    program.chmod(0o755)
    return Function(program, None, name="limited", concurrency=1)


def held() -> Counter[str]:
    """What this process holds: its open files by kind, its children and its threads."""
    found = Counter({"thread": threading.active_count()})
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory that is being read
            found[str(path.readlink()).partition(":")[0]] += 1
    found.update(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())
    return found


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Leaves this process so many free descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []

    def leave(free: int) -> None:
        while fillers:
            os.close(fillers.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        if free == MANY:
            return
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, before[1]))
        try:
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            for _ in range(free):
                os.close(fillers.pop())

    yield leave
    while fillers:
        os.close(fillers.pop())
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("kind", KINDS)
async def test_at_every_shortage_of_descriptors(
    kind: str, tmp_path: Path, few_files: Callable[[int], None]
) -> None:
    # One that works first: what an event loop and a first start keep for good is there then.
    function = make(tmp_path / "first", kind)
    await function.warm_up()
    await function.close()
    refused: list[str] = []
    for free in range(20):
        function = make(tmp_path / str(free), kind)
        before = held()
        few_files(free)
        try:
            await function.warm_up()
        except FunctionInitFailed as failed:
            refused.append(failed.detail)
        few_files(MANY)
        await function.close()
        # A connection that was just cut may end a turn of the loop later.
        await until(lambda before=before: not held() - before)  # type: ignore[misc]
    assert 4 <= len(refused) < 20
    assert all("too many open files" in detail and "ulimit -n" in detail for detail in refused)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EAGAIN, "TasksMax"), (errno.ENOMEM, "memory"), (errno.ENFILE, "fs.file-max")],
    ids=["no more processes", "no memory", "no files on the machine"],
)
async def test_a_fork_that_the_kernel_refuses(
    number: int, advice: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = make(tmp_path, kind)
    with monkeypatch.context() as patched:

        def refuse(*arguments: Any) -> int:
            raise OSError(number, os.strerror(number))

        # Where `subprocess` forks: root has no limit of processes that would make the kernel do so.
        patched.setattr(subprocess, "_fork_exec", refuse)
        with pytest.raises(FunctionInitFailed, match=advice):
            await function.invoke(b"1")
        before = held()  # with what the event loop keeps from its first connection on
        for _ in range(2):
            with pytest.raises(FunctionInitFailed, match=advice):
                await function.invoke(b"1")
        await until(lambda: not held() - before)
    assert await function.invoke(b"1") == b"1"
    await function.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_directory_that_is_gone(kind: str, tmp_path: Path) -> None:
    function = make(tmp_path / "there", kind)
    (tmp_path / "there").rename(tmp_path / "away")
    with pytest.raises(FunctionInitFailed, match="put back"):
        await function.warm_up()
    before = held()
    with pytest.raises(FunctionInitFailed, match=r"there: no such file or directory\): put back"):
        await function.warm_up()
    await until(lambda: not held() - before)
    (tmp_path / "away").rename(tmp_path / "there")
    assert await function.invoke(b"1") == b"1"
    await function.close()


async def test_an_interpreter_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = make(tmp_path, "python")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(FunctionInitFailed, match="/nowhere/python: no such file or directory"):
            await function.warm_up()
    assert await function.invoke(b"1") == b"1"
    await function.close()


@pytest.mark.parametrize(
    ("head", "mode", "says"),
    [
        ("#!/bin/sh\n", 0o644, "permission denied.*chmod"),
        ("\x7fnothing that runs\n", 0o755, "exec format error.*build it for this machine"),
        ("#!/nowhere/interpreter\n", 0o755, "no such file.*first line names"),
    ],
    ids=["not executable", "for no machine", "without its interpreter"],
)
async def test_an_executable_that_cannot_be_run(head: str, mode: int, says: str, tmp_path: Path) -> None:
    function = make(tmp_path, "executable")
    program, right = tmp_path / "bootstrap", (tmp_path / "bootstrap").read_text()
    program.write_text(head)
    program.chmod(mode)
    with pytest.raises(FunctionInitFailed, match="cannot be run"):
        await function.warm_up()
    before = held()
    with pytest.raises(FunctionInitFailed, match=f"its last line: .*bootstrap cannot be run .*{says}"):
        await function.warm_up()
    await until(lambda: not held() - before)
    program.write_text(right)
    program.chmod(0o755)
    assert await function.invoke(b"1") == b"1"
    await function.close()


@pytest.mark.parametrize("source", ["import os; os._exit(9)", "import os; os.kill(os.getpid(), 11)", "1 /"])
async def test_a_worker_that_dies_in_its_start_leaves_nothing(source: str, tmp_path: Path) -> None:
    function = make(tmp_path, "python")
    (tmp_path / "main.py").write_text(source)
    with pytest.raises(FunctionInitFailed):
        await function.warm_up()
    before = held()
    for _ in range(2):
        with pytest.raises(FunctionInitFailed):
            await function.warm_up()
    await until(lambda: not held() - before)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    (tmp_path / "main.py").write_text("def handler(event, context): return event\n")
    assert await function.invoke(b"1") == b"1"
    await function.close()
