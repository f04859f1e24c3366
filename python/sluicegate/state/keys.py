"""Keys of the REST API and access keys of the SNS endpoint: made, kept and looked up. Who asks: `http/auth.py`.

They are kept beside the state in a file of mode 0600, not in the database: a running gateway holds that alone, and a
key must be made or revoked while it runs, at once. What the file has of an API key is its SHA-256. A slow hash would
protect what people choose; 256 random bits cannot be guessed at any speed, and are checked on every request. An access
key's secret is kept itself: checking a signature needs it.
"""

import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

KeyScope = Literal["read", "publish", "admin"]
"""`read`: GET. `publish`: source packets. `admin`: everything."""
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

_PREFIX = "sg_"
_SECRET_BYTES = 32


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
        self._seen: tuple[int, int, int] | None = None
        self._api: dict[str, ApiKey] = {}
        self._access: dict[str, AccessKey] = {}

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
        key_id = secrets.token_hex(5)
        text = f"{_PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(key_id, name, scopes, _now(), _digest(text))
        self._change(lambda: self._api.update({key.id: key}))
        return key, text

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
            stat = self.path.stat()
        except FileNotFoundError:
            self._seen, self._api, self._access = None, {}, {}
            return
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from None
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen == self._seen:
            return
        try:
            document = json.loads(self.path.read_bytes())
            api = [ApiKey(*_common(one), one["Sha256"]) for one in document["ApiKeys"]]
            access = [AccessKey(*_common(one), one["Secret"]) for one in document["AccessKeys"]]
        except OSError as error:
            raise self._unusable(f"cannot be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError):
            raise self._unusable("is damaged") from None
        self._seen = seen
        self._api = {key.id: key for key in api}
        self._access = {key.id: key for key in access}

    def _change(self, change: Callable[[], None]) -> None:
        with self._locked():
            self._refresh()
            change()
            document = {
                "ApiKeys": [_shown(key) | {"Sha256": key.digest} for key in self._api.values()],
                "AccessKeys": [_shown(key) | {"Secret": key.secret} for key in self._access.values()],
            }
            self._write(json.dumps(document, indent=1).encode())
            self._seen = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two commands at the same time: neither may undo what the other wrote."""
        try:
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(f"cannot be locked ({error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, text: bytes) -> None:
        """Another file in its place, so that a reader sees the old keys or the new ones."""
        new = Path(f"{self.path}.new")
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(
                os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.path)
        except OSError as error:
            raise self._unusable(f"cannot be written ({error.strerror})") from None

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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _common(one: dict[str, Any]) -> tuple[str, str, frozenset[KeyScope], str]:
    return one["Id"], one["Name"], frozenset(one["Scopes"]), one["CreatedAt"]


def _shown(key: ApiKey | AccessKey) -> dict[str, object]:
    return {"Id": key.id, "Name": key.name, "Scopes": sorted(key.scopes), "CreatedAt": key.created_at}
