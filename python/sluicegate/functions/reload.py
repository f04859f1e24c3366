"""Loads a function anew when its code is saved: for `sluicegate dev`.

Theory of operation. Twice a second the sizes and times of the handler's file, of the Python files beside it and of
those in packages beside it are compared with the last look. Of a folder (`function:FOLDER:MODULE.NAME`) it is all files
of Python and Node.js, but for hidden folders and `node_modules`; around a handler for Node.js it is all files of
Node.js. A change counts once two looks agree, so that a file is not loaded while an editor is writing it. What changes
outside of the directory (an installed package) is not seen. After a change no old code runs any more, not even when the
new code is broken: what answers is always what was saved last.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from sluicegate.functions.code import NODE

POLL_SECONDS = 0.5
_OF_NODE = (*NODE, ".json")

_Look = dict[Path, tuple[int, int, int]]


@runtime_checkable
class Reloadable(Protocol):
    """A Destination whose code is a file."""

    @property
    def code(self) -> Path:
        """The handler's file, or the folder with all of the code."""

    def reload(self, changed: str) -> None:
        """Load it anew. `changed` names the files, for people."""


def watch(destinations: Iterable[object], *, seconds: float = POLL_SECONDS) -> Coroutine[None, None, None]:
    """Reload those of the destinations that are `Reloadable` whenever their code changes after this call.

    `destinations` is gone through at each look, so that it may change. The result is to be run as a task, until it is
    cancelled.
    """
    return _poll(destinations, _watched(destinations, []), seconds)


def _watched(
    destinations: Iterable[object], before: list[tuple[Reloadable, "Code"]]
) -> list[tuple[Reloadable, "Code"]]:
    known = {id(one): (one, code) for one, code in before}
    return [
        known.get(id(one)) or (one, Code(one.code)) for one in destinations if isinstance(one, Reloadable)
    ]


async def _poll(
    destinations: Iterable[object], watched: list[tuple[Reloadable, "Code"]], seconds: float
) -> None:
    while True:
        await asyncio.sleep(seconds)
        watched = _watched(destinations, watched)
        for destination, code in watched:
            changed = await asyncio.to_thread(code.look)
            if changed:
                destination.reload(", ".join(changed))


class Code:
    """The files that a handler most likely consists of, as they were when they were loaded."""

    def __init__(self, handler: Path) -> None:
        self._handler = handler
        self._root = handler if handler.is_dir() else handler.parent
        self._loaded = self._last = self._now()

    def look(self) -> list[str]:
        """What changed and has come to rest since it was told last, relative to the handler's directory."""
        now = self._now()
        settled, self._last = now == self._last, now
        if not settled or now == self._loaded:
            return []
        changed = {
            path for path in now.keys() | self._loaded.keys() if now.get(path) != self._loaded.get(path)
        }
        self._loaded = now
        return sorted(str(path.relative_to(self._root)) for path in changed)

    def _now(self) -> _Look:
        found: _Look = {}
        if self._root == self._handler:
            _files(self._root, found, (".py", *_OF_NODE), whole=True)
        else:
            _note(found, self._handler)
            is_node = self._handler.suffix in NODE
            _files(self._root, found, _OF_NODE if is_node else (".py",), whole=is_node)
        return found


def _files(directory: Path, found: _Look, suffixes: tuple[str, ...], *, whole: bool) -> None:
    """Note the files of such names in `directory` and in the packages below it; `whole`: in all folders below it."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.endswith(suffixes):
            _note(found, path)
        elif entry.is_dir(follow_symlinks=False) and _is_code(path, whole):
            _files(path, found, suffixes, whole=whole)


def _is_code(directory: Path, whole: bool) -> bool:
    if whole:
        return not directory.name.startswith((".", "__pycache__", "node_modules"))
    return (directory / "__init__.py").is_file()


def _note(found: _Look, path: Path) -> None:
    try:
        state = path.stat()
    except OSError:
        return  # deleted, or about to be written: its absence is the change
    found[path] = (state.st_mtime_ns, state.st_size, state.st_ino)
