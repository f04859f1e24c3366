"""The admin key of this machine: its file, and what may not take the place of it or of the keys."""

import fcntl
import os
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sluicegate.cli.credentials import Api, choose
from sluicegate.state.keys import KeyFile, KeysError, fits
from sluicegate.state.local_key import LocalKey, admin_key_file
from sluicegate.state.notes import read_note, remove_note, write_note
from strangers import NOBODY, as_nobody, needs_root, nobody_runs
from waiting import wait_until

pytestmark = pytest.mark.attack


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluicegate-keys-") as made:
        yield Path(made)


def made(folder: Path) -> tuple[KeyFile, LocalKey]:
    keys = KeyFile(folder / "s.db.keys")
    local = LocalKey(keys, admin_key_file(folder / "s.db"))
    local.ensure()
    return keys, local


def text(local: LocalKey) -> str:
    return local.path.read_text().strip()


def test_it_is_made_once_whatever_the_umask_and_kept(folder: Path) -> None:
    before = os.umask(0o777)
    try:
        keys, local = made(folder)
    finally:
        os.umask(before)
    first = text(local)
    assert stat.S_IMODE(local.path.stat().st_mode) == stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    local.ensure()
    again = LocalKey(KeyFile(keys.path), local.path)
    again.ensure()
    assert (text(again), fits(first, keys.local_key())) == (first, True)
    assert [(key.name, key.scopes) for key in keys.all()] == [("local", {"admin"})]
    assert sorted(file.name for file in folder.iterdir()) == ["s.db.admin-key", "s.db.keys", "s.db.keys.lock"]


def unlinked(file: Path) -> None:
    file.unlink()


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def hard_linked(file: Path) -> None:
    file.with_name("elsewhere").hardlink_to(file)


def readable(file: Path) -> None:
    file.chmod(0o644)


def foreign(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, NOBODY, NOBODY)


def other_text(file: Path) -> None:
    file.write_text("sg_0123456789_" + "x" * 43)


def empty(file: Path) -> None:
    file.write_text("")


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("spoil", [unlinked, linked, hard_linked, readable, foreign, other_text, empty, pipe])
def test_what_others_may_have_read_or_written_is_replaced_and_the_old_key_revoked(
    folder: Path, spoil: Callable[[Path], None]
) -> None:
    keys, local = made(folder)
    old, others = text(local), keys.create_api_key("local", frozenset({"read"}))[0]
    spoil(local.path)
    local.ensure()
    assert text(local) != old
    assert not fits(old, keys.local_key())
    assert fits(text(local), keys.local_key())
    assert not local.path.is_symlink()
    assert stat.S_IMODE(local.path.stat().st_mode) == 0o600
    # A key that somebody named so is another one, and stays.
    assert {key.id for key in keys.all()} == {others.id, local.id}


def test_a_folder_in_its_place_is_refused_with_what_to_do(folder: Path) -> None:
    _, local = made(folder)
    local.path.unlink()
    local.path.mkdir()
    (local.path / "full").touch()
    with pytest.raises(KeysError, match=r"admin-key .*remove what is there"):
        local.ensure()
    assert not list(folder.glob("*.new"))


