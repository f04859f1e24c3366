"""The native side's events of one Listener, brought into the event loop as they come."""

from collections.abc import Callable
from typing import Protocol


class NativeWatch(Protocol):
    """`_native.Events`."""

    @property
    def closed(self) -> bool: ...
    def on_ready(self, callback: Callable[[], object] | None, /) -> None: ...
    def read(self) -> bytes: ...
    def close(self) -> None: ...


class Watchable(Protocol):
    """The part of `_native.Port` that is watched."""

    def events(self, filter_json: str) -> NativeWatch: ...


class NativeEvents:
    """Watches `port` until `close`, or until the Listener is gone. Made and closed in a running event loop.

    `on_lines` gets whole lines of JSON, many in one call, in the loop. `filter_json` as `Port.events` takes it.
    """

    def __init__(self, port: Watchable, filter_json: str, on_lines: Callable[[bytes], object]) -> None:
        self._on_lines = on_lines
        self._watch: NativeWatch | None = port.events(filter_json)
        self._watch.on_ready(self._read)

    def close(self) -> None:
        """Hand on what is there, and stop to watch. Safe to call twice."""
        if self._watch is not None:
            self._hand_on(self._watch)
            self._end()

    def _read(self) -> None:
        if self._watch is None:
            return
        self._hand_on(self._watch)
        if self._watch is not None and self._watch.closed:
            # It would call for good from now on.
            self._end()

    def _hand_on(self, watch: NativeWatch) -> None:
        lines = watch.read()
        if lines:
            self._on_lines(lines)

    def _end(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.on_ready(None)
            watch.close()
