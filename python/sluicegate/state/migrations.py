"""The schema of the state, as the list of steps that make it.

A step is never edited after a release: a gateway in the field has run it. New needs get a new step at the
end.
"""

import sqlite3

APPLICATION_ID = 0x534C4743
"""`SLGC` in the file's header: tells our state from another program's SQLite file."""

_STEPS: list[list[str]] = [
    [
        # AUTOINCREMENT, because a Tag holds the Listener's id: a later Listener must never answer to it.
        # Released rows stay for the same reason.
        """CREATE TABLE listeners (
            id INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id BETWEEN 1 AND 4294967295),
            name TEXT NOT NULL,
            port INTEGER CHECK (port BETWEEN 1 AND 65535),
            created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
            released_at TEXT
        )""",
        "CREATE UNIQUE INDEX live_listener_name ON listeners (name) WHERE released_at IS NULL",
        "CREATE UNIQUE INDEX live_listener_port ON listeners (port) WHERE released_at IS NULL",
        """CREATE TABLE tag_keys (
            id INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 15),
            key BLOB NOT NULL CHECK (length(key) = 32),
            created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        )""",
        """CREATE TABLE topics (
            arn TEXT PRIMARY KEY,
            created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        )""",
    ],
    [
        """CREATE TABLE source_queues (
            arn TEXT PRIMARY KEY,
            source TEXT NOT NULL,
            topic_arn TEXT NOT NULL,
            role TEXT,
            generation INTEGER NOT NULL CHECK (generation > 0),
            url TEXT NOT NULL,
            attributes TEXT NOT NULL,
            created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        )""",
    ],
    [
        # What was declared by the API. `secrets` is sealed (vault.py).
        """CREATE TABLE resources (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            document TEXT NOT NULL,
            secrets BLOB,
            created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
            updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
            PRIMARY KEY (kind, name)
        )""",
        # A version is given once: a resource that was deleted and made anew never has one that somebody still holds.
        "CREATE TABLE versions (last INTEGER NOT NULL)",
        "INSERT INTO versions (last) VALUES (0)",
        """CREATE TABLE approvals (
            source TEXT PRIMARY KEY,
            listener TEXT NOT NULL,
            decision TEXT NOT NULL CHECK (decision IN ('Approved', 'Rejected')),
            decided_by TEXT NOT NULL,
            decided_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        )""",
        # The first answer to a create, for a client that repeats it (`Idempotency-Key`).
        """CREATE TABLE answers (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            request TEXT NOT NULL,
            status INTEGER NOT NULL,
            headers TEXT NOT NULL,
            body BLOB NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (owner, key)
        )""",
    ],
    [
        # The private key that was made for a WireGuard Listener, sealed (vault.py).
        """CREATE TABLE listener_keys (
            listener INTEGER PRIMARY KEY REFERENCES listeners (id),
            sealed BLOB NOT NULL
        )""",
        # Peers that the API added; `secret` is sealed.
        """CREATE TABLE peers (
            listener INTEGER NOT NULL REFERENCES listeners (id),
            public_key TEXT NOT NULL,
            document TEXT NOT NULL,
            secret BLOB,
            PRIMARY KEY (listener, public_key)
        ) WITHOUT ROWID""",
        # Where a peer was last, and its inner addresses: for a gateway that is to speak first after a restart.
        """CREATE TABLE peer_memories (
            listener INTEGER NOT NULL REFERENCES listeners (id),
            public_key TEXT NOT NULL,
            memory TEXT NOT NULL,
            PRIMARY KEY (listener, public_key)
        ) WITHOUT ROWID""",
    ],
    [
        # The `KeyRefreshToken` that the key pair was made for: another one makes another pair.
        "ALTER TABLE listener_keys ADD COLUMN token TEXT",
    ],
    [
        # Folders of a stack's code, which `apply` has added for this resource.
        "ALTER TABLE resources ADD COLUMN local_code TEXT NOT NULL DEFAULT '[]'",
    ],
    [
        # No handshake with this key had a greater stamp, in Unix nanoseconds. A key may belong to several Listeners and
        # may come back; so a mark stays when a Listener goes.
        """CREATE TABLE stamp_marks (
            public_key TEXT PRIMARY KEY,
            mark INTEGER NOT NULL CHECK (mark >= 0)
        ) WITHOUT ROWID""",
    ],
    [
        # Of a topic of the gateway's own SNS endpoint, as users set them: `MaximumMessageSize` has a meaning.
        "ALTER TABLE topics ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}'",
    ],
    [
        # The PacketSources that have queues on AWS, as they were declared last: what waits in a queue is sent by the
        # rules of its PacketSource, also once that is not declared any more.
        "CREATE TABLE source_documents (source TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
    ],
    [
        # Entries until their `SendAt`, alone in `body`; and messages that were acknowledged because they lie here,
        # which have no index. AUTOINCREMENT, because a number names an entry to whoever cancels it.
        """CREATE TABLE waiting (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at_ms INTEGER NOT NULL,
            source TEXT NOT NULL,
            message_id TEXT NOT NULL,
            entry_index INTEGER,
            entries INTEGER NOT NULL,
            ids TEXT NOT NULL,
            published_at REAL,
            refusal TEXT,
            body BLOB NOT NULL
        )""",
        "CREATE INDEX waiting_until ON waiting (at_ms, id)",
    ],
]

LATEST = len(_STEPS)
"""The schema version that this program writes."""


def version(db: sqlite3.Connection) -> int | None:
    """The file's schema version: 0 for a new file, None when the file is not ours."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION_ID:
        (newest,) = db.execute("SELECT max(version) FROM migrations").fetchone()
        return int(newest or 0)
    return None if tables or application else 0


def migrate(db: sqlite3.Connection, current: int) -> None:
    """Bring the schema from version `current` to `LATEST`, each step in a transaction of its own."""
    for number, statements in enumerate(_STEPS[current:], current + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            if number == 1:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(
                    """CREATE TABLE migrations (
                        version INTEGER PRIMARY KEY,
                        applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
                    )"""
                )
            for statement in statements:
                db.execute(statement)
            db.execute("INSERT INTO migrations (version) VALUES (?)", (number,))
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
