"""A handler that writes to the descriptor over which its worker speaks to the gateway, or closes it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sluicegate.functions import Function, FunctionCrashed, FunctionFailure
from waiting import until

HANDLER = """
    import ctypes, os, signal, threading, time
    LIBC = ctypes.CDLL(None)
    LIBC.getenv.restype = ctypes.c_char_p
    def handler(event, context):
        exec(event.get("do", ""))
        return {"pid": os.getpid(), "trace": os.environ["_X_AMZN_TRACE_ID"],
                "c": LIBC.getenv(b"_X_AMZN_TRACE_ID").decode()}
"""


@pytest.fixture
async def function(tmp_path: Path) -> AsyncIterator[Function]:
    (tmp_path / "main.py").write_text(textwrap.dedent(HANDLER))
    made = Function(tmp_path / "main.py", "handler", name="echo", timeout=20.0, concurrency=1)
    yield made
    await made.close()


async def call(function: Function, do: str = "") -> dict[str, str]:
    answer: dict[str, str] = json.loads(await function.invoke(json.dumps({"do": do}).encode()))
    return answer


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("b'hello, world'", "the kind of a frame is 'o'"),
        ("b'\\0\\0\\0\\0N'", "a frame N came while an event was handled"),
        ("b'\\0\\0\\0\\0Q'", "the kind of a frame is 'Q'"),
        ("b'\\1\\0\\0\\5R' + bytes(1000)", "a frame R has 83886081 bytes"),
    ],
)
async def test_what_a_handler_writes_there_ends_its_worker_and_no_other(
    function: Function, written: str, told: str
) -> None:
    first = await call(function)
    with pytest.raises(FunctionCrashed, match="descriptor 3, which is the gateway's") as caught:
        await call(function, f"os.write(3, {written}); time.sleep(60)")
    assert caught.match(told)
    assert (await call(function))["pid"] != first["pid"]


async def test_garbage_between_two_events_ends_the_worker_too(function: Function) -> None:
    first = await call(function, "threading.Timer(0.02, os.write, (3, b'garbage')).start()")
    await until(lambda: first["pid"] not in function.pids)
    assert (await call(function))["pid"] != first["pid"]


@pytest.mark.parametrize(
    "do", ["os.close(3)", "os.closerange(3, 99)", "os.kill(os.getpid(), signal.SIGKILL)"]
)
async def test_a_worker_that_loses_its_end_fails_the_event_that_it_has(function: Function, do: str) -> None:
    with pytest.raises(FunctionFailure, match=r"the process (exited|was killed)"):
        await call(function, do)
    assert (await call(function))["pid"]


async def test_each_invocation_has_a_trace_id_and_the_c_library_does_not_collect_them(
    function: Function,
) -> None:
    """glibc keeps each value of a variable for good."""
    one, two = await call(function), await call(function)
    assert one["trace"] != two["trace"]
    assert one["trace"] == one["c"] == two["c"]
    assert two["trace"].startswith("Root=1-")
