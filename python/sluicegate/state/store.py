"""The state of one node in SQLite.

WAL with `synchronous=FULL`: what a method has returned survives a crash of the process and of the machine;
writes are rare (a Listener is created, a topic is made), so the price does not show. One writer, held to by
`Lock`. The file has the Tag keys in it and is readable by its owner only.
"""

import errno
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from sluicegate.state.lock import Lock, StateError
from sluicegate.state.lock import lock as take_lock
from sluicegate.state.migrations import LATEST, migrate, version
from sluicegate.state.private import narrow, open_private

_T = TypeVar("_T")
_KEY_BYTES = 32


SOURCE_QUEUES = (
    "SELECT arn, source, topic_arn, role, generation, url, attributes FROM source_queues ORDER BY rowid"
)
"""The fields of each `SourceQueue`."""
SOURCE_DOCUMENTS = "SELECT source, document FROM source_documents ORDER BY source"


@dataclass(frozen=True, slots=True)
class SourceQueue:
    """A queue on AWS that this gateway has made, or is about to make, for a PacketSource.

    `url` is empty until the queue is known to exist, `attributes` (JSON) until it is subscribed. Of several for one
    topic the one with the highest `generation` is in use; the others are emptied and deleted.
    """

    arn: str
    source: str
    topic_arn: str
    role: str | None
    generation: int
    url: str = ""
    attributes: str = ""


