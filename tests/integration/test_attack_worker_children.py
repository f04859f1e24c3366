"""What a handler starts ends with its worker, and with the gateway: also daemons, and what ignores signals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import sluicegate
from sluicegate.functions import Function, FunctionCrashed, FunctionFailure, FunctionTimeout
from waiting import until

pytestmark = pytest.mark.attack

SOURCE = """
    import os, signal, time

    def daemons(count):
        # Processes with sessions of their own and without parents, which ignore what can be ignored.
        read, write = os.pipe()
        if not (first := os.fork()):
            for _ in range(count):
                if not os.fork():
                    os.setsid()
                    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
                        signal.signal(number, signal.SIG_IGN)
                    if not os.fork():
                        os.write(write, b"%d " % os.getpid())
                        time.sleep(600)
                    os._exit(0)
            os._exit(0)
        os.waitpid(first, 0)
        found = b""
        while found.count(b" ") < count:
            found += os.read(read, 4096)
        return [int(pid) for pid in found.split()]

    def runner():
        # A process that is another one all the time.
        if not os.fork():
            os.setsid()
            while True:
                if os.fork():
                    os._exit(0)

    def handler(event, context):
        pids = daemons(event.get("count", 1))
        with open("pids", "w") as file:
            file.write(" ".join(map(str, pids)))
        exec(event.get("then", ""))
        return pids
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def in_folder(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for one in Path("/proc").iterdir():
        try:
            if one.name.isdigit() and (one / "cwd").resolve() == folder and is_alive(int(one.name)):
                found.append(int(one.name))
        except OSError:
            continue
    return found


def make(folder: Path, **options: Any) -> Function:
    (folder / "main.py").write_text(textwrap.dedent(SOURCE))
    return Function(folder / "main.py", "handler", name="children", concurrency=1, **options)


async def call(function: Function, **event: Any) -> Any:
    return json.loads(await function.invoke(json.dumps(event).encode()))


async def test_daemons_live_as_long_as_their_worker(tmp_path: Path) -> None:
    function = make(tmp_path)
    pids = await call(function, count=3)
    assert all(map(is_alive, pids))
    await function.close()
    assert not any(map(is_alive, pids))
    assert in_folder(tmp_path) == []


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ("os._exit(3)", "status 3"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("os.kill(os.getpid(), 10)", "SIGUSR1"),
        ("time.sleep(600)", "no answer within"),
    ],
    ids=["exit", "kill", "segv", "usr1", "timeout"],
)
async def test_they_end_with_a_worker_that_ends_in_any_way(then: str, says: str, tmp_path: Path) -> None:
    function = make(tmp_path, timeout=3.0)
    with pytest.raises((FunctionCrashed, FunctionTimeout), match=says):
        await call(function, then=then)
    await function.close()
    assert in_folder(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_worker_ends_also_if_its_keeper_cannot_end_it(number: int, tmp_path: Path) -> None:
    function = make(tmp_path, timeout=3.0)
    with pytest.raises(FunctionFailure):
        await call(function, then=f"os.kill(os.getppid(), {number}); time.sleep(600)")
    [worker] = [*function.pids, 0][:1]
    await function.close()
    assert not is_alive(worker)
    for pid in in_folder(tmp_path):  # what a handler does on purpose against its keeper leaves its daemons
        os.kill(pid, signal.SIGKILL)


async def test_what_is_another_process_all_the_time_is_outrun(tmp_path: Path) -> None:
    function = make(tmp_path)
    await call(function, count=20, then="for _ in range(3): runner()")
    await function.close()
    await until(lambda: in_folder(tmp_path) == [])


async def test_orphans_are_reaped_while_the_worker_lives(tmp_path: Path) -> None:
    function = make(tmp_path)
    [pid] = await call(function)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{pid}").exists())
    assert await call(function)
    await function.close()


GATEWAY = """
import asyncio, sys
from pathlib import Path
from sluicegate.functions import Function
async def main():
    function = Function(Path(sys.argv[1]) / "main.py", "handler", name="orphan", concurrency=1)
    await function.invoke(b'{"count": 3}')
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_nothing_survives_a_killed_gateway(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "main.py").write_text(textwrap.dedent(SOURCE))
    source = str(Path(sluicegate.__file__).parent.parent)
    command, environment = [sys.executable, "-c", GATEWAY, str(folder)], {**os.environ, "PYTHONPATH": source}
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)  # noqa: ASYNC220
    assert gateway.stdout is not None
    try:
        await asyncio.to_thread(gateway.stdout.readline)
        assert len(in_folder(folder)) == 5  # the keeper, its worker and three daemons
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
    await until(lambda: in_folder(folder) == [])
