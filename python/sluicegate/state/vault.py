"""Seals what the state keeps of secrets, under a key in a file of its own beside it.

Whoever has a copy of the state alone (a backup, a support bundle) cannot read them. The key is 32 random bytes as hex,
made when the first secret is sealed; the file belongs to its owner alone, or is refused.
"""

import os
import stat
from pathlib import Path

from sluicegate import _native
from sluicegate.regular import read_regular
from sluicegate.state.lock import StateError

_KEY_BYTES = 32


class Vault:
    """`path` is the key's file. Raises `StateError` when the key cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key: bytes | None = None

    def check(self) -> None:
        """Raises `StateError` for a key that is there and cannot be used."""
        if self._key is None and self.path.exists():
            self._key = self._read()

    def seal(self, plain: bytes, about: str) -> bytes:
        """`plain`, sealed; `about` says what it is and must be given again."""
        if self._key is None:
            self._key = self._read() if self.path.exists() else self._make()
        return _native.seal(self._key, plain, about)

    def unseal(self, sealed: bytes, about: str) -> bytes:
        """What `seal` sealed."""
        if self._key is None:
            self._key = self._read()
        try:
            return _native.unseal(self._key, sealed, about)
        except ValueError:
            raise StateError(
                f"the key {self.path} is not the one that sealed the secrets of {about}, "
                "restore the key file that belongs to this state"
            ) from None

    def _make(self) -> bytes:
        key = os.urandom(_KEY_BYTES)
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, key.hex().encode() + b"\n")
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise StateError(
                f"the key {self.path} cannot be written: {error.strerror}, check the directory and its permissions"
            ) from None
        return key

    def _read(self) -> bytes:
        try:
            mode = self.path.stat().st_mode
            text = read_regular(self.path).decode("ascii", "replace").strip()
        except OSError as error:
            raise StateError(
                f"the key {self.path} of sealed secrets cannot be read: {error.strerror}, "
                "restore it from a backup: without it they must be set anew"
            ) from None
        if stat.S_IMODE(mode) & 0o077:
            raise StateError(f"the key {self.path} may be read by others, run: chmod 600 {self.path}")
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise StateError(f"{self.path} does not hold a key of 64 hex digits, restore it from a backup")
        return key
