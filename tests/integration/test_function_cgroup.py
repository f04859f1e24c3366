"""Workers in control groups of their own, where the gateway's group is delegated to it: on a real cgroup v2."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sluicegate
from sluicegate.functions import cgroup
from waiting import until

HANDLER = """
    import os, signal, time

    def handler(event, context):
        read, write = os.pipe()
        if not os.fork():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not os.fork():
                os.write(write, b"%d" % os.getpid())
                time.sleep(600)
            os._exit(0)
        daemon = int(os.read(read, 20))
        found = [os.getpid(), daemon, open("/proc/self/cgroup").read(), os.getppid()]
        with open("found", "w") as file:
            file.write(str(daemon))
        exec(event.get("do", ""))
        return found
"""

GATEWAY = """
import asyncio, json, sys
from pathlib import Path
from sluicegate.functions import Function, FunctionFailure
async def main(folder, limit, *events):
    options = dict(name="f", concurrency=1, timeout=5, memory=int(limit) or None)
    function = Function(Path(folder) / "main.py", "handler", **options)
    for event in events:
        try:
            print((await function.invoke(event.encode())).decode(), flush=True)
        except FunctionFailure as failure:
            print(json.dumps([failure.reason, failure.detail]), flush=True)
    if sys.stdin.readline():
        await function.close()
        print("closed", flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


def _mounted() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    return None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A group as systemd makes one for a unit with `Delegate=yes`."""
    top = _mounted()
    if top is None:
        pytest.skip("there is no cgroup v2 here")
    folder = top / f"sluicegate-test-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no group can be made in it: {error}")
    yield folder
    (folder / "cgroup.kill").write_text("1")
    for inner in sorted((one for one in folder.rglob("*") if one.is_dir()), reverse=True):
        inner.rmdir()
    folder.rmdir()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A gateway with one function in a group; `others` are processes that join it before."""
    (tmp_path / "main.py").write_text(textwrap.dedent(HANDLER))
    started: list[subprocess.Popen[str]] = []

    def run(group: Path, *events: dict[str, Any], limit: int = 0) -> subprocess.Popen[str]:
        into = 'echo $$ > $0/cgroup.procs && exec "$@"'
        command = [sys.executable, "-c", GATEWAY, str(tmp_path), str(limit), *map(json.dumps, events)]
        environment = {**os.environ, "PYTHONPATH": str(Path(sluicegate.__file__).parent.parent)}
        process = subprocess.Popen(
            ["sh", "-c", into, str(group), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def close(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "closed\n"


def groups(folder: Path) -> list[str]:
    return [name for name in folders(folder) if name != "gateway"]


def folders(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if one.is_dir()]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_worker_and_its_daemons_share_a_group_that_ends_with_it(
    delegated: Path, start: Start
) -> None:
    process = start(delegated, {})
    worker, daemon, group, keeper = answer(process)
    [name] = groups(delegated)
    assert f"0::/{delegated.name}/{name}\n" in group
    held = set((delegated / name / "cgroup.procs").read_text().split())
    assert held == {str(worker), str(daemon)}
    assert str(keeper) not in held
    close(process)
    assert not is_there(daemon)
    assert groups(delegated) == []


@pytest.mark.attack
async def test_a_daemon_ends_also_if_its_handler_has_killed_the_keeper(
    delegated: Path, start: Start, tmp_path: Path
) -> None:
    process = start(delegated, {"do": "os.kill(os.getppid(), 9); time.sleep(600)"})
    assert answer(process)[0].startswith("Function")
    daemon = int((tmp_path / "found").read_text())
    close(process)
    await until(lambda: not is_there(daemon))
    assert groups(delegated) == []


@pytest.mark.attack
async def test_the_group_goes_with_a_killed_gateway(delegated: Path, start: Start) -> None:
    process = start(delegated, {})
    worker, daemon, _, keeper = answer(process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    await until(lambda: not any(map(is_there, (worker, daemon, keeper))))
    await until(lambda: groups(delegated) == [])


async def test_a_group_with_other_processes_or_without_the_mark_is_left_alone(
    delegated: Path, start: Start
) -> None:
    other = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220
    try:
        (delegated / "cgroup.procs").write_text(str(other.pid))
        process = start(delegated, {})
        assert f"0::/{delegated.name}\n" in answer(process)[2]
        close(process)
    finally:
        other.kill()
        other.wait()
    os.removexattr(delegated, "user.delegate")
    process = start(delegated, {})
    assert f"0::/{delegated.name}\n" in answer(process)[2]
    close(process)
    assert folders(delegated) == []


async def test_the_kernel_holds_a_worker_to_its_limit_and_it_is_named(delegated: Path, start: Start) -> None:
    if "memory" not in (delegated / "cgroup.controllers").read_text().split():
        pytest.skip("the controller memory is not in this cgroup v2")
    process = start(delegated, {"do": "x = b'x' * (600 << 20)"}, {}, limit=512)
    reason, detail = answer(process)
    assert reason == "FunctionOutOfMemory"
    assert "of 512 MB" in detail
    assert answer(process)[0] > 0
    close(process)


@pytest.mark.parametrize(
    ("events", "peak", "used"),
    [
        ("low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\noom_group_kill 1\n", "536870912\n", 536870912),
        ("max 9\noom 1\noom_kill 1\n", None, 268435456),
        ("max 9\noom 0\noom_kill 0\n", "1\n", None),
        (None, None, None),
    ],
    ids=["killed", "old kernel", "not killed", "no controller"],
)
def test_what_the_kernel_says_of_memory(
    events: str | None, peak: str | None, used: int | None, tmp_path: Path
) -> None:
    for name, text in (("memory.events", events), ("memory.peak", peak), ("memory.max", "268435456\n")):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert cgroup.Group(tmp_path).out_of_memory() == used


def test_the_gateway_moves_so_that_the_controller_can_be_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that looks like a group with the controller `memory`: what is written, and where."""
    pid, mine = str(os.getpid()), tmp_path / "gateway"
    for name, text in (
        ("cgroup.type", "domain\n"),
        ("cgroup.procs", f"{pid}\n"),
        ("cgroup.controllers", "cpu memory pids\n"),
        ("cgroup.subtree_control", ""),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroup, "_own", lambda: tmp_path)
    monkeypatch.setattr(cgroup, "_mark", lambda folder, name: folder == tmp_path and name == "user.delegate")
    cgroup.delegated.cache_clear()
    try:
        group = cgroup.make(512 << 20)
        assert group is not None
        assert cgroup.make(0) is not None
    finally:
        cgroup.delegated.cache_clear()
    assert (mine / "cgroup.procs").read_text() == pid
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert [(group.folder / f"memory.{name}").read_text() for name in ("max", "swap.max", "oom.group")] == [
        "536870912",
        "0",
        "1",
    ]
