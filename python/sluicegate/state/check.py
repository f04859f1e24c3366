"""Whether a file can be a gateway's state, judged without touching it: for `validate` and reloads."""

from pathlib import Path

from sluicegate.paths import obstacle
from sluicegate.regular import read_regular

_SQLITE = b"SQLite format 3\0"
"""How every SQLite file begins (https://sqlite.org/fileformat.html, section 1.3)."""
_BESIDE = ("", ".lock", ".admin-key")
"""What is made beside the state has its name with an end."""


def check_state(path: Path) -> tuple[str, str] | None:
    """`(cause, fix)` if a gateway cannot start with this state; None if nothing is known to be in the way."""
    fix = "name a file that the gateway may have for itself, such as ./sluicegate.db, in a folder that exists"
    for end in _BESIDE:
        if (wrong := obstacle(path.with_name(path.name + end), makes_folders=False)) is not None:
            return f"the state {path}{end} {wrong}", fix
    if not path.exists():
        return None
    try:
        start = read_regular(path, len(_SQLITE))
    except OSError as error:
        return f"the state {path} cannot be used: {error.strerror}", fix
    if start and start != _SQLITE:
        return f"the state {path} is another program's file, not a gateway's", fix
    return None
