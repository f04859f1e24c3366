"""One suite for every Destination: whoever adds one adds a `Case` here (contract sections 1.2 and 3)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doubles import Batch
from sluicegate.aws import Aws
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
from sluicegate.events import EventLog


@pytest.fixture
def context(tmp_path: Path) -> DestinationContext:
    return DestinationContext(
        listener="decoder", region="us-west-2", base_dir=tmp_path, events=EventLog(), aws=Aws("us-west-2")
    )


HANDLER = """
import json
def handler(event, context):
    with open("seen.ndjson", "a") as out:
        for message in event["Messages"]:
            out.write(json.dumps(message) + "\\n")
    return {"Replies": [{"Tag": m["Tag"], "Data": m["Data"]} for m in event["Messages"]]}
"""


@dataclass
class Case:
    """One Destination: a good target, bad ones, what to prepare, and how to see what was delivered."""

    kind: type[Destination]
    target: str
    bad_targets: list[str]
    prepare: Callable[[Path], object]
    delivered: Callable[[Destination, Path, str], list[str]]


def _data(lines: str) -> list[str]:
    return [json.loads(line)["Data"] for line in lines.splitlines()]


CASES = {
    "memory": Case(
        MemoryDestination,
        "",
        ["name"],
        lambda base: None,
        lambda d, base, out: [p["Data"] for p in d.packets],  # type: ignore[attr-defined]
    ),
    "file": Case(
        FileDestination,
        "new/dir/packets.ndjson",
        ["", "dir/", ".", "a\0b"],
        lambda base: None,
        lambda d, base, out: _data((base / "new/dir/packets.ndjson").read_text()),
    ),
    "console": Case(
        ConsoleDestination,
        "",
        ["stdout"],
        lambda base: None,
        lambda d, base, out: [line.split()[-1] for line in out.splitlines() if "198.51.100.7:40001" in line],
    ),
    "function": Case(
        FunctionDestination,
        "echo.py:handler",
        ["", "echo.py", "echo.py:", "echo.py:absent", "absent.py:handler", "echo.py:not a name", "absent"],
        lambda base: (base / "echo.py").write_text(HANDLER),
        lambda d, base, out: _data((base / "seen.ndjson").read_text()),
    ),
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    found = CASES[request.param]
    found.prepare(tmp_path)
    return found


@pytest.fixture
async def destination(case: Case, context: DestinationContext) -> AsyncIterator[Destination]:
    made = case.kind.from_spec("echo", case.target, {}, context)
    await made.provision()
    yield made
    await made.close()


# Every Destination


async def test_delivers_every_packet_in_order(
    case: Case, destination: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await destination.deliver(Batch("a", "b"))
    await destination.deliver(Batch("c"))
    assert case.delivered(destination, tmp_path, capsys.readouterr().out) == ["a", "b", "c"]


async def test_answers_with_bytes_or_nothing(destination: Destination) -> None:
    answer = await destination.deliver(Batch("a"))
    assert answer is None or json.loads(answer) == {"Replies": [{"Tag": "tag-a", "Data": "a"}]}


def test_parsing_changes_nothing(case: Case, context: DestinationContext, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    case.kind.from_spec("echo", case.target, {}, context)
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_target_names_cause_and_fix(case: Case, context: DestinationContext) -> None:
    for target in case.bad_targets:
        with pytest.raises(DestinationError) as caught:
            case.kind.from_spec("echo", target, {}, context)
        assert "echo" in caught.value.cause, target
        assert caught.value.fix, target


def test_unknown_argument_is_refused_by_name(case: Case, context: DestinationContext) -> None:
    with pytest.raises(DestinationError, match="Colour"):
        case.kind.from_spec("echo", case.target, {"Colour": "red"}, context)


def test_concurrency_is_positive(case: Case, context: DestinationContext) -> None:
    assert case.kind.from_spec("echo", case.target, {}, context).concurrency >= 1


async def test_closes_without_having_been_provisioned(case: Case, context: DestinationContext) -> None:
    await case.kind.from_spec("echo", case.target, {}, context).close()


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
    await file.deliver(Batch("a"))
    path.rename(tmp_path / "p.1")
    await file.deliver(Batch("b"))
    await file.close()
    assert _data((tmp_path / "p.1").read_text().split("\n", 1)[1]) == ["a"]
    assert _data(path.read_text()) == ["b"]


async def test_file_takes_back_half_a_batch_when_the_disk_is_full(
    context: DestinationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FileDestination.from_spec("f", "p.ndjson", {}, context)
    await file.provision()
    await file.deliver(Batch("a"))
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
            await file.deliver(Batch("b"))
    assert caught.value.retryable
    assert _data((tmp_path / "p.ndjson").read_text()) == ["a"]
    await file.deliver(Batch("b"))
    await file.close()
    assert _data((tmp_path / "p.ndjson").read_text()) == ["a", "b"]


async def test_file_that_cannot_be_opened_is_told_at_provision(
    context: DestinationContext, tmp_path: Path
) -> None:
    (tmp_path / "occupied").write_text("")
    file = FileDestination.from_spec("f", "occupied/p.ndjson", {}, context)
    with pytest.raises(DestinationError, match="occupied"):
        await file.provision()
    await file.close()


# console:


async def test_console_shows_no_control_characters_of_strangers(
    context: DestinationContext, capsys: pytest.CaptureFixture[str]
) -> None:
    console = ConsoleDestination.from_spec("c", "", {}, context)
    await console.deliver(Batch("\x1b[2Jboo\n", "", "x" * 5000))
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


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"TimeoutInSeconds": "soon"}, "TimeoutInSeconds"),
        ({"TimeoutInSeconds": 0}, "TimeoutInSeconds"),
        ({"MemoryInMb": "12.5"}, "MemoryInMb"),
        ({"Concurrency": "-1"}, "Concurrency"),
        ({"Environment": "A=b"}, "Environment"),
        ({"Environment": {"AWS_LAMBDA_RUNTIME_API": "s3cret"}}, "AWS_LAMBDA_RUNTIME_API"),
    ],
)
def test_function_arguments_that_do_not_fit(
    arguments: dict[str, Any], word: str, context: DestinationContext, tmp_path: Path
) -> None:
    (tmp_path / "echo.py").write_text(HANDLER)
    with pytest.raises(DestinationError, match=word) as caught:
        FunctionDestination.from_spec("f", "echo.py:handler", arguments, context)
    assert "s3cret" not in str(caught.value)


def test_function_takes_string_scalars_in_both_spellings(context: DestinationContext, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(HANDLER)
    for arguments in (
        {"Concurrency": "7", "TimeoutInSeconds": "30"},
        {"concurrency": 7, "environment": {"A": 1}},
    ):
        assert FunctionDestination.from_spec("f", "echo.py:handler", arguments, context).concurrency == 7


@pytest.mark.parametrize(
    "source",
    [
        "def handler(e, c): ...",
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
        ("async def handler(e, c): ...", "async"),
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
