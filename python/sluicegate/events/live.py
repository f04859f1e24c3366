"""The events of a running gateway as they happen: the event log's, and those of single packets from the native side.

A Listener's ICMP errors always go to the event log's sinks. Its packets' events are made only for those who ask: each
subscription watches the native side with its own filter and rate, and a sample goes to the sinks when the configuration
says so (`packets_per_second`), but not through the hub, whose subscriptions would see them twice.
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
ICMP_RATE = 100  # events a second and Listener
ARRIVALS = [name for name in NATIVE if TYPES[name].direction == "in"]


class TooManySubscriptions(Exception):
    """As many as there may be watch already."""


class LiveEvents:
    """Belongs to the event loop. Of each Listener's packets, `packets_per_second` events go to the sinks of `log`."""

    def __init__(self, log: EventLog, packets_per_second: int = 0) -> None:
        self._log = log
        self._sample = packets_per_second
        self._hub = Hub()
        self._ports: dict[str, Watchable] = {}
        self._always: list[NativeEvents] = []
        self._watches: dict[Subscription, list[NativeEvents | BatchWatch]] = {}
        self._arrivals: list[tuple[str, int, Callable[[bytes], object]]] = []
        self.batches = Batches(log)
        if packets_per_second:
            self.batches.watch(Filter(rate=packets_per_second), self._forward_sample)
        log.add_sink(self._hub)

    def sample_arrivals(self, listener: str, rate: int, show: Callable[[bytes], object]) -> None:
        """Show what arrives at a Listener and what takes it, at most `rate` events of each a second, from `watch` until
        `close`. Call it before `watch`."""
        self._arrivals.append((listener, rate, show))
        wanted = Filter(listeners=frozenset([listener]), rate=rate)
        self.batches.watch(wanted, show)

    def watch(self, listener: str, port: Watchable) -> None:
        """A Listener is open: from now on its events are to be had."""
        self._ports[listener] = port
        icmp = json.dumps({"Events": ["IcmpError"], "Rate": ICMP_RATE})
        self._always.append(NativeEvents(port, icmp, self._log.forward))
        if self._sample:
            sample = json.dumps({"Events": NATIVE, "Rate": self._sample})
            self._always.append(NativeEvents(port, sample, self._forward_sample))
        for name, rate, show in self._arrivals:
            if name == listener:
                arrivals = json.dumps({"Events": ARRIVALS, "Rate": rate})
                self._always.append(NativeEvents(port, arrivals, show))

    def subscribe(self, wanted: Filter) -> Subscription:
        """A stream of what `wanted` takes, until it is closed or the gateway stops.

        Raises `FilterError` for a Listener that is not there, and `TooManySubscriptions`.
        """
        for name in wanted.listeners - self._ports.keys():
            raise FilterError(f"there is no Listener {name[:100]!r}: there are {', '.join(self._ports)}")
        if len(self._watches) >= SUBSCRIPTIONS:
            raise TooManySubscriptions(f"{SUBSCRIPTIONS} clients watch already: end one of them")
        subscription = Subscription(wanted, on_close=self._closed)

        def show(lines: bytes) -> None:
            self._hub.dropped += subscription.put(lines if wanted.is_exact else _taken(wanted, lines))

        specs = [(port, wanted.native(listener)) for listener, port in self._ports.items()]
        self._watches[subscription] = [
            *(NativeEvents(port, spec, show) for port, spec in specs if spec is not None),
            self.batches.watch(wanted, show),
        ]
        self._hub.add(subscription)
        return subscription

    def end_subscriptions(self) -> None:
        """The gateway stops: every stream ends after what it has."""
        for subscription in list(self._watches):
            for watch in self._watches[subscription]:
                watch.close()
            subscription.end()

    def close(self) -> None:
        """End everything. After the Listeners are closed, so that their last events are not lost."""
        self.end_subscriptions()
        self.batches.close()
        for watch in self._always:
            watch.close()
        self._always.clear()
        self._ports.clear()

    def _forward_sample(self, lines: bytes) -> None:
        self._log.forward(lines, skip=self._hub)

    def _closed(self, subscription: Subscription) -> None:
        self._hub.remove(subscription)
        for watch in self._watches.pop(subscription, ()):
            watch.close()


def _taken(wanted: Filter, lines: bytes) -> bytes:
    return b"".join(line for line in lines.splitlines(keepends=True) if wanted.takes(orjson.loads(line)))
