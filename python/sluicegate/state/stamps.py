"""High-water marks of handshakes: no stamp above the mark of a WireGuard key was ever used (WireGuard whitepaper,
section 5.1).

A peer answers a handshake only if its stamp is greater than all that came before under the same key. So the mark of
each key is written ahead of the stamps: a minute at a time, not once for each handshake. A gateway that starts uses
stamps above the mark only, whatever its clock says.
"""

import sqlite3
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

BLOCK_NS = 60_000_000_000
"""Nanoseconds that a mark lies ahead of the clock when it is written."""
_STEP_NS = 1_000_000_000
"""Nanoseconds that a mark is moved on where it lies ahead of the clock already. A handshake needs one of them; and a
gateway that starts again and again does not run away from the time."""
_MOST_NS = 2**63 - 1


class StampBlock(NamedTuple):
    """Stamps that one key may use, in Unix nanoseconds: those above `floor`, up to `until`."""

    floor: int
    until: int


class StampMark(NamedTuple):
    """The mark of the key with this public key, in Unix nanoseconds."""

    public_key: str
    until: int


def mark_after(public_key: str, stamp: int) -> StampMark:
    """The mark to write when a handshake wants a stamp that lies above the one before."""
    return StampMark(public_key, min(stamp + BLOCK_NS, _MOST_NS))


def raise_mark(db: sqlite3.Connection, mark: StampMark) -> None:
    """Write a mark, unless a greater one is there."""
    db.execute(
        "INSERT INTO stamp_marks (public_key, mark) VALUES (?, ?) "
        "ON CONFLICT (public_key) DO UPDATE SET mark = max(mark, excluded.mark)",
        mark,
    )


def marks(db: sqlite3.Connection) -> list[StampMark]:
    """Every mark, by key."""
    rows = db.execute("SELECT public_key, mark FROM stamp_marks ORDER BY public_key")
    return [StampMark(*row) for row in rows]


def reserve(db: sqlite3.Connection, public_keys: Collection[str], now_ns: int) -> Mapping[str, StampBlock]:
    """Raise the marks of keys that begin to be used: their stamps, by key."""
    blocks = {}
    for key in public_keys:
        row = db.execute("SELECT mark FROM stamp_marks WHERE public_key = ?", (key,)).fetchone()
        floor = row[0] if row else 0
        until = min(max(now_ns + BLOCK_NS, floor + _STEP_NS), _MOST_NS)
        raise_mark(db, StampMark(key, until))
        blocks[key] = StampBlock(floor, until)
    return blocks


def now_ns() -> int:
    """The time, in Unix nanoseconds."""
    return max(0, time.time_ns())