class State:
    """Open with `State.open`; every method is one transaction, callable from any thread."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: Lock, file: int) -> None:
        self.path = path
        self._lock = lock
        self._file = file
        # Guards `_db`: sqlite3 lets several threads share a connection but not a transaction.
        self._guard = threading.Lock()
        self._db: sqlite3.Connection | None = db

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open or create the state at `path`. Raises `StateError`, also when another gateway has it open."""
        # Resolved, so that a symbolic link cannot lead two gateways past each other's lock.
        target = Path(path).resolve()
        if target.is_dir():
            raise StateError(
                f"the state {target} is a directory, name a file in it: {target / 'sluicegate.db'}"
            )
        lock = Lock(target.with_name(target.name + ".lock"), target)
        try:
            file = _locked_file(target)
            try:
                return cls(target, _connect(target, file), lock, file)
            except BaseException:
                os.close(file)
                raise
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Close the file and give the lock back. Safe to call twice."""
        with self._guard:
            if self._db is not None:
                self._db.close()
                self._db = None
                os.close(self._file)  # not before SQLite's own descriptor: closing one ends all of its locks
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def listener_id(self, name: str) -> int:
        """The id of a Listener, 1 … 2^32-1: made at first use, stable until it is released, never used
        again."""
        row = self.read("SELECT id FROM listeners WHERE name = ? AND released_at IS NULL", name)
        return int(row[0][0]) if row else self.listener_ids([name])[0][name]

    def listener_ids(self, names: Sequence[str]) -> tuple[dict[str, int], set[str]]:
        """`(ids by name, names that had none before)`, as `listener_id`, and for all of them at once."""

        def number(db: sqlite3.Connection) -> tuple[dict[str, int], set[str]]:
            known = {name: one for name in names if (one := _listener(db, name)) is not None}
            made = [name for name in dict.fromkeys(names) if name not in known]
            return known | {name: _add_listener(db, name) for name in made}, set(made)

        return self.write(number)

    def assigned_port(self, listener_name: str) -> int | None:
        """The port that was assigned to a Listener, None if none was."""
        row = self.read("SELECT port FROM listeners WHERE name = ? AND released_at IS NULL", listener_name)
        return int(row[0][0]) if row and row[0][0] is not None else None

    def assigned_ports(self) -> dict[str, int]:
        """Every port that was assigned, by the name of its Listener."""
        query = "SELECT name, port FROM listeners WHERE port IS NOT NULL AND released_at IS NULL"
        return {name: int(port) for name, port in self.read(query)}

    def assign_port(self, listener_name: str, port: int) -> None:
        """Keep `port` for a Listener, in place of an earlier one. `StateError` if another Listener has it."""
        self.assign_ports({listener_name: port})

    def assign_ports(self, ports: Mapping[str, int]) -> None:
        """Keep a port for each Listener, as `assign_port`: for all of them or none."""

        def assign(db: sqlite3.Connection) -> None:
            for name, port in ports.items():
                owner = db.execute(
                    "SELECT name FROM listeners WHERE port = ? AND name <> ? AND released_at IS NULL",
                    (port, name),
                ).fetchone()
                if owner:
                    raise StateError(
                        f'port {port} is assigned to the Listener "{owner[0]}", choose another port or release it'
                    )
                number = _listener(db, name) or _add_listener(db, name)
                db.execute("UPDATE listeners SET port = ? WHERE id = ?", (port, number))

        if ports:
            self.write(assign)

    def release_listener(self, name: str) -> None:
        """Forget a Listener: its port is free again and its keys are gone, its id is not given again. Nothing happens
        if there is none."""
        self.release_listeners([name])

    def release_listeners(self, names: Collection[str]) -> None:
        """Forget Listeners, as `release_listener`."""

        def release(db: sqlite3.Connection) -> None:
            live = "SELECT id FROM listeners WHERE name = ? AND released_at IS NULL"
            rows = [(name,) for name in names]
            for table in ("listener_keys", "peers", "peer_memories"):
                db.executemany(f"DELETE FROM {table} WHERE listener = ({live})", rows)  # noqa: S608
            db.executemany(
                "UPDATE listeners SET released_at = CURRENT_TIMESTAMP WHERE name = ? AND released_at IS NULL",
                rows,
            )

        if names:
            self.write(release)

    def listener_names(self) -> list[str]:
        """Listeners that were not released."""
        return [
            row[0] for row in self.read("SELECT name FROM listeners WHERE released_at IS NULL ORDER BY id")
        ]

    def tag_keys(self) -> list[tuple[int, str]]:
        """`(id 0…15, 64 hex digits)` of every Tag key, oldest first; one is made at first use (contract
        section 2)."""

        def keys(db: sqlite3.Connection) -> list[tuple[int, str]]:
            query = "SELECT id, key FROM tag_keys ORDER BY created_at, id"
            rows = db.execute(query).fetchall()
            if not rows:
                db.execute("INSERT INTO tag_keys (id, key) VALUES (0, ?)", (os.urandom(_KEY_BYTES),))
                rows = db.execute(query).fetchall()
            return [(number, key.hex()) for number, key in rows]

        return self.write(keys)

    def replace_tag_keys(self, keys: list[tuple[int, bytes]]) -> None:
        """These keys, oldest first, in place of those that there are: Tags sealed under the latter are void."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tag_keys")
            db.executemany("INSERT INTO tag_keys (id, key) VALUES (?, ?)", keys)

        self.write(write)

    def topics(self) -> list[str]:
        """ARNs of the topics that were created at the gateway's own SNS endpoint, in order of creation."""
        return [row[0] for row in self.read("SELECT arn FROM topics ORDER BY created_at, rowid")]

    def topic_attributes(self) -> dict[str, dict[str, str]]:
        """The attributes of those topics, by ARN in the same order."""
        rows = self.read("SELECT arn, attributes FROM topics ORDER BY created_at, rowid")
        return {arn: json.loads(attributes) for arn, attributes in rows}

    def add_topic(self, arn: str, attributes: Mapping[str, str] | None = None) -> None:
        """Keep a topic with these attributes, in place of those that it had."""
        keep = """INSERT INTO topics (arn, attributes) VALUES (?, ?)
            ON CONFLICT (arn) DO UPDATE SET attributes = excluded.attributes"""
        self.write(lambda db: db.execute(keep, (arn, json.dumps(dict(attributes or {})))))

    def remove_topic(self, arn: str) -> None:
        """Forget a topic. Nothing happens if there is none."""
        self.write(lambda db: db.execute("DELETE FROM topics WHERE arn = ?", (arn,)))

    def source_queues(self) -> list[SourceQueue]:
        """Every queue that was kept, in order of creation."""
        return [SourceQueue(*row) for row in self.read(SOURCE_QUEUES)]

    def keep_source_queue(self, queue: SourceQueue) -> None:
        """Keep a queue, or what has changed of it."""
        keep = """INSERT INTO source_queues (arn, source, topic_arn, role, generation, url, attributes)
            VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (arn) DO UPDATE SET source = excluded.source,
            topic_arn = excluded.topic_arn, role = excluded.role, generation = excluded.generation,
            url = excluded.url, attributes = excluded.attributes"""
        self.write(lambda db: db.execute(keep, astuple(queue)))

    def forget_source_queue(self, arn: str) -> None:
        """Forget a queue. Nothing happens if there is none."""
        self.write(lambda db: db.execute("DELETE FROM source_queues WHERE arn = ?", (arn,)))

    def source_documents(self) -> dict[str, str]:
        """Document (JSON) by name of each PacketSource with queues on AWS, as it was declared last."""
        return dict(self.read(SOURCE_DOCUMENTS))

    def keep_source_documents(self, documents: Mapping[str, str | None]) -> None:
        """Keep these documents; those that are None are forgotten."""
        kept = [(name, text) for name, text in documents.items() if text is not None]
        gone = [(name,) for name, text in documents.items() if text is None]

        def keep(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO source_documents (source, document) VALUES (?, ?)", kept)
            db.executemany("DELETE FROM source_documents WHERE source = ?", gone)

        if documents:
            self.write(keep)

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StateError(f"the state {self.path} is closed, open it again")
        return self._db

    def read(self, query: str, *values: Any) -> list[Any]:
        """The rows of one query."""
        with self._guard:
            try:
                return self._connection().execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise failed(self.path, error) from error

    def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """`work` in one transaction."""
        with self._guard:
            db = self._connection()
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    result = work(db)
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                raise failed(self.path, error) from error


def _listener(db: sqlite3.Connection, name: str) -> int | None:
    row = db.execute("SELECT id FROM listeners WHERE name = ? AND released_at IS NULL", (name,)).fetchone()
    return None if row is None else int(row[0])


def _add_listener(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute("INSERT INTO listeners (name) VALUES (?)", (name,)).lastrowid or 0)


def _locked_file(path: Path) -> int:
    # Made here and not by SQLite, which would leave the mode to the umask. -wal and -shm take the file's mode.
    try:
        file = open_private(path)
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        take_lock(file, path)
    except BaseException:
        os.close(file)
        raise
    return file


def _unopened(path: Path, error: OSError) -> StateError:
    fix = "check the owner and permissions of the file and its directory"
    if error.errno == errno.EINVAL:
        fix = "name one that it may have for itself, such as ./sluicegate.db"
    return StateError(f"the state {path} cannot be opened: {error.strerror}, {fix}")


def _connect(path: Path, file: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        _prepare(path, db, file)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            raise failed(path, error) from error
        raise
    return db


def _prepare(path: Path, db: sqlite3.Connection, file: int) -> None:
    current = version(db)
    if current is None:
        raise StateError(f"{path} is a database of another program, give `state:` a file of its own")
    if current > LATEST:
        raise StateError(
            f"the state {path} was written by a newer version (schema {current}, this one knows {LATEST}), "
            "run that version or use another state file"
        )
    try:
        narrow(file)  # not before it is known to be ours
        for suffix in ("-wal", "-shm"):  # by name: a descriptor of ours that closes would end SQLite's locks
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.chmod(0o600)
    except OSError as error:
        raise _unopened(path, error) from None
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the file is damaged")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    migrate(db, current)


def failed(path: Path, error: sqlite3.Error) -> StateError:
    """What SQLite said, as cause and next step."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    match code:
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return StateError(
                f"the state {path} is damaged or not a SQLite file ({error}), restore a backup, "
                "or move it away to start anew: assigned ports and Tags are lost then"
            )
        case sqlite3.SQLITE_FULL:
            return StateError(f"the state {path} cannot be written: the disk is full, free some space")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StateError(
                f"the state {path} cannot be written ({error}), "
                "check the owner and permissions of the file and its directory"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StateError(f"the state {path} is locked by another program, close that program")
        case _:
            return StateError(f"the state {path} cannot be used: {error}, check the disk")
