"""Slots of a function's workers: taken at once or in order, and never lost by who gives up."""

from __future__ import annotations

import asyncio

import pytest

from sluicegate.functions.slots import Slots


async def hold(slots: Slots, names: list[str], name: str, go: asyncio.Event) -> None:
    async with slots:
        names.append(name)
        await go.wait()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_gets_a_slot_in_order_and_nobody_gets_past() -> None:
    slots, names, go = Slots(1), [], asyncio.Event()
    assert slots.take()
    waiting = [asyncio.create_task(hold(slots, names, name, go)) for name in "ab"]
    await turn()
    slots.release()
    assert not slots.take()
    await turn()
    assert names == ["a"]
    go.set()
    await asyncio.gather(*waiting)
    assert names == ["a", "b"]
    assert slots.take()
    assert not slots.take()


@pytest.mark.parametrize("given", [False, True], ids=["while it waits", "in the turn in which it gets it"])
async def test_who_is_cancelled_leaves_its_slot_to_the_next(given: bool) -> None:
    slots, names, go = Slots(1), [], asyncio.Event()
    assert slots.take()
    first, second = (asyncio.create_task(hold(slots, names, name, go)) for name in "ab")
    await turn()
    if given:
        slots.release()
    first.cancel()
    if not given:
        slots.release()
    await turn()
    assert names == ["b"]
    go.set()
    await second
    assert slots.take()
