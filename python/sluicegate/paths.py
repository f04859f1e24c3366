"""Whether a file can be written where a document says so, judged without touching anything."""

import os
from pathlib import Path

from sluicegate.regular import require_appendable


def obstacle(path: Path, *, makes_folders: bool) -> str | None:
    """Why this user cannot write a file at `path`, as the end of "PATH …"; None if nothing is known to be in the way.

    `makes_folders`: folders that are missing are made when the file is opened.
    """
    try:
        if path.exists():
            return _of_existing(path)
        folder = path.parent
        while makes_folders and not folder.exists():
            folder = folder.parent
        return _of_folder(folder)
    except OSError as error:  # a name that is too long, a folder that nobody may look into
        return f"cannot be used ({(error.strerror or '').lower()})"
    except ValueError:
        return "cannot be the path of a file"


def _of_existing(path: Path) -> str | None:
    if path.is_dir():
        return "is a directory"
    try:
        require_appendable(path)
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    return None if os.access(path, os.W_OK) else "may not be written to by this user"


def _of_folder(folder: Path) -> str | None:
    if not folder.exists():
        return f"lies in {folder}, which does not exist"
    if not folder.is_dir():
        return f"lies in {folder}, which is not a directory"
    if not os.access(folder, os.W_OK | os.X_OK) or _of_the_kernel(folder):
        return f"lies in {folder}, where this user may not make files"
    return None


def _of_the_kernel(folder: Path) -> bool:
    """True inside of /proc and /sys: nobody makes files there, whatever `access` says to root."""
    kernel = {one.stat().st_dev for one in (Path("/proc"), Path("/sys")) if one.exists()}
    return folder.stat().st_dev in kernel
