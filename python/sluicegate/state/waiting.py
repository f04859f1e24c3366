"""What waits in the state to be sent: entries until their `SendAt`, and messages that were acknowledged because they
lie here (contract sections 4.1, 4.2)."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sluicegate.state.store import State

_FIELDS = "id, at_ms, source, message_id, entry_index, entries, ids, published_at, refusal, body"


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """An entry that is to be sent at `at_ms` (Unix milliseconds), alone in `body`; or a whole message, which has no
    `index`.

    `entries`: for how many it counts, each of its `Remotes` as one. `ids`: by which it is remembered. `published_at`
    (Unix seconds) and `refusal` are those of a message. `number` is 0 until it is kept.
    """

    source: str
    message_id: str
    body: bytes
    at_ms: int = 0
    index: int | None = None
    entries: int = 0
    ids: Sequence[str] = ()
    published_at: float | None = None
    refusal: tuple[str, str] | None = None
    number: int = 0


class WaitingTable:
    """The part of the state that keeps them. Every method is one transaction, callable from any thread."""

    def __init__(self, state: State) -> None:
        self._state = state

    def write(self, add: Sequence[WaitingRow], remove: Collection[int]) -> list[int]:
        """Keep these, and forget those: all of it or nothing. The numbers of the new ones."""

        def write(db: sqlite3.Connection) -> list[int]:
            db.executemany("DELETE FROM waiting WHERE id = ?", [(number,) for number in remove])
            keep = """INSERT INTO waiting
                (at_ms, source, message_id, entry_index, entries, ids, published_at, refusal, body)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
            return [int(db.execute(keep, _values(row)).lastrowid or 0) for row in add]

        return self._state.write(write)

    def due(
        self, before_ms: int, sources: Collection[str], skip: Collection[int], limit: int
    ) -> list[WaitingRow]:
        """The first entries of these PacketSources whose time has come by `before_ms`, without those in `skip`."""
        query = f"""SELECT {_FIELDS} FROM waiting WHERE at_ms <= ? AND entry_index IS NOT NULL
            AND source IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT value FROM json_each(?))
            ORDER BY at_ms, id LIMIT ?"""  # noqa: S608
        return self._rows(query, before_ms, json.dumps(list(sources)), json.dumps(list(skip)), limit)

    def next_ms(self, after_ms: int) -> int | None:
        """The first time after `after_ms` at which an entry is to be sent."""
        query = "SELECT min(at_ms) FROM waiting WHERE at_ms > ? AND entry_index IS NOT NULL"
        ((at,),) = self._state.read(query, after_ms)
        return at if at is None else int(at)

    def messages(
        self, sources: Collection[str], after: int, last: int, skip: Collection[int], limit: int
    ) -> list[WaitingRow]:
        """The first whole messages of these PacketSources with a number above `after` and up to `last`, without those
        in `skip`."""
        query = f"""SELECT {_FIELDS} FROM waiting WHERE entry_index IS NULL AND id > ? AND id <= ?
            AND source IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT value FROM json_each(?))
            ORDER BY id LIMIT ?"""  # noqa: S608
        return self._rows(query, after, last, json.dumps(list(sources)), json.dumps(list(skip)), limit)

    def last(self) -> int:
        """The highest number that was given."""
        ((number,),) = self._state.read("SELECT coalesce(max(id), 0) FROM waiting")
        return int(number)

    def count(self) -> int:
        """How many entries wait."""
        ((entries,),) = self._state.read("SELECT coalesce(sum(entries), 0) FROM waiting")
        return int(entries)

    def ids(self, sources: Collection[str]) -> list[tuple[str, str]]:
        """`(source, id)` of what waits for these PacketSources."""
        query = """SELECT source, value FROM waiting, json_each(ids)
            WHERE source IN (SELECT value FROM json_each(?))"""
        return [(source, one) for source, one in self._state.read(query, json.dumps(list(sources)))]

    def page(self, source: str | None, message_id: str | None, after: int, limit: int) -> list[WaitingRow]:
        """Entries that wait, by their numbers from above `after` on; of this PacketSource and message, where given."""
        query = f"""SELECT {_FIELDS} FROM waiting WHERE entry_index IS NOT NULL AND id > ?1
            AND (?2 IS NULL OR source = ?2) AND (?3 IS NULL OR message_id = ?3) ORDER BY id LIMIT ?4"""  # noqa: S608
        return self._rows(query, after, source, message_id, limit)

    def one(self, number: int) -> WaitingRow | None:
        """The entry with this number."""
        query = f"SELECT {_FIELDS} FROM waiting WHERE id = ? AND entry_index IS NOT NULL"  # noqa: S608
        return next(iter(self._rows(query, number)), None)

    def _rows(self, query: str, *values: object) -> list[WaitingRow]:
        return [
            WaitingRow(
                source,
                message_id,
                body,
                at_ms,
                index,
                entries,
                json.loads(ids),
                published_at,
                None if refusal is None else tuple(json.loads(refusal)),
                number,
            )
            for number, at_ms, source, message_id, index, entries, ids, published_at, refusal, body in self._state.read(
                query, *values
            )
        ]


def _values(row: WaitingRow) -> tuple[object, ...]:
    refusal = None if row.refusal is None else json.dumps(row.refusal)
    ids = json.dumps(list(row.ids))
    return (
        row.at_ms,
        row.source,
        row.message_id,
        row.index,
        row.entries,
        ids,
        row.published_at,
        refusal,
        row.body,
    )