@needs_root
def test_a_lock_of_another_user_does_not_keep_the_gateway_from_its_keys(folder: Path) -> None:
    folder.chmod(0o777)

    def hold() -> None:
        lock = os.open(folder / "s.db.keys.lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "held").touch()
        signal.pause()

    (folder / "s.db").touch()
    with nobody_runs(hold):
        wait_until((folder / "held").exists, "the lock is held")
        with pytest.raises(KeysError, match="locked by another program"):
            made(folder)
    made(folder)
    # What root makes for a gateway of another user is that user's.
    for file in folder.glob("s.db*"):
        file.unlink()
    (folder / "s.db").touch()
    os.chown(folder / "s.db", NOBODY, NOBODY)
    KeyFile(folder / "s.db.keys").create_api_key("ops", frozenset({"admin"}))
    assert as_nobody(lambda: len(KeyFile(folder / "s.db.keys").all()))
    as_nobody(lambda: LocalKey(KeyFile(folder / "s.db.keys"), folder / "s.db.admin-key").ensure())


@needs_root
def test_keys_that_root_makes_before_the_first_start_are_the_gateways(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    KeyFile(folder / "s.db.keys").create_api_key("ops", frozenset({"admin"}))
    assert as_nobody(lambda: len(KeyFile(folder / "s.db.keys").all()))
    as_nobody(lambda: LocalKey(KeyFile(folder / "s.db.keys"), folder / "s.db.admin-key").ensure())


def test_a_revoked_one_is_made_anew(folder: Path) -> None:
    keys, local = made(folder)
    old = text(local)
    assert KeyFile(keys.path).revoke(str(local.id))
    local.ensure()
    assert text(local) != old


@needs_root
@pytest.mark.parametrize("sticky", [True, False])
def test_keys_that_another_user_puts_into_an_open_folder_are_not_believed(folder: Path, sticky: bool) -> None:
    own, theirs = folder / "own", folder / "theirs"
    own.mkdir()
    theirs.mkdir()
    keys, _ = made(own)
    for one in (folder, own, theirs):
        one.chmod(0o777 | (0o1000 if sticky and one == own else 0))

    def plant() -> str:
        planted = KeyFile(theirs / "s.db.keys")
        known = planted.create_api_key("mine", frozenset({"admin"}))[1]
        for target in (keys.path, own / "fresh.db.keys"):
            try:
                target.unlink(missing_ok=True)
                target.write_bytes(planted.path.read_bytes())
                target.chmod(0o600)
            except PermissionError:
                continue
        return str(known)

    known = as_nobody(plant)
    assert known.startswith("sg_")
    with pytest.raises(KeysError, match="belongs to another user"):
        KeyFile(own / "fresh.db.keys").all()
    if sticky:
        assert [key.name for key in keys.all()] == ["local"]
    else:
        with pytest.raises(KeysError, match="belongs to another user"):
            keys.all()


def test_keys_that_others_may_write_or_that_are_a_link_are_not_believed(folder: Path) -> None:
    keys, _ = made(folder)
    keys.path.chmod(0o620)
    with pytest.raises(KeysError, match="written by other users"):
        KeyFile(keys.path).all()
    keys.path.chmod(0o600)
    link = folder / "link.db.keys"
    link.symlink_to(keys.path)
    with pytest.raises(KeysError, match="cannot be read"):
        KeyFile(link).all()


# Notes, and what a command makes of them


def test_a_note_is_for_one_address_and_its_own_gateway(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    write_note("::1", 8080, folder / "a.admin-key")
    (note,) = (folder / "sluicegate").iterdir()
    assert (stat.S_IMODE(note.stat().st_mode), stat.S_IMODE(note.parent.stat().st_mode)) == (0o600, 0o700)
    assert read_note("::1", 8080) == folder / "a.admin-key"
    assert read_note("127.0.0.1", 8080) is None
    note.rename(note.with_name("127.0.0.1-8080.json"))
    assert read_note("127.0.0.1", 8080) is None, "the address in it counts"
    write_note("::1", 8080, folder / "b.admin-key")
    remove_note("::1", 8080, folder / "a.admin-key")
    assert read_note("::1", 8080) == folder / "b.admin-key"
    if os.geteuid() == 0:
        os.chown(note, NOBODY, NOBODY)
        assert read_note("::1", 8080) is None


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home", "relative"])
def test_without_a_home_there_is_no_note_and_no_error(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", home) if home is not None else monkeypatch.delenv("HOME", raising=False)
    write_note("127.0.0.1", 8080, Path("/x"))
    assert read_note("127.0.0.1", 8080) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("api: { bind: 127.0.0.1:9 }", "http://127.0.0.1:9"),
        ("api: { bind: 0.0.0.0:9 }", "http://127.0.0.1:9"),
        ('api: { bind: "[::]:9" }', "http://[::1]:9"),
        ("api: { bind: 192.0.2.1:9 }", "http://192.0.2.1:9"),
        ("region: us-east-1", "http://127.0.0.1:8080"),
        ("api: { bind: 127.0.0.1:0 }", "http://127.0.0.1:8080"),
        ("api: [", "http://127.0.0.1:8080"),
    ],
)
def test_the_file_of_this_folder_says_where_its_api_is(
    monkeypatch: pytest.MonkeyPatch, folder: Path, given: str, url: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "sluicegate.yaml").write_text(given)
    assert choose(None, None, None).url == url
    assert choose("http://192.0.2.7:1", None, None).url == "http://192.0.2.7:1"


@needs_root
def test_a_file_that_somebody_else_put_into_this_folder_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(folder)
    file = folder / "sluicegate.yaml"
    file.write_text("api: { bind: 127.0.0.1:9 }")
    os.chown(file, NOBODY, NOBODY)
    assert choose(None, None, None) == Api("http://127.0.0.1:8080")


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.7:8080",
        "http://user@127.0.0.1:8080",
        "ftp://127.0.0.1:8080",
        "http://gateway.example:8080",
        "x",
    ],
)
def test_the_key_is_for_no_url_but_that_of_its_gateway(
    monkeypatch: pytest.MonkeyPatch, folder: Path, url: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    _, local = made(folder)
    (folder / "sluicegate.yaml").write_text("state: s.db")
    write_note("127.0.0.1", 8080, local.path)
    found = Api(url, config=folder / "sluicegate.yaml").credentials
    assert (found.key, found.headers) == (None, {})
    assert "--config" in found.advice
