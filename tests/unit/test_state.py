"""The state file: what it keeps, who may open it, and what is left after a crash."""

import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sluicegate
from sluicegate.running.bind import AssignedPorts
from sluicegate.state import SourceQueue, State, StateError
from sluicegate.state.migrations import LATEST

PACKAGE = Path(sluicegate.__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    with State.open(path) as opened:
        yield opened


def child(path: Path, code: str) -> subprocess.Popen[str]:
    """Another process with the state open, waiting to be killed after it has printed a line."""
    opened = f"from sluicegate.state import State\nstate = State.open({str(path)!r})\n"
    program = f"{opened}{code}\nprint('ready', flush=True)\ninput()\n"
    env = os.environ | {"PYTHONPATH": str(PACKAGE)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def test_listener_ids_are_stable_and_never_used_again(path: Path) -> None:
    with State.open(path) as state:
        first, second = state.listener_id("a"), state.listener_id("b")
        assert first != second
        assert state.listener_id("a") == first
        state.release_listener("b")
    with State.open(path) as state:
        assert state.listener_id("a") == first
        again = state.listener_id("b")
        assert again not in (first, second)
        assert 0 < again < 2**32


def test_ports_are_kept_until_the_listener_is_released(path: Path) -> None:
    with State.open(path) as state:
        assert state.assigned_port("a") is None
        state.assign_port("a", 20000)
        assert state.listener_id("a") == state.listener_id("a")
    with State.open(path) as state:
        assert state.assigned_port("a") == 20000
        with pytest.raises(StateError, match='port 20000 is assigned to the Listener "a"'):
            state.assign_port("b", 20000)
        assert state.assigned_port("b") is None
        state.assign_port("a", 20001)
        state.assign_port("b", 20000)
        state.release_listener("a")
        assert state.assigned_port("a") is None
        state.assign_port("c", 20001)
        assert state.assigned_port("c") == 20001


def test_a_new_port_is_one_that_nobody_has(state: State) -> None:
    state.assign_port("a", 20000)
    ports = AssignedPorts(state, range(20000, 20003), {20001})
    assert (ports.of("a"), ports.of("b"), ports.next()) == (20000, None, 20002)
    with pytest.raises(StateError, match="widen `ports:`"):
        ports.next()
    state.release_listener("a")
    assert AssignedPorts(state, range(20000, 20003)).next() == 20000


def test_ports_are_kept_together_or_not_at_all(state: State) -> None:
    state.assign_port("a", 20000)
    ports = AssignedPorts(state, range(20000, 20003))
    ports.assign("b", ports.next())
    ports.assign("c", 20000)
    with pytest.raises(StateError, match='assigned to the Listener "a"'):
        ports.keep()
    assert state.assigned_ports() == {"a": 20000}


def test_a_tag_key_is_made_once(path: Path) -> None:
    with State.open(path) as state:
        keys = state.tag_keys()
        assert keys == state.tag_keys()
    (number, key) = keys[0]
    assert number in range(16)
    assert re.fullmatch("[0-9a-f]{64}", key)
    with State.open(path) as state:
        assert state.tag_keys() == keys
    with State.open(path.with_name("other.db")) as other:
        assert other.tag_keys() != keys


def test_topics(path: Path) -> None:
    with State.open(path) as state:
        for arn in ("arn:b", "arn:a", "arn:b"):
            state.add_topic(arn)
        state.add_topic("arn:c", {"DisplayName": "of before"})
        state.add_topic("arn:c", {"MaximumMessageSize": "2000"})
        state.remove_topic("arn:a")
        state.remove_topic("arn:none")
    with State.open(path) as state:
        assert state.topics() == ["arn:b", "arn:c"]
        assert state.topic_attributes() == {"arn:b": {}, "arn:c": {"MaximumMessageSize": "2000"}}


def test_only_the_owner_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with State.open(path) as state:
            state.tag_keys()
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ["gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.db.lock"], 0o600
    )


def test_a_mode_that_was_widened_is_narrowed(path: Path) -> None:
    State.open(path).close()
    path.chmod(0o644)
    State.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_second_gateway_is_told_who_has_the_state(path: Path) -> None:
    process = child(path, "")
    try:
        with pytest.raises(
            StateError, match=rf"in use by another gateway \(process {process.pid}\), stop that one"
        ):
            State.open(path)
        alias = path.with_name("alias.db")
        alias.symlink_to(path)
        with pytest.raises(StateError, match="in use"):
            State.open(alias)
    finally:
        kill(process)
    State.open(path).close()


def test_the_lock_holds_in_one_process_too(path: Path) -> None:
    with State.open(path), pytest.raises(StateError, match="in use"):
        State.open(path)
    State.open(path).close()


@pytest.mark.attack
def test_a_second_gateway_is_refused_after_the_lock_file_was_deleted(path: Path) -> None:
    with State.open(path):
        path.with_name(path.name + ".lock").unlink()
        with pytest.raises(StateError, match="in use by another gateway, stop that one"):
            State.open(path)
    State.open(path).close()


@pytest.mark.attack
def test_a_second_gateway_is_refused_by_another_name_of_the_file(path: Path, tmp_path: Path) -> None:
    with State.open(path) as state:
        for name, make in (("hard", Path.hardlink_to), ("symbolic", Path.symlink_to)):
            make(tmp_path / name, path)
            with pytest.raises(StateError, match="in use by another gateway"):
                State.open(tmp_path / name)
        path.rename(tmp_path / "moved")
        with pytest.raises(StateError, match="in use by another gateway"):
            State.open(tmp_path / "moved")
        state.add_topic("arn:aws:sns:us-east-1:000000000000:still-writes")


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "directory"])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("suffix", ["", ".lock"])
def test_what_is_no_file_is_refused_and_left_alone(
    kind: str, linked: bool, suffix: str, path: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd" if linked else path.with_name(path.name + suffix)
    if kind == "device":
        try:
            os.mknod(odd, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs root")
    elif kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(odd))
    else:
        odd.mkdir()
    odd.chmod(0o666)
    if linked:
        path.with_name(path.name + suffix).symlink_to(odd)
    with pytest.raises(StateError, match="state"):
        State.open(path)
    assert stat.S_IMODE(odd.stat().st_mode) == 0o666


@pytest.mark.attack
@pytest.mark.parametrize("content", [b"region: us-east-1\n", b"\0" * 5000])
def test_the_mode_of_somebody_elses_file_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(StateError, match="not a SQLite file"):
        State.open(path)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o644, content)


