"""Taking the configuration file over while the gateway runs: on SIGHUP, and when it is saved."""

import asyncio
import signal
import sys

from sluicegate.cli.errors import error
from sluicegate.config import stamp
from sluicegate.gateway import Gateway
from sluicegate.running.registry import ReloadRefused

POLL_SECONDS = 0.5


class Reloading:
    """Reloads `gateway` until `stop`; with `watch` also when its file changes. Belongs to the event loop."""

    def __init__(self, gateway: Gateway, *, watch: bool) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_signal_handler(signal.SIGHUP, self._begin, "SIGHUP")
        if watch:
            self._keep(asyncio.create_task(self._watch(), name="watch the file"))

    async def stop(self) -> None:
        """A reload that runs is ended as the gateway's own stop wants it; none begins any more."""
        self._loop.remove_signal_handler(signal.SIGHUP)
        # The default would end the process while it drains.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for task in self._tasks:
            if task.get_name() == "watch the file":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, who: str) -> None:
        self._keep(asyncio.create_task(self._reload(who), name="reload"))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self, who: str) -> None:
        file = self._gateway.registry.config.path
        try:
            changes = await self._gateway.registry.reload(who)
        except ReloadRefused as refused:
            _say(f"{file} was not taken over, what ran before runs on:\n{refused}")
        else:
            _say(f"{file} was taken over: {'; '.join(changes) or 'nothing changes'}")
            for warning in self._gateway.registry.config.warnings:
                error(f"warning: {warning}")

    async def _watch(self) -> None:
        """Reload once the file is another one and two looks agree: not while an editor is writing it."""
        config = self._gateway.registry.config
        taken = last = config.stamp
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = stamp(config.path)
            settled, last = now == last, now
            if settled and now is not None and now != taken:
                taken = now
                await self._reload("file")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
