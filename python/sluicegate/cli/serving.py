"""Running a gateway from the command line: events to standard output, the log to standard error, signals."""

import asyncio
import gc
import time
from collections.abc import Callable
from functools import partial

import uvloop

from sluicegate.cli.errors import CliError, Exit, warning
from sluicegate.cli.reloading import Reloading
from sluicegate.cli.signals import STOP_SECONDS, Signals, say
from sluicegate.cli.streams import take_over
from sluicegate.config import Config, ConfigError, load
from sluicegate.events import EventLog, Sink
from sluicegate.events.setup import open_sinks
from sluicegate.gateway import Gateway, StartError
from sluicegate.model import Finding
from sluicegate.running.descriptors import check_file, raise_limit
from sluicegate.running.documents import Refused

CLOSE_SECONDS = 2.0
"""Seconds of a stop that are kept for closing, after what was accepted has completed or is given up."""
EVENTS_SECONDS = 1.0
"""Seconds that the outputs of events have to take the last lines."""
SAY_SECONDS = 0.2


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
    for found in config.warnings:
        warning(found)
    try:
        check_file(config.gateway)
    except Refused as refused:
        shown = "\n".join(map(str, refused.located(config)))
        raise CliError(f"the gateway cannot start\n{shown}", Exit.NOT_STARTED) from None
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
    gateway = Gateway(config, events, reload_functions=reload_functions)
    reloading, stopping = Reloading(gateway), asyncio.Event()
    signals = Signals(stopping.set, reloading.hang_up, partial(_report_late, gateway, events))
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
        reloading.start(watch=watch)
        ready(gateway)
        await interrupted
        reloading.close()
        await gateway.stop(max(0.0, signals.left - CLOSE_SECONDS))
        await reloading.ended()
    finally:
        events.close(min(EVENTS_SECONDS, signals.left))
        signals.end()


def _report_late(gateway: Gateway, events: EventLog) -> None:
    """Say what a stop that has taken too long loses. In a thread: the event loop may never turn again."""
    lost, doing = gateway.unfinished(), gateway.watch.doing()
    detail = f"it was held up by {doing}; lost: {lost or 'nothing that is known'}"
    say(f"the gateway did not stop within {STOP_SECONDS:.0f} s and is ended by force: {detail}")
    events.emit("StopForced", Detail=detail, **doing.names)
    events.close(SAY_SECONDS)
    time.sleep(SAY_SECONDS)  # for the thread that writes standard error


def _tune_collector() -> None:
    """Look for cycles of references less often, and not in what the start has left, which stays.

    Packets and messages hold no cycles, and by default all that are under way would be gone through every 700 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
