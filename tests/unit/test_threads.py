"""Blocking calls in threads of their owner: their order, how many at a time, and that nothing is left over."""

import asyncio
import threading

import pytest

from sluicegate.threads import Threads
from waiting import until


async def test_one_thread_runs_calls_in_the_order_in_which_they_came() -> None:
    threads, seen = Threads("ordered"), []
    began, go = threading.Event(), threading.Event()
    first = asyncio.create_task(threads.call(lambda: (began.set(), go.wait(10), seen.append(0))))
    await until(began.is_set)
    others = [asyncio.create_task(threads.call(lambda n=n: seen.append(n))) for n in range(1, 5)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)
    assert seen == [0, 1, 2, 3, 4]
    threads.close()


async def test_no_more_calls_at_a_time_than_the_limit_and_results_come_to_their_callers() -> None:
    threads = Threads("limited", 3)
    lock, go, running, most = threading.Lock(), threading.Event(), 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1
        return number * number

    calls = [asyncio.create_task(threads.call(lambda n=n: work(n))) for n in range(8)]
    await until(lambda: running == 3)
    go.set()
    assert await asyncio.gather(*calls) == [number * number for number in range(8)]
    assert most == 3
    threads.close()


async def test_an_exception_comes_to_the_caller_and_the_thread_goes_on() -> None:
    threads = Threads("failing")

    def refuse() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await threads.call(refuse)
    assert await threads.call(threading.current_thread) is await threads.call(threading.current_thread)
    threads.close()


async def test_a_call_that_was_cancelled_before_it_began_is_not_made() -> None:
    threads, seen = Threads("cancelled"), []
    began, go = threading.Event(), threading.Event()
    first = asyncio.create_task(threads.call(lambda: (began.set(), go.wait(10))))
    await until(began.is_set)
    second = asyncio.create_task(threads.call(lambda: seen.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    go.set()
    await first
    await threads.call(lambda: None)
    assert seen == []
    threads.close()


async def test_closing_ends_the_threads_after_what_waits() -> None:
    threads = Threads("closing", 2)
    made = await asyncio.gather(*(threads.call(threading.current_thread) for _ in range(2)))
    threads.close()
    await until(lambda: not any(thread.is_alive() for thread in made))
    assert await threads.call(lambda: "again") == "again"
    threads.close()