def test_what_was_returned_survives_sigkill(path: Path) -> None:
    code = "state.assign_port('a', 20007); state.add_topic('arn:t'); print(state.tag_keys()[0][1])"
    program = code.replace("print(", "open(state.path.with_name('key'), 'w').write(")
    kill(child(path, program))
    with State.open(path) as state:
        assert state.assigned_port("a") == 20007
        assert state.topics() == ["arn:t"]
        assert state.tag_keys() == [(0, path.with_name("key").read_text())]


def test_an_unfinished_transaction_leaves_no_trace_after_sigkill(path: Path) -> None:
    half = "state._db.execute('BEGIN'); state._db.execute('DELETE FROM topics')"
    kill(child(path, f"state.add_topic('arn:kept'); {half}"))
    with State.open(path) as state:
        assert state.topics() == ["arn:kept"]


def test_threads_may_share_it(state: State) -> None:
    ids: list[int] = []

    def work(number: int) -> None:
        ids.extend(state.listener_id(f"l{index}") for index in range(20))
        state.add_topic(f"arn:{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 20
    assert len(ids) == 160
    assert len(state.topics()) == 8


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to look at", b"SQLite format 3\0" + b"\xff" * 2000]
)
def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"damaged or not a SQLite file .* restore a backup"):
        State.open(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_found_when_it_is_opened(path: Path) -> None:
    with State.open(path) as state:
        for number in range(200):
            state.add_topic(f"arn:{number:0100}")
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xa5" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(StateError, match="damaged"):
        State.open(path)


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StateError, match="another program"):
        State.open(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    db.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    State.open(path).close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO migrations (version) VALUES (?)", (LATEST + 1,))
    db.close()
    with pytest.raises(StateError, match=rf"newer version \(schema {LATEST + 1}, this one knows {LATEST}\)"):
        State.open(path)


def test_an_empty_file_becomes_a_state(path: Path) -> None:
    path.touch()
    with State.open(path) as state:
        assert state.topics() == []


def test_a_directory_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateError, match="is a directory, name a file in it"):
        State.open(path)


def test_a_directory_that_is_not_there(path: Path) -> None:
    with pytest.raises(StateError, match="check that its directory exists"):
        State.open(path.parent / "none" / "gateway.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(StateError, match="Permission denied"):
            State.open(path)
    finally:
        path.parent.chmod(0o700)


def test_a_failed_open_gives_the_lock_back(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    with pytest.raises(StateError):
        State.open(path)
    path.unlink()
    State.open(path).close()


def test_a_closed_state_says_so(path: Path) -> None:
    state = State.open(path)
    state.close()
    state.close()
    with pytest.raises(StateError, match="closed"):
        state.topics()


def test_the_queues_of_sources_are_kept_changed_and_forgotten(path: Path) -> None:
    first = SourceQueue("arn:1", "replies", "arn:topic", "arn:role", 1)
    second = SourceQueue("arn:2", "other", "arn:topic", None, 3, "https://queue", '{"a": "b"}')
    with State.open(path) as state:
        state.keep_source_queue(first)
        state.keep_source_queue(second)
        state.keep_source_queue(replace(first, url="https://first"))
    with State.open(path) as state:
        assert state.source_queues() == [replace(first, url="https://first"), second]
        state.forget_source_queue("arn:1")
        state.forget_source_queue("arn:1")
        assert state.source_queues() == [second]


def test_the_documents_of_sources_are_kept_changed_and_forgotten(path: Path) -> None:
    with State.open(path) as state:
        state.keep_source_documents({"replies": "{}", "other": "{}"})
        state.keep_source_documents({"replies": '{"a": 1}', "other": None, "unknown": None})
    with State.open(path) as state:
        assert state.source_documents() == {"replies": '{"a": 1}'}
