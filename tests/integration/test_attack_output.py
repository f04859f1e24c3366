"""Handlers that print without end: they hold nobody up, fill no memory, and everything is shown or counted."""

from __future__ import annotations

import asyncio
import re
import resource
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sluicegate.functions import Function, FunctionCrashed
from waiting import until

pytestmark = pytest.mark.attack

MIB = 1 << 20
Make = Callable[..., Function]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Function] = []

    def make(source: str, name: str, **options: Any) -> Function:
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.py").write_text(textwrap.dedent(source))
        made.append(Function(tmp_path / name / "main.py", "handler", name=name, concurrency=1, **options))
        return made[-1]

    yield make
    for function in made:
        await function.close()


def shown(logs: Any, function: str) -> list[str]:
    return [e["line"] for e in logs if e["event"] == "function output" and e["function"] == function]


NOTE = re.compile(r"\((\d+) more lines with (\d+) bytes within a second are not shown\)")


@pytest.mark.parametrize(
    ("what", "lines"),
    [("b'x' * 65536", False), ("bytes(range(14, 255)) * 256", False), ("b'a\\n' * 32768", True)],
    ids=["no newline", "binary", "short lines"],
)
async def test_everything_is_shown_or_counted_and_memory_stays(what: str, lines: bool, make: Make) -> None:
    function = make(
        f"""
        import os
        def handler(event, context):
            data = {what}
            written = 0
            while written < event:
                written += os.write(1, data)
            return written
        """,
        "loud",
    )
    await function.invoke(b"0")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with capture_logs() as logs:
        written = int(await function.invoke(str(100 * MIB).encode()))
        await function.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 * 1024  # KiB, of more than 100 MiB
    found = shown(logs, "loud")
    notes = [note for line in found if (note := NOTE.fullmatch(line))]
    said = [line for line in found if not NOTE.fullmatch(line)]
    assert all(len(line) <= 4096 for line in said)
    assert 0 < len(said) < 20_000
    if lines:
        assert sum(int(note[1]) for note in notes) + len(said) == written // 2
    elif what.startswith("b'x'"):
        assert sum(int(note[2]) for note in notes) + sum(map(len, said)) == written


async def test_one_that_prints_little_is_heard_among_those_that_print_much(make: Make) -> None:
    flood = "import os\ndef handler(event, context):\n    while True:\n        os.write(event, b'much\\n' * 8192)\n"
    loud = [make(flood, f"loud{n}") for n in range(4)]
    quiet = make("def handler(event, context):\n    print('little', event)\n", "quiet")
    with capture_logs() as logs:
        running = [asyncio.create_task(one.invoke(str(1 + n % 2).encode())) for n, one in enumerate(loud)]
        await until(lambda: all(shown(logs, f"loud{n}") for n in range(4)))
        for number in range(5):
            await quiet.invoke(str(number).encode())
            await until(lambda number=number: f"little {number}" in shown(logs, "quiet"))  # type: ignore[misc]
        assert not any(one.done() for one in running)
        for one in running:
            one.cancel()
        await asyncio.wait(running)
    counts = [len(shown(logs, f"loud{n}")) for n in range(4)]
    assert max(counts) < 3 * min(counts) + 1000


async def test_the_last_words_of_a_worker_are_heard_behind_a_flood(make: Make) -> None:
    function = make(
        """
        import os, sys
        def handler(event, context):
            os.write(2, b"much\\n" * 200_000)
            os.write(2, b"out of licences\\n")
            os._exit(3)
        """,
        "dying",
    )
    with pytest.raises(FunctionCrashed, match="its last line: out of licences"):
        await function.invoke(b"{}")
