"""The echo of examples/languages in four languages: a call that finds no worker, and one that finds it warm.

Timed from `Function.invoke` to its result, with one packet in the batch, in this process. It and its workers share a
core: what a language costs, and not the gateway around it. A cold call starts the keeper and the worker, which loads
the handler. Go and Rust are built before (`examples/languages/build.sh`); a language without its tools is left out.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from sluicegate.functions import Function

from .plan import Plan
from .processes import PROJECT, TESTED_CORE, BenchError
from .results import Row, percentile

EXAMPLE = PROJECT / "examples" / "languages"
BUILT = PROJECT / "target" / "languages"
BUILD_SECONDS = 900.0
WARM_UP = 100
CALLS_FOR_EACH_START = 40
_LANGUAGES = {"Python": "", "Node.js": "node", "Go": "go", "Rust": "cargo"}
_EVENT = json.dumps(
    {"Messages": [{"Tag": "t" * 40, "Data": "aGVsbG8=", "Remote": {"IpAddress": "127.0.0.1"}}]}
)


def run(plan: Plan) -> Iterator[Row]:
    before = os.sched_getaffinity(0)
    for language, tool in _LANGUAGES.items():
        if tool and shutil.which(tool) is None:
            print(f"  {language} is left out: there is no {tool}", file=sys.stderr)
            continue
        place = _code(language)
        os.sched_setaffinity(0, {TESTED_CORE})
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                cold, warm = runner.run(_times(place, plan))
        finally:
            os.sched_setaffinity(0, before)
        yield Row(f"call of a function, {language}, cold, p50", percentile(cold, 0.5), " ms")
        yield Row(f"call of a function, {language}, warm, p50", percentile(warm, 0.5), " ms")
        yield Row(f"call of a function, {language}, warm, p99", percentile(warm, 0.99), " ms")


def _code(language: str) -> tuple[Path, str | None]:
    if language == "Python":
        return EXAMPLE / "python" / "echo.py", "handler"
    if language == "Node.js":
        return EXAMPLE / "node" / "echo.mjs", "handler"
    name = language.lower()
    command = [EXAMPLE / "build.sh", name, BUILT / name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)  # noqa: S603 ours
    if result.returncode:
        raise BenchError(f"{language} could not be built: {result.stderr.strip()[-300:]}")
    return BUILT / name / "bootstrap", None


async def _times(place: tuple[Path, str | None], plan: Plan) -> tuple[list[float], list[float]]:
    """Milliseconds of cold and of warm calls."""
    cold = []
    for _ in range(max(3, plan.publishes // CALLS_FOR_EACH_START)):
        function = Function(*place, name="bench", concurrency=1)
        try:
            cold.append(await _call(function))
        finally:
            await function.close()
    function = Function(*place, name="bench", concurrency=1)
    try:
        warm = [await _call(function) for _ in range(WARM_UP + plan.publishes)]
    finally:
        await function.close()
    return cold, warm[WARM_UP:]


async def _call(function: Function) -> float:
    begun = time.perf_counter()
    answer = await function.invoke(_EVENT.encode())
    took = (time.perf_counter() - begun) * 1000
    if json.loads(answer)["Replies"] != [{"Tag": "t" * 40, "Data": "aGVsbG8="}]:
        raise BenchError(f"an echo answered {answer[:200]!r}")
    return took
