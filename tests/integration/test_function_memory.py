"""`MemoryInMb`: threads have room, what is touched counts, and the neighbour is left alone."""

import asyncio
import itertools
import json
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sluicegate.functions import Function, FunctionFailure, FunctionInitFailed, FunctionOutOfMemory
from sluicegate.functions.memory import Memory
from waiting import wait_until

Make = Callable[..., Function]

DO = """
    import os
    KEPT = []
    def handler(event, context):
        exec(event.get("do", ""), globals())
        return os.getpid()
"""
TOUCH = "data = b'x' * ({mb} << 20); del data"
KEEP = "KEPT.append(b'x' * ({mb} << 20))"
HANG = "import time; time.sleep(60)"


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Function] = []

    def make(source: str = DO, **options: Any) -> Function:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        (directory / "main.py").write_text(textwrap.dedent(source))
        made.append(
            Function(directory / "main.py", "handler", name="memory", **{"concurrency": 1, **options})
        )
        return made[-1]

    yield make
    for function in made:
        await function.close()


async def call(function: Function, do: str = "") -> Any:
    return json.loads(await function.invoke(json.dumps({"do": do}).encode()))


@pytest.mark.parametrize(("threads", "memory"), [(16, 512), (64, 512), (16, 128), (64, 128)])
async def test_threads_have_room_for_their_stacks(threads: int, memory: int, make: Make) -> None:
    function = make(
        f"""
        import threading
        def handler(event, context):
            together = threading.Barrier({threads} + 1)
            def work():
                assert len(bytearray(1 << 16)) == 1 << 16
                together.wait(30)
            workers = [threading.Thread(target=work) for _ in range({threads})]
            for one in workers: one.start()
            together.wait(30)
            for one in workers: one.join()
            return len(workers)
        """,
        memory=memory,
    )
    assert await call(function) == threads


@pytest.mark.parametrize("do", [TOUCH, KEEP, f"{KEEP}; {HANG}"], ids=["peak", "kept", "hangs"])
async def test_what_touches_too_much_is_ended_and_named_and_its_neighbour_is_not(do: str, make: Make) -> None:
    greedy, neighbour = make(memory=512), make(memory=512)
    first, beside = await call(greedy), await call(neighbour)
    with pytest.raises(FunctionOutOfMemory, match=r"Runtime\.OutOfMemory: \d+ MB used of 512 MB") as failed:
        await call(greedy, do.format(mb=600))
    assert failed.value.reason == "FunctionOutOfMemory"
    assert await call(greedy) != first
    assert await call(neighbour, TOUCH.format(mb=300)) == beside


async def test_who_looks_when_it_has_just_been_ended_is_told_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the end of a batch, while one of those during the batch has found too much."""
    function = make(memory=128)
    pid = await call(function)
    (worker,) = function._pool._workers
    turns = itertools.count()

    def exact(memory: Memory) -> int:
        if next(turns) == 0:
            return memory.limit + 1
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the other one has ended it")
        return 0

    monkeypatch.setattr(Memory, "look", lambda memory: memory.limit + 1)
    monkeypatch.setattr(Memory, "exact", exact)
    one, other = await asyncio.gather(worker._exceeded(), worker._exceeded())
    assert isinstance(one, FunctionOutOfMemory)
    assert other is one


async def test_what_grows_over_many_short_batches_is_ended(make: Make) -> None:
    function = make(memory=128)

    async def batches() -> None:
        for _ in range(2000):
            await call(function, KEEP.format(mb=1))

    with pytest.raises(FunctionOutOfMemory, match="of 128 MB"):
        await batches()


async def test_what_is_reserved_or_mapped_from_a_file_does_not_count(make: Make, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (200 << 20))
    function = make(memory=128)
    reserved = (
        "import mmap; KEPT.append(mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))"
    )
    mapped = (
        f"import mmap\nwith open({str(tmp_path / 'large')!r}, 'rb') as file:\n"
        "    KEPT.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))\n"
        "total = sum(KEPT[-1][place] for place in range(0, len(KEPT[-1]), 4096))\n"
    )
    first = await call(function)
    assert await call(function, reserved) == first
    assert await call(function, mapped) == first


@pytest.mark.parametrize("more", ["", ", start_new_session=True"], ids=["child", "session of its own"])
async def test_children_count(more: str, make: Make) -> None:
    code = f"data = b'x' * (200 << 20); {HANG}"
    start = f"import subprocess, sys; KEPT.append(subprocess.Popen([sys.executable, '-c', {code!r}]{more})); {HANG}"
    with pytest.raises(FunctionOutOfMemory, match="of 128 MB"):
        await call(make(memory=128), start)


async def test_shared_memory_counts(make: Make) -> None:
    shared = f"import mmap; area = mmap.mmap(-1, 300 << 20); area.write(b'x' * (300 << 20)); {HANG}"
    with pytest.raises(FunctionOutOfMemory, match="of 256 MB"):
        await call(make(memory=256), shared)


async def test_pages_of_a_fork_count_once(make: Make) -> None:
    forks = (
        "import os, time\nKEPT.append(b'x' * (100 << 20))\nchild = os.fork()\n"
        "if not child: time.sleep(0.5); os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    function = make(memory=160)
    first = await call(function)
    assert await call(function, forks) == first


async def test_an_import_that_takes_too_much_is_named(make: Make) -> None:
    source = f"DATA = b'x' * (200 << 20)\n{HANG}\n"
    with pytest.raises(FunctionInitFailed, match=r"Runtime\.OutOfMemory"):
        await make(source, memory=128).warm_up()


async def test_what_grows_faster_than_anybody_looks_finds_its_end(make: Make) -> None:
    function = make(memory=64)
    with pytest.raises(FunctionFailure, match=r"MemoryError|OutOfMemory"):
        await call(function, KEEP.format(mb=4000))
    assert await call(function) > 0
