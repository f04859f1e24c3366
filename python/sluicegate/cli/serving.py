"""Running a gateway from the command line: events to standard output, the log to standard error, signals."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable

import uvloop

from sluicegate.cli.errors import CliError, Exit, error
from sluicegate.cli.reloading import Reloading
from sluicegate.cli.streams import take_over
from sluicegate.config import Config, ConfigError, load
from sluicegate.events import EventLog, Sink
from sluicegate.events.setup import open_sinks
from sluicegate.gateway import DRAIN_SECONDS, Gateway, StartError
from sluicegate.model import Finding
from sluicegate.running.descriptors import raise_limit


def load_or_fail(file: str) -> Config:
    """The configuration, or the end of the command with every problem of it."""
    try:
        return load(file)
    except ConfigError as refused:
        raise CliError(f"{file} cannot be used\n{refused}") from None


def serve(
    config: Config, ready: Callable[[Gateway], None], *, reload_functions: bool = False, watch: bool = False
) -> None:
    """Run until SIGINT or SIGTERM, then drain; a second signal ends at once. `ready` is called when the gateway serves.

    SIGHUP takes the file over as it is then; with `watch` saving it does. Raises `CliError` when it cannot start.
    """
    output = take_over()
    raise_limit()
    for warning in config.warnings:
        error(f"warning: {warning}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, output, ready, reload_functions, watch))
    except StartError as refused:
        raise CliError(f"the gateway cannot start\n{refused}", Exit.NOT_STARTED) from None


async def _serve(
    config: Config, output: Sink, ready: Callable[[Gateway], None], reload_functions: bool, watch: bool
) -> None:
    settings = config.gateway
    try:
        sinks = open_sinks(settings.events, config.base_dir, output)
    except OSError as refused:
        cause = f"events cannot be written to {refused.filename} ({refused.strerror})"
        found = Finding(("events", "file"), cause, "check the directory and its permissions")
        raise StartError(config.locate(found)) from None
    events = EventLog(*sinks, node=settings.node, region=settings.region)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            # Handlers' workers end with this process (PR_SET_PDEATHSIG), and the state is always consistent.
            os._exit(128 + number)
        stopping.set()
        print(
            f"stopping within {DRAIN_SECONDS:.0f} s; once more to stop at once", file=sys.stderr, flush=True
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    gateway = Gateway(config, events, reload_functions=reload_functions)
    try:
        starting = asyncio.ensure_future(gateway.start())
        interrupted = asyncio.ensure_future(stopping.wait())
        await asyncio.wait([starting, interrupted], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        await starting
        _tune_collector()
        reloading = Reloading(gateway, watch=watch)
        ready(gateway)
        await interrupted
        await reloading.stop()
        await gateway.stop()
    finally:
        events.close()


def _tune_collector() -> None:
    """Look for cycles of references less often, and not in what the start has left, which stays.

    Packets and messages hold no cycles, and by default all that are under way would be gone through every 700 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
