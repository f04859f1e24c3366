"""Fixtures around `harness.py`: what they start, they stop."""

import asyncio
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
import uvloop
from aws_server import aws_keys as aws_keys
from aws_server import aws_server as aws_server
from clocks import WallClock
from harness import HOST, Gateway, Netns, Place, icmp_comes_back
from ministack import ministack as ministack
from warm import close_loaded
from web_server import web_hook as web_hook

# A shell starts background jobs with SIGINT ignored, and everything that they start inherits that: then no test could
# stop a program as a user does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on the gateway's event loop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def loaded_program() -> Iterator[None]:
    """What `warm` has started is ended."""
    yield
    close_loaded()


class StartGateway(Protocol):
    def __call__(
        self,
        text: str,
        handlers: Mapping[str, str] | None = None,
        *,
        place: Place = HOST,
        start: bool = True,
    ) -> Gateway: ...


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Makes gateways, each in a directory of its own; `start=False` only writes the files."""
    made: list[Gateway] = []

    def make(
        text: str, handlers: Mapping[str, str] | None = None, *, place: Place = HOST, start: bool = True
    ) -> Gateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        one = Gateway(directory, text, handlers, place)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def wall_clock(tmp_path: Path) -> Iterator[WallClock]:
    """A wall clock that the test sets."""
    missing = WallClock.missing()
    if missing:
        pytest.skip(missing)
    made = WallClock(tmp_path)
    yield made
    made.close()


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A network namespace of the test's own."""
    missing = Netns.missing()
    if missing:
        pytest.skip(missing)
    made = Netns()
    yield made
    made.close()


@pytest.fixture
def icmp() -> Iterator[None]:
    """ICMP errors come back on loopback: checked without a gateway, or a test about them would pass for nothing.

    Linux sends them from one socket for each CPU and all namespaces, and one that is stuck stays silent. The test and
    what it starts then keep to the other CPUs; without any it is skipped.
    """
    allowed = os.sched_getaffinity(0)
    working = set()
    try:
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            if all(icmp_comes_back(host) for host in ("127.0.0.1", "::1")):
                working.add(cpu)
        if not working:
            pytest.skip("this kernel sends no ICMP errors on loopback, without a gateway either")
        if working != allowed:
            silent = ", ".join(map(str, sorted(allowed - working)))
            warnings.warn(f"no ICMP errors come from CPU {silent} of this machine", stacklevel=1)
        os.sched_setaffinity(0, working)
        yield
    finally:
        os.sched_setaffinity(0, allowed)
