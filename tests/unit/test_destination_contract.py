"""Our Destinations keep the contract of all (`sluicegate.testing`), and promises of their own."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sluicegate import Arguments
from sluicegate.destinations import (
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    create,
    schemes,
)
from sluicegate.destinations.console import ConsoleDestination
from sluicegate.destinations.file import FileDestination
from sluicegate.destinations.function import FunctionDestination
from sluicegate.destinations.memory import MemoryDestination
from sluicegate.testing import DestinationContract, destination_context, packet_batch


@pytest.fixture
def context(tmp_path: Path) -> DestinationContext:
    return destination_context(tmp_path, region="us-west-2")


HANDLER = """
import json, os, time
def handler(event, context):
    if os.path.exists("refuse"):
        raise ValueError("no")
    while os.path.exists("stall"):
        time.sleep(0.01)
    with open("seen.ndjson", "a") as out:
        for message in event["Messages"]:
            out.write(json.dumps(message) + "\\n")
    return {"Replies": [{"Tag": m["Tag"], "Data": m["Data"]} for m in event["Messages"]]}
"""


def _data(lines: str) -> list[str]:
    return [json.loads(line)["Data"] for line in lines.splitlines()]


class TestMemory(DestinationContract):
    kind = MemoryDestination
    arguments = {"Concurrency": 3}
    bad_targets = ("name",)
    bad_arguments = ({"Concurrency": 0}, {"Concurrency": "many"})

    def delivered(self, destination: Destination) -> Sequence[str]:
        assert isinstance(destination, MemoryDestination)
        return [packet["Data"] for packet in destination.packets]

    def refuse(self, destination: Destination) -> None:
        def answer(batch: dict[str, Any]) -> None:
            raise DeliveryError("Refused", "it was told to refuse", retryable=True)

        assert isinstance(destination, MemoryDestination)
        destination.answer = answer

    def refuse_packets(self, destination: Destination) -> str:
        def answer(batch: dict[str, Any]) -> None:
            packets = [n for n, packet in enumerate(batch["Messages"]) if packet["Data"] == "refused"]
            raise DeliveryError("Refused", "it was told to refuse some", packets=packets)

        assert isinstance(destination, MemoryDestination)
        destination.answer = answer
        return "refused"


class TestFile(DestinationContract):
    kind = FileDestination
    target = "new/dir/packets.ndjson"
    bad_targets = ("", "dir/", ".", "a\0b")

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "new/dir"

    def delivered(self, destination: Destination) -> Sequence[str]:
        return _data((self.directory / "packets.ndjson").read_text())

    def refuse(self, destination: Destination) -> None:
        self.directory.rename(self.directory.with_name("moved"))

    def fail_to_provision(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "packets.ndjson").symlink_to("missing/packets.ndjson")


class TestConsole(DestinationContract):
    kind = ConsoleDestination
    bad_targets = ("stdout",)

    @pytest.fixture(autouse=True)
    def _output(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def delivered(self, destination: Destination) -> Sequence[str]:
        lines = self.capsys.readouterr().out.splitlines()
        return [line.split()[-1] for line in lines if "198.51.100.7:40001" in line]

    def refuse(self, destination: Destination) -> None:
        closed = io.StringIO()
        closed.close()
        self.monkeypatch.setattr("sys.stdout", closed)


class TestFunction(DestinationContract):
    kind = FunctionDestination
    target = "echo.py:handler"
    arguments = {
        "TimeoutInSeconds": 30.5,
        "MemoryInMb": 1024,
        "Concurrency": 2,
        "Environment": {"SECRET": "hunter2"},
    }
    bad_targets = (
        "",
        "echo.py",
        "echo.py:",
        "echo.py:absent",
        "absent.py:handler",
        "echo.py:not a name",
        "absent",
    )
    bad_arguments = (
        {"TimeoutInSeconds": "soon"},
        {"TimeoutInSeconds": 0},
        {"MemoryInMb": "12.5"},
        {"Concurrency": "-1"},
        {"Environment": "A=b"},
        {"Environment": {"AWS_LAMBDA_RUNTIME_API": "hunter2"}},
    )
    secrets = ("hunter2",)

    @pytest.fixture(autouse=True)
    def _handler(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        (tmp_path / "echo.py").write_text(HANDLER)

    def delivered(self, destination: Destination) -> Sequence[str]:
        return _data((self.directory / "seen.ndjson").read_text())

    def refuse(self, destination: Destination) -> None:
        (self.directory / "refuse").touch()

    def stall(self, destination: Destination) -> None:
        (self.directory / "stall").touch()


# The registry


def test_registry_makes_ours_by_scheme(context: DestinationContext, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(HANDLER)
    spec = SimpleNamespace(name="echo", arguments={})
    made = {
        arn: create(spec, arn, context) for arn in ("console:", "file:a.ndjson", "function:echo.py:handler")
    }
    assert [type(d) for d in made.values()] == [ConsoleDestination, FileDestination, FunctionDestination]
    assert {d.name for d in made.values()} == {"echo"}


@pytest.mark.parametrize(
    "arn", ["carrier-pigeon:loft", "no scheme", "", "arn:aws:pigeon:us-east-1:1:x", "arn:x"]
)
def test_registry_names_what_it_knows(arn: str, context: DestinationContext) -> None:
    with pytest.raises(DestinationError) as caught:
        create(SimpleNamespace(name="echo", arguments={}), arn, context)
    assert all(scheme in caught.value.fix for scheme in schemes())


# file:


async def test_file_goes_on_after_a_cut_line_and_a_rotation(
    context: DestinationContext, tmp_path: Path
) -> None:
    path = tmp_path / "p.ndjson"
    path.write_text('{"Data": "cut o')
    file = FileDestination.from_spec("f", "p.ndjson", {}, context)
    await file.provision()
    await file.deliver(packet_batch("a"))
    path.rename(tmp_path / "p.1")
    await file.deliver(packet_batch("b"))
    await file.close()
    assert _data((tmp_path / "p.1").read_text().split("\n", 1)[1]) == ["a"]
    assert _data(path.read_text()) == ["b"]


async def test_file_takes_back_half_a_batch_when_the_disk_is_full(
    context: DestinationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FileDestination.from_spec("f", "p.ndjson", {}, context)
    await file.provision()
    await file.deliver(packet_batch("a"))
    write, calls = os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(fd, data[:10])
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as patch:
        patch.setattr("sluicegate.destinations.file.os.write", full)
        with pytest.raises(DeliveryError, match="no space left") as caught:
            await file.deliver(packet_batch("b"))
    assert caught.value.retryable
    assert _data((tmp_path / "p.ndjson").read_text()) == ["a"]
    await file.deliver(packet_batch("b"))
    await file.close()
    assert _data((tmp_path / "p.ndjson").read_text()) == ["a", "b"]


async def test_file_that_cannot_be_opened_is_told_at_provision(
    context: DestinationContext, tmp_path: Path
) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(DestinationError, match="occupied, which is not a directory"):
        FileDestination.from_spec("f", "occupied/p.ndjson", {}, context)
    (tmp_path / "occupied").unlink()
    file = FileDestination.from_spec("f", "occupied/p.ndjson", {}, context)
    (tmp_path / "occupied").write_text("")  # between the check and the start
    with pytest.raises(DestinationError, match="occupied"):
        await file.provision()
    await file.close()


# console:


async def test_console_shows_no_control_characters_of_strangers(
    context: DestinationContext, capsys: pytest.CaptureFixture[str]
) -> None:
    console = ConsoleDestination.from_spec("c", "", {}, context)
    await console.deliver(packet_batch("\x1b[2Jboo\n", "", "x" * 5000))
    await console.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    assert "boo" in lines[0]
    assert lines[1].endswith("(empty)")
    assert len(lines[2]) < 400


def test_console_on_a_stuck_pipe_blocks_neither_the_loop_nor_the_exit() -> None:
    """In a process of its own: nobody reads its standard output, and the loop must go on and end."""
    script = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[1])
from sluicegate.destinations import DestinationContext
from sluicegate.destinations.console import ConsoleDestination
class Batch:
    count = 1
    def records(self): return [b'{"Data": "%s"}' % (b"x" * 100)] * 5000
async def main():
    console = ConsoleDestination.from_spec("c", "", {}, DestinationContext("l", "r", pathlib.Path(), None, None))
    stuck = asyncio.create_task(console.deliver(Batch()))
    done, _ = await asyncio.wait({stuck}, timeout=0.3)
    print("stuck" if not done else "not stuck", file=sys.stderr, flush=True)
    stuck.cancel()
    await console.close()
asyncio.run(main())
print("ended", file=sys.stderr, flush=True)
import os; os._exit(0)
"""
    source = str(Path(sys.modules["sluicegate"].__file__ or "").parent.parent)
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, source],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=20,
            check=True,
        )
    finally:
        os.close(read)
        os.close(write)
    assert done.stderr.decode().split() == ["stuck", "ended"]


