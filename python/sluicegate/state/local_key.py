"""The admin key `local`, for commands of the gateway's own user on its own machine (contract section 8).

Its text lies in `STATE.admin-key`, a file that only the gateway's user can read: whoever reads it may do everything, as
whoever can write the state could anyway. The file is made at the first start. If it is deleted, or could have been read
or written by others, the gateway makes another key at the next request that needs one, and the old key is revoked.
"""

import os
import stat
from pathlib import Path

from sluicegate.state.keys import KeyFile, KeysError, fits
from sluicegate.state.private import read_private, write_private

_TEXT_LIMIT = 1000


def admin_key_file(state: str | Path) -> Path:
    """`STATE.admin-key`"""
    return Path(f"{state}.admin-key")


class LocalKey:
    """Keeps the file and the key the same. `path` is `STATE.admin-key`."""

    def __init__(self, keys: KeyFile, path: Path) -> None:
        self.path = path
        self._keys = keys
        self._seen: tuple[object, ...] = ()

    @property
    def id(self) -> str | None:
        """The id of the key; None if there is none. Raises `KeysError`."""
        key = self._keys.local_key()
        return key.id if key is not None else None

    def ensure(self) -> None:
        """Make the key, and the file with its text, unless they are there and fit. Raises `KeysError`. May block for
        the time of a write."""
        if (seen := self._look()) is not None and seen == self._seen:
            return
        text = self._text()
        if text is None or not fits(text, self._keys.local_key()):
            # The old key is revoked first: after a crash between the two there is a file that fits nothing.
            text = self._keys.create_local_key()
            try:
                write_private(self.path, text.encode() + b"\n")
            except OSError as error:
                raise KeysError(
                    f"the admin key cannot be written to {self.path} ({error.strerror}), remove what is there, and "
                    "check the owner and permissions of its folder"
                ) from None
        self._seen = self._look() or ()

    def _look(self) -> tuple[object, ...] | None:
        """What changes with the file or with the keys; None without a file."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_uid)
        return (*stamp, self.id)

    def _text(self) -> str | None:
        """The text in the file, if nobody else can have read or written it."""
        try:
            with read_private(self.path) as file:
                found = os.fstat(file.fileno())
                text = file.read(_TEXT_LIMIT)
        except OSError:
            return None
        others = stat.S_IMODE(found.st_mode) & 0o077
        ours = found.st_uid == os.geteuid()
        return (
            text.decode("ascii", "replace").strip() if ours and not others and found.st_nlink == 1 else None
        )
