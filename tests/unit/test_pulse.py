"""What `/healthz` knows of the data plane."""

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sluicegate.running.pulse import Pulse
from waiting import until

pytestmark = pytest.mark.attack


class Port:
    """Answers, fails, or hangs until `let_go`."""

    def __init__(self) -> None:
        self.fails = self.hangs = False
        self.asked = 0
        self.let_go = threading.Event()

    def stats(self) -> str:
        self.asked += 1
        if self.fails:
            raise RuntimeError("the data plane has ended")
        if self.hangs:
            self.let_go.wait()
        return "{}"


def listeners(*ports: Port) -> Callable[[], Any]:
    return lambda: [SimpleNamespace(port=port) for port in ports]


async def test_a_data_plane_that_ends_and_comes_back_is_seen() -> None:
    port, unasked = Port(), Port()
    pulse = Pulse(pause=0.001)
    running = asyncio.create_task(pulse.run(listeners(port, unasked)))
    await until(lambda: port.asked > 3)
    assert pulse.alive
    port.fails = True
    await until(lambda: not pulse.alive)
    port.fails = False
    await until(lambda: pulse.alive)
    running.cancel()
    assert unasked.asked == 0


async def test_one_that_does_not_answer_is_not_alive_and_holds_nobody_up() -> None:
    port = Port()
    port.hangs = True
    pulse = Pulse(pause=0.001, limit=0.01)
    running = asyncio.create_task(pulse.run(listeners(port)))
    await until(lambda: not pulse.alive)
    port.hangs = False
    port.let_go.set()
    await until(lambda: pulse.alive)
    running.cancel()


async def test_without_a_listener_nothing_is_asked() -> None:
    pulse = Pulse(pause=0.001)
    running = asyncio.create_task(pulse.run(listeners()))
    await asyncio.sleep(0)
    assert pulse.alive
    running.cancel()
