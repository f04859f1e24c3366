"""Is the handler of a `function:` Destination there? Found out without running any of its code."""

import ast
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .model import Target


def check_target(base_dir: Path, target: Target) -> tuple[str, str] | None:
    """`(cause, fix)` when the function of `target` cannot be started, else None.

    A Python handler must be defined at the top level of its file; the file is parsed and never imported,
    because validating a configuration must not have the effects of running it. Other kinds of target are not
    looked at.
    """
    if target.kind != "function" or target.path is None:
        return None
    path = base_dir / target.path
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        return f"the handler file {path} {what}", "create it or correct the path, relative to this file"
    if target.handler is None:
        if os.access(path, os.X_OK):
            return None
        return f"{path} is not executable", f"make it executable (chmod +x {target.path})"
    return _check_python(path, target.handler)


def _check_python(path: Path, handler: str) -> tuple[str, str] | None:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        return f"the handler file {path} cannot be read: {error.strerror}", "correct its permissions"
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        return f"the handler file {path} is not valid Python: {error.msg}{where}", "correct it"
    except (ValueError, RecursionError) as error:
        return f"the handler file {path} is not valid Python: {error}", "correct it"
    names = set(_defined(tree.body))
    # After `from x import *` only running the file would tell.
    if handler in names or "*" in names:
        return None
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    has = f"it defines: {', '.join(functions)}" if functions else "it defines no function"
    return f"{path} has no `{handler}` at its top level", f"{has}; correct the name after the colon"


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names bound at module level, also in the branches of `if`, `try` and `with` there."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
            case ast.Assign():
                yield from _bound(node.targets)
            case ast.AnnAssign() if node.value is not None:
                yield from _bound([node.target])
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                for field in ("body", "orelse", "finalbody"):
                    yield from _defined(getattr(node, field, []))
                for handled in getattr(node, "handlers", []):
                    yield from _defined(handled.body)


def _bound(targets: Iterable[ast.expr]) -> Iterator[str]:
    for target in targets:
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
