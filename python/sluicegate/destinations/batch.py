"""A batch that Python made: some packets of another one, or those of a test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicegate.destinations.base import PacketBatch


def content_id(content: bytes) -> str:
    """32 hex digits: the same in every attempt to deliver this, and others for anything else. No two packets are the
    same, each has a Tag of its own."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class RecordBatch:
    """A `PacketBatch` of these records, one JSON RequestPacket each (contract section 2), without line breaks.

    `values`: what each expression says of each packet.
    """

    def __init__(
        self, records: Iterable[bytes], values: Mapping[str, Sequence[str | None]] | None = None
    ) -> None:
        self._records = list(records)
        self._values = values or {}

    @classmethod
    def some_of(cls, batch: PacketBatch, indexes: Sequence[int], expressions: Iterable[str]) -> RecordBatch:
        """The packets of `batch` at `indexes`, with what its expressions say of them."""
        records = batch.records()
        columns = {name: batch.values(name) for name in expressions}
        values = {name: [column[index] for index in indexes] for name, column in columns.items()}
        return cls((records[index] for index in indexes), values)

    @property
    def count(self) -> int:
        return len(self._records)

    def body(self) -> bytes:
        return b'{"Messages":[%b]}' % b",".join(self._records)

    def records(self) -> list[bytes]:
        return list(self._records)

    def lines(self) -> bytes:
        return b"".join(record + b"\n" for record in self._records)

    def values(self, name: str, /) -> list[str | None]:
        return list(self._values.get(name) or [None] * self.count)
