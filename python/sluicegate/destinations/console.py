"""`console:` prints each packet on one line of standard output."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import Any, Self

import orjson

from sluicegate.destinations.base import (
    Arguments,
    DeliveryError,
    Destination,
    DestinationContext,
    DestinationError,
    PacketBatch,
)
from sluicegate.linefile import write_out
from sluicegate.model.text import endpoint_text, printable
from sluicegate.threads import Threads

DATA_LIMIT = 120
"""Characters of a payload that are shown."""

_PLAIN = {"dim": "", "bold": "", "end": ""}
_COLOUR = {"dim": "\x1b[2m", "bold": "\x1b[1;36m", "end": "\x1b[0m"}


class ConsoleDestination(Destination):
    """Time, Destination, remote → local, session protocol and payload, readable; in colour on a terminal
    unless NO_COLOR.

    Written in a thread: a terminal that does not take the text holds up this Destination alone, whose queue
    then drops the oldest.
    """

    usage = "console:"
    reasons = ("ConsoleClosed",)

    def __init__(self, name: str, context: DestinationContext) -> None:
        super().__init__(name, context)
        self._thread = Threads(f"console {name}")

    @classmethod
    def from_spec(
        cls, name: str, target: str, arguments: Mapping[str, Any], context: DestinationContext
    ) -> Self:
        Arguments(arguments, f"destination {name}").finish()
        if target.strip("/ "):
            raise DestinationError(
                f"destination {name}: console: takes nothing after the colon", "write console:"
            )
        return cls(name, context)

    async def provision(self) -> None:
        return

    async def deliver(self, batch: PacketBatch) -> bytes | None:
        records = batch.records()
        try:
            await self._thread.call(lambda: self._print(records))
        except (OSError, ValueError) as error:
            # ValueError: standard output was closed by the program around us.
            raise DeliveryError("ConsoleClosed", "standard output takes no more text") from error
        return None

    async def close(self) -> None:
        self._thread.close()

    def _print(self, records: list[bytes]) -> None:
        stream = sys.stdout
        style = _COLOUR if stream.isatty() and not os.environ.get("NO_COLOR") else _PLAIN
        text = "".join(_line(self.name, orjson.loads(record), style) for record in records)
        stream.flush()
        try:
            fd = stream.fileno()
        except io.UnsupportedOperation:  # a stream in memory
            stream.write(text)
            return
        # Not by the stream: its lock would be held while nobody reads, and the interpreter needs it to end.
        write_out(fd, text.encode(stream.encoding, "backslashreplace"))


def _line(name: str, packet: Mapping[str, Any], style: Mapping[str, str]) -> str:
    remote, local = packet.get("Remote") or {}, packet.get("Local") or {}
    # 2026-06-09T10:00:00.123Z → 10:00:00.123
    time = str(packet.get("ReceivedAt") or "").partition("T")[2].rstrip("Z")
    peer = f" peer {remote['PeerKey']}" if remote.get("PeerKey") else ""
    return (
        f"{style['dim']}{time}{style['end']} {name} "
        f"{style['bold']}{_endpoint(remote)}{style['end']} → {_endpoint(local)} "
        f"{local.get('Protocol', '')}{printable(peer)} {packet.get('Formatter', '')} "
        f"{_data(str(packet.get('Data') or ''))}\n"
    )


def _endpoint(address: Mapping[str, Any]) -> str:
    return endpoint_text(str(address.get("IpAddress", "?")), address.get("Port"))


def _data(data: str) -> str:
    if not data:
        return "(empty)"
    shown = printable(data[:DATA_LIMIT])
    return f"{shown}… ({len(data)} characters)" if len(data) > DATA_LIMIT else shown
