"""Notes for commands of the same user: the admin key of the gateway whose API has this address lies in that file.

A note is a file of mode 0600 in `$XDG_STATE_HOME/sluicegate/` (by default `~/.local/state/sluicegate/`), named by the
address. It has no secret. It is written when the API serves and removed when the gateway stops; one that stays behind
after a crash does no harm, because a command looks who serves the address before it sends a key (`cli/credentials.py`).
"""

import json
import os
from pathlib import Path

from sluicegate.state.private import read_private, write_private


def write_note(host: str, port: int, key_file: Path) -> None:
    """Note where the key is. Without a home, or where it cannot be written, there is no note."""
    folder = _folder()
    if folder is None:
        return
    document = {"Address": host, "Port": port, "KeyFile": str(key_file)}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder / _name(host, port), json.dumps(document).encode() + b"\n")
    except OSError:
        return


def read_note(host: str, port: int) -> Path | None:
    """The file with the key of the gateway at this address, if this user noted one."""
    folder = _folder()
    if folder is None:
        return None
    try:
        with read_private(folder / _name(host, port)) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            document = json.loads(file.read(65_536))
        matches = (document["Address"], document["Port"]) == (host, port)
        return Path(str(document["KeyFile"])) if matches else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_note(host: str, port: int, key_file: Path) -> None:
    """Remove the note, unless it is about another gateway by now."""
    folder = _folder()
    if folder is not None and read_note(host, port) == key_file:
        (folder / _name(host, port)).unlink(missing_ok=True)


def _folder() -> Path | None:
    """None for a user without a home, and for root in the home of another user, whose files would be root's."""
    given, home = os.environ.get("XDG_STATE_HOME", ""), os.environ.get("HOME", "")
    if given.startswith("/"):
        return Path(given, "sluicegate")
    if not home.startswith("/"):
        return None
    try:
        if Path(home).stat().st_uid != os.geteuid():
            return None
    except OSError:
        return None
    return Path(home, ".local", "state", "sluicegate")


def _name(host: str, port: int) -> str:
    return f"{host.replace(':', '_')}-{port}.json"
