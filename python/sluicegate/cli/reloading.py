"""Taking the configuration file over while the gateway runs: on SIGHUP, and when it is saved."""

import asyncio

from sluicegate.cli.errors import warning
from sluicegate.cli.signals import say
from sluicegate.config import stamp
from sluicegate.gateway import Gateway
from sluicegate.running.registry import ReloadRefused

POLL_SECONDS = 0.5


class Reloading:
    """Reloads `gateway` from `start` to `close`; a wish that comes earlier is kept. Belongs to the event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = self._wanted = self._closed = False

    def start(self, *, watch: bool) -> None:
        """The gateway serves from now on; with `watch` the file is also reloaded when it changes."""
        self._started = True
        if watch:
            self._keep(asyncio.create_task(self._watch(), name="watch the file"))
        if self._wanted:
            self.hang_up()

    def hang_up(self) -> None:
        """SIGHUP has come."""
        if not self._started:
            self._wanted = True
            say("SIGHUP: the file is reloaded once the gateway serves")
        elif not self._closed:
            self._keep(asyncio.create_task(self._reload("SIGHUP"), name="reload"))

    def close(self) -> None:
        """Begin no reload any more. One that runs is ended by the gateway's stop."""
        self._closed = True
        for task in self._tasks:
            if task.get_name() == "watch the file":
                task.cancel()

    async def ended(self) -> None:
        """Wait for the reloads that ran at `close`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self, who: str) -> None:
        file = self._gateway.registry.config.path
        try:
            changes = await self._gateway.registry.reload(who)
        except ReloadRefused as refused:
            say(f"{file} was not taken over, what ran before runs on:\n{refused}")
        else:
            say(f"{file} was taken over: {'; '.join(changes) or 'nothing changes'}")
            for found in self._gateway.registry.config.warnings:
                warning(found)

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
