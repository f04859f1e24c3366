"""Keys of the REST API and access keys of the SNS endpoint: made, kept and looked up. Who asks: `http/auth.py`.

They are kept beside the state in a file of mode 0600, not in the database: a running gateway holds that alone, and a
key must be made or revoked while it runs, at once. What the file has of an API key is its SHA-256. A slow hash would
protect what people choose; 256 random bits cannot be guessed at any speed, and are checked on every request. An access
key's secret is kept itself: checking a signature needs it.

Another user who can write into the state's folder could put a file of theirs in the place of this one, with a key that
they know. So only a file is believed that belongs to this user or to root, and that nobody else may write.
"""

import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from sluicegate.state.private import open_private, read_private, write_private

KeyScope = Literal["read", "publish", "admin"]
"""`read`: GET. `publish`: source packets. `admin`: everything."""
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

LOCAL = "local"
"""The name of the admin key that the gateway makes for commands on its own machine (`state/local_key.py`)."""

_PREFIX = "sg_"
_SECRET_BYTES = 32
_LOCK_SECONDS = 5.0
"""A change of the keys takes milliseconds: whoever holds the lock for longer keeps the gateway from starting."""


class KeysError(Exception):
    """The file of the keys cannot be used: the message has the cause and the next step."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    id: str
    name: str
    scopes: frozenset[KeyScope]
    created_at: str

    def may(self, scope: KeyScope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


@dataclasses.dataclass(frozen=True, slots=True)
class ApiKey(_Key):
    """`digest`: SHA-256 of the whole key, in hex."""

    digest: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class AccessKey(_Key):
    """What boto3 signs with: `id` is the access key id. `publish` may publish and look, `admin` may make topics too."""

    secret: str = dataclasses.field(repr=False)


class KeyStore(Protocol):
    """Where keys are looked up."""

    def api_key(self, key_id: str) -> ApiKey | None:
        """The key with this id. Raises `KeysError`."""

    def access_key(self, key_id: str) -> AccessKey | None:
        """The access key with this id. Raises `KeysError`."""


class KeyFile:
    """The keys in a JSON file; what another process changes in it holds from the next request on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._api: dict[str, ApiKey] = {}
        self._access: dict[str, AccessKey] = {}
        self._local = ""

    def api_key(self, key_id: str) -> ApiKey | None:
        self._refresh()
        return self._api.get(key_id)

    def access_key(self, key_id: str) -> AccessKey | None:
        self._refresh()
        return self._access.get(key_id)

    def all(self) -> list[ApiKey | AccessKey]:
        """Every key, oldest first. Raises `KeysError`."""
        self._refresh()
        return sorted([*self._api.values(), *self._access.values()], key=lambda key: key.created_at)

    def create_api_key(self, name: str, scopes: frozenset[KeyScope]) -> tuple[ApiKey, str]:
        """`(key, the text of it)`: the text is nowhere kept."""
        key, text = _new_key(name, scopes)
        self._change(lambda: self._api.update({key.id: key}))
        return key, text

    def local_key(self) -> ApiKey | None:
        """The key that `create_local_key` made last; None if it was revoked. Raises `KeysError`."""
        self._refresh()
        return self._api.get(self._local)

    def create_local_key(self) -> str:
        """The text of a new admin key named `local`. The one before is revoked. Raises `KeysError`."""
        key, text = _new_key(LOCAL, frozenset({"admin"}))

        def change() -> None:
            self._api.pop(self._local, None)
            self._api[key.id] = key
            self._local = key.id

        self._change(change)
        return text

    def create_access_key(self, name: str, scopes: frozenset[KeyScope]) -> AccessKey:
        """A new key for SigV4. Its id has the form of AWS's, so that nothing that reads ids stumbles."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        key_id = "SGAK" + "".join(secrets.choice(letters) for _ in range(16))
        key = AccessKey(key_id, name, scopes, _now(), secrets.token_urlsafe(30))
        self._change(lambda: self._access.update({key.id: key}))
        return key

    def revoke(self, key_id: str) -> bool:
        """Forget a key of either kind; False if there is none of this id."""
        found: list[object] = []

        def remove() -> None:
            found.extend(filter(None, (self._api.pop(key_id, None), self._access.pop(key_id, None))))

        self._change(remove)
        return bool(found)

    def _refresh(self) -> None:
        try:
            seen = _stamp(os.lstat(self.path))
            if seen == self._seen:
                return
            with read_private(self.path) as file:
                self._refuse_foreign(os.fstat(file.fileno()))
                document = json.loads(file.read())
            api = [ApiKey(*_common(one), one["Sha256"]) for one in document["ApiKeys"]]
            access = [AccessKey(*_common(one), one["Secret"]) for one in document["AccessKeys"]]
            local = str(document.get("Local", ""))
        except FileNotFoundError:
            self._seen, self._api, self._access, self._local = None, {}, {}, ""
            return
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._unusable("is damaged") from None
        self._seen = seen
        self._api = {key.id: key for key in api}
        self._access = {key.id: key for key in access}
        self._local = local

    def _refuse_foreign(self, found: os.stat_result) -> None:
        if found.st_uid not in (os.geteuid(), 0) and found.st_uid != self._owner():
            raise self._unusable(f"belongs to another user (uid {found.st_uid})")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._unusable("can be written by other users (chmod 600 it)")

    def _owner(self) -> int | None:
        """For root, who makes keys for a gateway that runs as another user: that user, to whom the state belongs, or
        before the first start its folder."""
        if os.geteuid() != 0:
            return None
        for place in (self.path.with_suffix(""), self.path.parent):
            with suppress(OSError):
                return os.lstat(place).st_uid
        return None

    def _change(self, change: Callable[[], None]) -> None:
        with self._locked():
            self._refresh()
            change()
            document = {
                "ApiKeys": [_shown(key) | {"Sha256": key.digest} for key in self._api.values()],
                "AccessKeys": [_shown(key) | {"Secret": key.secret} for key in self._access.values()],
                "Local": self._local,
            }
            try:
                write_private(self.path, json.dumps(document, indent=1).encode(), self._owner())
            except OSError as error:
                raise self._unusable(f"cannot be written ({error.strerror})") from None
            self._seen = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two commands at the same time: neither may undo what the other wrote."""
        try:
            lock = self._open_lock()
        except OSError as error:
            raise self._unusable(f"cannot be locked ({error.strerror})") from None
        try:
            self._wait(lock)
            yield
        finally:
            os.close(lock)

    def _open_lock(self) -> int:
        """The lock's file, which belongs to the gateway's user also where root made it. Raises `OSError`."""
        path, owner = Path(f"{self.path}.lock"), self._owner()
        try:
            lock = open_private(path, os.O_RDWR | os.O_NOFOLLOW)
        except PermissionError:
            path.unlink()  # another user's, in a folder of ours
            lock = open_private(path, os.O_RDWR | os.O_NOFOLLOW | os.O_EXCL)
        if owner is not None:
            os.fchown(lock, owner, -1)
        return lock

    def _wait(self, lock: int) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._unusable("are locked by another program") from None
                time.sleep(0.01)

    def _unusable(self, what: str) -> KeysError:
        return KeysError(
            f"the keys in {self.path} {what}, check the file and its owner, or restore it from a backup"
        )


def parse_key(text: str) -> str | None:
    """The id in an API key; None for text of another form."""
    key_id, _, secret = text.removeprefix(_PREFIX).partition("_")
    return key_id if text.startswith(_PREFIX) and key_id and secret else None


def fits(text: str, key: ApiKey | None) -> bool:
    """True if `text` is this key. Takes as long without a key, so that the time says nothing about which ids exist."""
    return hmac.compare_digest(_digest(text), key.digest if key else _digest("")) and key is not None


def _new_key(name: str, scopes: frozenset[KeyScope]) -> tuple[ApiKey, str]:
    key_id = secrets.token_hex(5)
    text = f"{_PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return ApiKey(key_id, name, scopes, _now(), _digest(text)), text


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _common(one: dict[str, Any]) -> tuple[str, str, frozenset[KeyScope], str]:
    return one["Id"], one["Name"], frozenset(one["Scopes"]), one["CreatedAt"]


def _shown(key: ApiKey | AccessKey) -> dict[str, object]:
    return {"Id": key.id, "Name": key.name, "Scopes": sorted(key.scopes), "CreatedAt": key.created_at}