# function:


async def test_function_answers_what_its_handler_returns(context: DestinationContext, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(HANDLER)
    function = FunctionDestination.from_spec("f", "echo.py:handler", {"concurrency": "7"}, context)
    assert function.concurrency == 7
    await function.provision()
    answer = await function.deliver(packet_batch("a"))
    await function.close()
    assert json.loads(answer or b"") == {"Replies": [{"Tag": "tag-a", "Data": "a"}]}


@pytest.mark.parametrize(
    "source",
    [
        "def handler(e, c): ...",
        "async def handler(e, c): ...",
        "class App:\n    def __call__(self, e, c): ...\nhandler = App()",
        "handler: object = print",
        "from other import handler",
        "from other import *",
        "try:\n    import fast\nexcept ImportError:\n    def handler(e, c): ...",
        "if True:\n    handler, other = print, print",
    ],
)
def test_function_finds_a_handler_however_it_is_bound(
    source: str, context: DestinationContext, tmp_path: Path
) -> None:
    (tmp_path / "echo.py").write_text(source)
    FunctionDestination.from_spec("f", "echo.py:handler", {}, context)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def handle(e, c): ...", "handle"),
        ("class A:\n    def handler(self, e, c): ...", "has no `handler`"),
        ("def handler(e, c)\n    ...", "line 1"),
        ("\0", "not valid Python"),
    ],
)
def test_function_without_a_usable_handler(
    source: str, word: str, context: DestinationContext, tmp_path: Path
) -> None:
    (tmp_path / "echo.py").write_text(source)
    with pytest.raises(DestinationError, match=word):
        FunctionDestination.from_spec("f", "echo.py:handler", {}, context)


def test_function_takes_the_handler_setting_of_lambda(context: DestinationContext, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("def handler(e, c): ...")
    FunctionDestination.from_spec("f", "main.py:pkg.handler", {}, context)
    with pytest.raises(DestinationError, match="has no `other`"):
        FunctionDestination.from_spec("f", "main.py:pkg.other", {}, context)


def test_an_argument_that_is_one_text() -> None:
    arguments = Arguments({"password": 7, "Token": ["s3cret"]}, "destination d")
    assert (arguments.text("Password"), arguments.text("User", "guest")) == ("7", "guest")
    with pytest.raises(DestinationError, match="Token is not a text") as refused:
        arguments.text("Token")
    assert "s3cret" not in str(refused.value)
