"""What the state keeps of a message whose entries are to be sent later (contract section 4.1)."""

from collections.abc import Mapping

import orjson

from sluicegate.egress.message import Ended
from sluicegate.events.entries import Entries
from sluicegate.state.waiting import WaitingRow


def rows_of(ended: Ended, body: bytes, source: str) -> list[WaitingRow]:
    """One for each entry, with those of its `Remotes` that are to be sent later in their places, and null in the
    others."""
    found: dict[int, list[tuple[int | None, int, str | None]]] = {}
    for index, remote_index, at_ms, entry_id in ended.scheduled:
        found.setdefault(index, []).append((remote_index, at_ms, entry_id))
    entries = Entries(body)
    rows = []
    for index, each in found.items():
        at_ms = each[0][1]
        places = {place for place, _, _ in each if place is not None}
        ids = [entry_id for _, _, entry_id in each if entry_id is not None]
        kept = _kept(entries.entry(index), places, at_ms)
        rows.append(WaitingRow(source, ended.message_id, kept, at_ms, index, len(each), ids))
    return rows


def _kept(entry: object, places: set[int], at_ms: int) -> bytes:
    if not isinstance(entry, Mapping):
        return str(entry).encode("utf-8", "surrogatepass")  # it cannot be written again: as it was
    kept = dict(entry)
    if kept.get("SendAt") is None:
        kept["SendAt"] = at_ms / 1e3  # it was the whole message's
    remotes = kept.get("Remotes")
    if places and isinstance(remotes, list):
        kept["Remotes"] = [one if place in places else None for place, one in enumerate(remotes)]
    return orjson.dumps(kept)
