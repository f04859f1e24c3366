"""Where a function's code is, and how the runtime finds the handler in it.

Example: `function:src:app.handler.main` is the function `main` of `src/app/handler.py`, or what `src/app.js` exports as
`handler.main`. The root of its code is `src`:
imports begin there and files are opened from there, as from Lambda's `/var/task`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sluicegate.model import Finding

FORMS = "function:PATH.py:HANDLER, function:PATH.js:HANDLER or function:FOLDER:MODULE.NAME"
NODE = (".js", ".mjs", ".cjs")
"""What Node.js runs, in the order in which Lambda looks for the file of a module."""
_SOURCES = (".py", *NODE)


@dataclass(frozen=True, slots=True)
class Code:
    """`root` is the folder with all of the code, `file` the handler's own file or the program. `handler` is Lambda's
    setting of that name: `MODULE.FUNCTION` for Python and Node, any text for a program."""

    kind: Literal["python", "node", "exec"]
    root: Path
    file: Path
    handler: str

    @property
    def export(self) -> str:
        """What a Node module exports as the handler; dots lead to a nested one."""
        return self.handler.rpartition("/")[2].removeprefix(f"{self.file.stem}.")

    @classmethod
    def of(cls, path: Path, handler: str | None) -> "Code":
        """The code that `path` and `handler` name: a folder and `MODULE.NAME`, a `.py` file and a function in it (or
        `MODULE.NAME`, found from its folder), a file of Node's and an export in it, or a program. In a folder a Python
        module comes first."""
        if path.is_dir() and handler is not None:
            file = module_file(path, handler)
            script = None if file.is_file() else node_file(path, handler)
            return (
                cls("python", path, file, handler) if script is None else cls("node", path, script, handler)
            )
        if handler is not None and path.suffix in NODE:
            own = handler.startswith(f"{path.stem}.")
            return cls("node", path.parent, path, handler if own else f"{path.stem}.{handler}")
        if handler is None or path.suffix != ".py":
            return cls("exec", path.parent, path, handler or path.name)
        if "." not in handler:
            return cls("python", path.parent, path, f"{path.stem}.{handler}")
        own = handler.rpartition(".")[0] == path.stem
        file = path if own else module_file(path.parent, handler)
        return cls("python", path.parent, file, handler)


def module_file(root: Path, handler: str) -> Path:
    """The file of the module that `MODULE.NAME` (or `FOLDER/MODULE.NAME`) names, which need not be there."""
    inner = root.joinpath(*re.split(r"[./]", handler.rpartition(".")[0]))
    file = inner.parent / f"{inner.name}.py"
    package = inner / "__init__.py"
    return package if package.is_file() or (inner == root and not file.is_file()) else file


def node_file(root: Path, handler: str) -> Path | None:
    """The file of Node's that `MODULE.NAME` names, if it is there."""
    inner = node_module(root, handler)
    found = (inner.with_name(inner.name + suffix) for suffix in NODE)
    return next((file for file in found if file.is_file()), None)


def node_module(root: Path, handler: str) -> Path:
    """The file that `MODULE.NAME` names to Lambda's Node.js, without its suffix: it ends at the first dot behind its
    folders, and what follows is the export."""
    folder, _, name = handler.rpartition("/")
    return root / folder / (name.partition(".")[0] or "index")


def read_target(target: str, local_path: Callable[[str], Path]) -> tuple[Path, str | None] | Finding:
    """`(path, handler)` of the text after `function:`, as `Code.of` takes them; or why it names no code.

    `local_path` turns a text into a path. It may raise for one that may not be used, and is called before anything is
    asked of the file system.
    """
    before, colon, handler = target.rpartition(":")
    if before.endswith(_SOURCES) and colon and handler and not local_path(before).is_dir():
        return local_path(before), handler
    if not target or (not before and colon):
        return Finding((), f"function:{target} names no code", f"write it as {FORMS}")
    # The folder before the whole: beside a folder that may be used, its name with a handler may not.
    for place in reversed(list(re.finditer(":", target))):
        path, handler = local_path(target[: place.start()]), target[place.end() :]
        if not handler and (path.is_dir() or path.is_file()):
            return Finding((), f"function:{target} names no handler", f"write it as {FORMS}")
        if path.is_dir() or path.is_file():
            return path, handler
    path = local_path(target)
    if path.is_file() and path.suffix not in _SOURCES:
        return path, None
    if path.is_dir() or (target.endswith(_SOURCES) and not colon):
        return Finding((), f"function:{target} names no handler", f"write it as {FORMS}")
    return local_path(before or target), handler if before and "." in handler else None
