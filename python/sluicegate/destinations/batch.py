"""A batch that Python made: some packets of another one, or those of a test."""

from __future__ import annotations

from collections.abc import Iterable


class RecordBatch:
    """A `PacketBatch` of these records, one JSON RequestPacket each (contract section 2), without line breaks."""

    def __init__(self, records: Iterable[bytes]) -> None:
        self._records = list(records)

    @property
    def count(self) -> int:
        return len(self._records)

    def body(self) -> bytes:
        return b'{"Messages":[%b]}' % b",".join(self._records)

    def records(self) -> list[bytes]:
        return list(self._records)

    def lines(self) -> bytes:
        return b"".join(record + b"\n" for record in self._records)
