"""Marks of handshakes' stamps: what is reserved, what moves with an export, and a state that cannot be written."""

import base64
import sqlite3
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluicegate import _native
from sluicegate.events import EventLog, MemorySink
from sluicegate.model import Listener
from sluicegate.running.peers import own_key, reserve_stamps
from sluicegate.state import ResourceTable, StampBlock, StampMark, State, StateError, WireGuardTable
from sluicegate.state.stamps import BLOCK_NS, reserve
from sluicegate.state.transfer import export, restore

SECOND = 1_000_000_000
NOW = 1_780_000_000 * SECOND
DAY = 86_400 * SECOND


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "gateway.db") as opened:
        yield opened


def table(state: State) -> WireGuardTable:
    return WireGuardTable(state, ResourceTable(state).vault)


def starts(state: State, now: int, *keys: str) -> dict[str, StampBlock]:
    """A start at this time."""
    work: Callable[[sqlite3.Connection], Any] = lambda db: reserve(db, keys, now)  # noqa: E731
    return dict(state.write(work))


def test_a_block_begins_at_the_mark_of_before(state: State) -> None:
    assert starts(state, NOW, "a") == {"a": StampBlock(0, NOW + BLOCK_NS)}
    assert starts(state, NOW + 1, "a", "b") == {
        "a": StampBlock(NOW + BLOCK_NS, NOW + BLOCK_NS + SECOND),
        "b": StampBlock(0, NOW + 1 + BLOCK_NS),
    }
    later = NOW + 10 * BLOCK_NS
    assert starts(state, later, "a")["a"].until == later + BLOCK_NS


@pytest.mark.parametrize("back", [DAY, 20_000 * DAY])
def test_a_clock_that_went_back_moves_no_mark_back(state: State, back: int) -> None:
    first = starts(state, NOW, "a")["a"]
    second = starts(state, max(0, NOW - back), "a")["a"]
    assert second == StampBlock(first.until, first.until + SECOND)


def test_many_starts_in_a_row_do_not_run_away_from_the_time(state: State) -> None:
    for number in range(200):
        block = starts(state, NOW + number * SECOND, "a")["a"]
    assert block.until <= NOW + 200 * SECOND + BLOCK_NS


def test_a_clock_of_another_age_fits_into_the_state(state: State) -> None:
    first = starts(state, 2**63 + DAY, "a")["a"]
    assert first.until == 2**63 - 1
    assert starts(state, NOW, "a")["a"] == StampBlock(2**63 - 1, 2**63 - 1)


def test_an_import_raises_marks_and_lowers_none(state: State, tmp_path: Path) -> None:
    tunnels = table(state)
    tunnels.raise_mark(StampMark("a", NOW))
    tunnels.raise_mark(StampMark("b", NOW))
    document = export(state.path, secrets=False)
    with State.open(tmp_path / "other.db") as other:
        moved = table(other)
        moved.raise_mark(StampMark("b", NOW + DAY))
        restore(other, document)
        floors = {key: block.floor for key, block in moved.used_stamps(["a", "b", "c"]).items()}
        assert floors == {"a": NOW, "b": NOW + DAY}
        restore(other, {name: part for name, part in document.items() if name != "StampMarks"})
        with pytest.raises(StateError, match="damaged"):
            restore(other, document | {"StampMarks": [{"PublicKey": "a", "Mark": "soon"}]})


def test_a_mark_goes_with_what_is_remembered_of_peers_and_stays_with_its_key(state: State) -> None:
    tunnels = table(state)
    tunnels.key_pair("a")
    memory = {"PublicKey": "p", "Remote": "192.0.2.1:5000", "Local": None, "Recent": "None"}
    tunnels.remember("a", [memory], StampMark("k", NOW))
    tunnels.remember("a", [], StampMark("k", NOW - DAY))
    state.release_listener("a")
    assert tunnels.used_stamps(["k"]) == {"k": StampBlock(NOW, NOW)}


def listener(name: str, **fields: Any) -> Listener:
    destinations = [{"name": "packets", "destination_arn": "console:"}]
    return Listener.model_validate({"name": name, "protocol": "wg", "destinations": destinations} | fields)


def test_listeners_of_one_key_have_one_mark_and_plain_ones_none(state: State) -> None:
    private = base64.b64encode(bytes(range(32))).decode()
    tunnels, sink = table(state), MemorySink()
    one, two, made = listener("a", private_key=private), listener("b", private_key=private), listener("c")
    plain = listener("d", protocol="udp")
    tunnels.make_key_pairs({"c": None})
    blocks = reserve_stamps([one, two, made, plain], tunnels, EventLog(sink))
    assert set(blocks) == {
        _native.public_key(private),
        _native.public_key(own_key(made, tunnels).private),
    }
    assert sink.events == []


def test_where_nothing_can_be_written_stamps_go_on_above_those_of_before(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = base64.b64encode(bytes(range(32))).decode()
    key = _native.public_key(private)
    tunnels, sink = table(state), MemorySink()
    tunnels.raise_mark(StampMark(key, NOW))

    def full(keys: Collection[str]) -> None:
        raise StateError("the state cannot be written: the disk is full, free some space")

    monkeypatch.setattr(tunnels, "reserve_stamps", full)
    blocks = reserve_stamps([listener("a", private_key=private)], tunnels, EventLog(sink))
    assert blocks == {key: StampBlock(NOW, NOW)}
    (event,) = sink.events
    assert event["Event"] == "PeersNotKept"
    assert "the disk is full" in event["Detail"]
