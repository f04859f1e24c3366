"""What the state keeps for WireGuard Listeners."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluicegate.state import ResourceTable, State, StateError, WireGuardTable
from sluicegate.state.transfer import export, restore


def table(state: State) -> WireGuardTable:
    return WireGuardTable(state, ResourceTable(state).vault)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State.open(tmp_path / "gateway.db") as opened:
        yield opened


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def peer(number: int) -> dict[str, Any]:
    return {"PublicKey": key(number), "AllowedIPs": [], "PersistentKeepaliveSeconds": 0}


def memory(number: int, remote: str | None = "192.0.2.1:5000") -> dict[str, Any]:
    return {"PublicKey": key(number), "Remote": remote, "Local": None, "Recent": "None"}


def kept(tunnels: WireGuardTable, listener: str = "a") -> list[tuple[str, str | None]]:
    return [(document["PublicKey"], secret) for some in tunnels.peers(listener) for document, secret in some]


def test_a_key_pair_is_made_once_and_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with State.open(path) as state:
        made, other = table(state).key_pair("a").private, table(state).key_pair("b").private
        assert made != other
    with State.open(path) as state:
        assert table(state).key_pair("a").private == made
        state.release_listener("a")
        assert table(state).key_pair("a").private != made
        assert table(state).key_pair("b").private == other
    files = b"".join(file.read_bytes() for file in tmp_path.glob("gateway.db*"))
    for private in (made, other):
        assert private.encode() not in files
        assert base64.b64decode(private) not in files


def test_another_token_gives_another_pair_once_it_is_kept(state: State) -> None:
    tunnels = table(state)
    first = tunnels.key_pair("a", "one")
    assert first == tunnels.key_pair("a", "one") == tunnels.key_pair("a")
    second = tunnels.key_pair("a", "two")
    assert (second.private != first.private, second.kept) == (True, False)
    assert tunnels.key_pair("a", "one") == first, "the change may be refused yet"
    tunnels.keep_key_pair("a", second)
    assert tunnels.key_pair("a", "two") == tunnels.key_pair("a") == second._replace(kept=True)
    assert not tunnels.key_pair("a", "one").kept, "an old token is another token"
    assert second.private not in repr(second)


def test_a_key_without_its_vault_is_not_replaced(state: State, tmp_path: Path) -> None:
    table(state).key_pair("a")
    (tmp_path / "gateway.db.key").unlink()
    with pytest.raises(StateError, match="restore it from a backup"):
        table(state).key_pair("a")


def test_peers_are_rows_by_themselves(state: State) -> None:
    tunnels = table(state)
    secret = key(7_777)
    tunnels.add_peers("a", [(peer(number), secret if number == 5 else None) for number in range(1, 2_502)])
    tunnels.add_peers("b", [(peer(1), None)])
    assert kept(tunnels) == sorted(
        (key(number), secret if number == 5 else None) for number in range(1, 2_502)
    )
    assert tunnels.peers_among("a", [key(5), key(9_999)]) == {key(5): peer(5)}
    assert tunnels.remove_peer("a", key(5))
    assert not tunnels.remove_peer("a", key(5))
    assert kept(tunnels, "b") == [(key(1), None)]
    with pytest.raises(StateError):
        tunnels.add_peers("b", [(peer(2), None), (peer(1), None)])
    assert kept(tunnels, "b") == [(key(1), None)], "all of them or none"
    state.release_listener("a")
    assert kept(tunnels) == []


def test_where_peers_are_is_remembered_until_they_go(state: State) -> None:
    tunnels = table(state)
    tunnels.add_peers("a", [(peer(1), None)])
    tunnels.remember("a", [memory(1), memory(2)])
    tunnels.remember("a", [memory(2, "192.0.2.9:9"), memory(3, None)])
    (both,) = tunnels.memories("a")
    assert [('"192.0.2.1:5000"' in text, '"192.0.2.9:9"' in text) for text in both] == [
        (True, False),
        (False, True),
    ]
    tunnels.remove_peer("a", key(1))
    tunnels.remember("a", [memory(2, None)])
    assert list(tunnels.memories("a")) == []


def test_an_export_with_secrets_moves_keys_and_peers(state: State, tmp_path: Path) -> None:
    tunnels = table(state)
    private, secret = tunnels.key_pair("a", "first").private, key(7_777)
    tunnels.add_peers("a", [(peer(1), secret), (peer(2), None)])
    tunnels.remember("a", [memory(1)])
    shown = export(state.path, secrets=False)
    assert private not in str(shown)
    assert secret not in str(shown)
    with State.open(tmp_path / "other.db") as other:
        with pytest.raises(StateError, match=r"secrets of Listener a, peer .*=, make it anew with --secrets"):
            restore(other, shown)
        done = restore(other, export(state.path, secrets=True))
        assert "key pair of Listener a" in done
        moved = table(other)
        assert moved.key_pair("a", "first").private == private
        assert kept(moved) == [(key(1), secret), (key(2), None)]
        assert len(list(moved.memories("a"))) == 1
