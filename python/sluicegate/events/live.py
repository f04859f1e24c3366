"""The events of a running gateway as they happen: the event log's, and those of single packets from the native side.

What befalls a Listener (`ALWAYS`) always goes to the event log's sinks. Its packets' events are made only for
those who ask: each subscription watches the native side with its own filter and rate, and a sample goes to the sinks
when the configuration says so (`packets_per_second`), but not through the hub, whose subscriptions would see them
twice.
"""

import json
from collections.abc import Callable

import orjson

from sluicegate.events.batches import Batches, BatchWatch
from sluicegate.events.filter import Filter, FilterError
from sluicegate.events.hub import Hub, Subscription
from sluicegate.events.log import EventLog
from sluicegate.events.native import NativeEvents, Watchable
from sluicegate.events.types import NATIVE, TYPES

SUBSCRIPTIONS = 16
"""At most: each costs the I/O thread time for every packet that it shows."""
ALWAYS = ("IcmpError", "LoopSuspected", "KernelDropped", "ProtocolSendFailed", "LocalAddressGone")
ALWAYS_RATE = 100  # events a second and Listener
ARRIVALS = [name for name in NATIVE if TYPES[name].direction == "in"]


_Watches = dict[Watchable | None, NativeEvents | BatchWatch]
"""What a subscription watches: each Listener's Port, and by None the batches of all."""


class TooManySubscriptions(Exception):
    """As many as there may be watch already."""


class Arrivals:
    """A sample of what arrives at one Listener and of what takes it: at most `rate` events of each a second."""

    def __init__(
        self,
        listener: str,
        rate: int,
        show: Callable[[bytes], object],
        batches: Batches,
        ports: list[Watchable],
    ) -> None:
        self._listener = listener
        self._spec = json.dumps({"Events": ARRIVALS, "Rate": rate})
        self._show = show
        self._batches = batches.watch(Filter(listeners=frozenset([listener]), rate=rate), show)
        self._packets: dict[Watchable, NativeEvents] = {}
        for port in ports:
            self.watch(listener, port)

    def watch(self, listener: str, port: Watchable) -> None:
        """A Listener is open; perhaps it is this one."""
        if listener == self._listener:
            self._packets[port] = NativeEvents(port, self._spec, self._show)

    def unwatch(self, port: Watchable) -> None:
        """Watch a Port no more: it is closed."""
        watch = self._packets.pop(port, None)
        if watch is not None:
            watch.close()

    def close(self) -> None:
        """Show what is left, and end. Safe to call twice."""
        for port in list(self._packets):
            self.unwatch(port)
        self._batches.close()


class LiveEvents:
    """Belongs to the event loop. Of each Listener's packets, `packets_per_second` events go to the sinks of `log`."""

    def __init__(self, log: EventLog, packets_per_second: int = 0) -> None:
        self._log = log
        self._sample = packets_per_second
        self._hub = Hub()
        self._ports: dict[str, Watchable] = {}
        self._always: dict[Watchable, list[NativeEvents]] = {}
        self._watches: dict[Subscription, _Watches] = {}
        self._arrivals: list[Arrivals] = []
        self.batches = Batches(log)
        if packets_per_second:
            self.batches.watch(Filter(rate=packets_per_second), self._forward_sample)
        log.add_sink(self._hub)

    def sample_arrivals(self, listener: str, rate: int, show: Callable[[bytes], object]) -> Arrivals:
        """Show what arrives at a Listener that is open, or will be; until `end_arrivals`."""
        ports = [port for name, port in self._ports.items() if name == listener]
        arrivals = Arrivals(listener, rate, show, self.batches, ports)
        self._arrivals.append(arrivals)
        return arrivals

    def end_arrivals(self, arrivals: Arrivals) -> None:
        """Show no more of them. Safe to call twice."""
        if arrivals in self._arrivals:
            self._arrivals.remove(arrivals)
        arrivals.close()

    def watch(self, listener: str, port: Watchable) -> None:
        """A Listener is open: from now on its events are to be had, also by those who watch already."""
        self._ports[listener] = port
        faults = json.dumps({"Events": ALWAYS, "Rate": ALWAYS_RATE})
        always = self._always.setdefault(port, [])
        always.append(NativeEvents(port, faults, self._log.forward))
        if self._sample:
            sample = json.dumps({"Events": NATIVE, "Rate": self._sample})
            always.append(NativeEvents(port, sample, self._forward_sample))
        for arrivals in self._arrivals:
            arrivals.watch(listener, port)
        for subscription, watches in self._watches.items():
            self._show(subscription, listener, port, watches)

    def unwatch(self, listener: str, port: Watchable) -> None:
        """Watch a Port no more: it is closed. Another one may have taken over its Listener's name."""
        if self._ports.get(listener) is port:
            del self._ports[listener]
        for watch in self._always.pop(port, ()):
            watch.close()
        for arrivals in self._arrivals:
            arrivals.unwatch(port)
        for watches in self._watches.values():
            if port in watches:
                watches.pop(port).close()

    def subscribe(self, wanted: Filter) -> Subscription:
        """A stream of what `wanted` takes, until it is closed or the gateway stops.

        Raises `FilterError` for a Listener that is not there, and `TooManySubscriptions`.
        """
        for name in wanted.listeners - self._ports.keys():
            raise FilterError(f"there is no Listener {name[:100]!r}: there are {', '.join(self._ports)}")
        if len(self._watches) >= SUBSCRIPTIONS:
            raise TooManySubscriptions(f"{SUBSCRIPTIONS} clients watch already: end one of them")
        subscription = Subscription(wanted, on_close=self._closed)
        watches: _Watches = {None: self.batches.watch(wanted, self._shower(subscription))}
        for listener, port in self._ports.items():
            self._show(subscription, listener, port, watches)
        self._watches[subscription] = watches
        self._hub.add(subscription)
        return subscription

    def end_subscriptions(self) -> None:
        """The gateway stops: every stream ends after what it has."""
        for subscription in list(self._watches):
            for watch in self._watches[subscription].values():
                watch.close()
            subscription.end()

    def close(self) -> None:
        """End everything. After the Listeners are closed, so that their last events are not lost."""
        self.end_subscriptions()
        for arrivals in self._arrivals:
            arrivals.close()
        self.batches.close()
        for watch in (watch for watches in self._always.values() for watch in watches):
            watch.close()
        self._arrivals.clear()
        self._always.clear()
        self._ports.clear()

    def _show(
        self,
        subscription: Subscription,
        listener: str,
        port: Watchable,
        watches: _Watches,
    ) -> None:
        spec = subscription.filter.native(listener)
        if spec is not None:
            watches[port] = NativeEvents(port, spec, self._shower(subscription))

    def _shower(self, subscription: Subscription) -> Callable[[bytes], None]:
        wanted = subscription.filter

        def show(lines: bytes) -> None:
            self._hub.dropped += subscription.put(lines if wanted.is_exact else _taken(wanted, lines))

        return show

    def _forward_sample(self, lines: bytes) -> None:
        self._log.forward(lines, skip=self._hub)

    def _closed(self, subscription: Subscription) -> None:
        self._hub.remove(subscription)
        for watch in self._watches.pop(subscription, {}).values():
            watch.close()


def _taken(wanted: Filter, lines: bytes) -> bytes:
    return b"".join(line for line in lines.splitlines(keepends=True) if wanted.takes(orjson.loads(line)))
