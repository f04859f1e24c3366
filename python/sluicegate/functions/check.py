"""Is the handler of a `function:` Destination there? Found out without running any of its code."""

import ast
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sluicegate.model import Finding


def check_function(path: Path, handler: str | None) -> Finding | None:
    """What keeps `handler` in the Python file `path` (or the executable `path`, without one) from being started.

    A Python handler must be defined at the top level of its file; the file is parsed and never imported, because
    validating a configuration must not have the effects of running it.
    """
    if not path.is_file():
        return _no_file(path)
    if handler is None:
        if os.access(path, os.X_OK):
            return None
        return Finding((), f"{path} is not executable", f"make it executable (chmod +x {path.name})")
    if not all(part.isidentifier() for part in handler.split(".")):
        return Finding((), f'"{handler}" is not the name of a function', f"write {path.name}:handler")
    module, _, function = handler.rpartition(".")
    if not module and "." in path.stem:
        return Finding((), f'a module\'s name has no dot, "{path.stem}" does', "rename the file")
    if module and module != path.stem:
        inner = path.parent.joinpath(*module.split("."))
        path = inner.with_suffix(".py") if inner.with_suffix(".py").is_file() else inner / "__init__.py"
        if not path.is_file():
            return _no_file(path)
    if module.partition(".")[0] in sys.builtin_module_names or path.stem in sys.builtin_module_names:
        return Finding((), f"{path.stem} is the name of a built-in module", "rename the file")
    return _check_source(path, function)


def _no_file(path: Path) -> Finding:
    what = "is not a file" if path.exists() else "does not exist"
    fix = "create it or correct the path, relative to the configuration file"
    return Finding((), f"the handler file {path} {what}", fix)


def _check_source(path: Path, function: str) -> Finding | None:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        cause = f"the handler file {path} cannot be read: {error.strerror}"
        return Finding((), cause, "correct its permissions")
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        cause = f"the handler file {path} is not valid Python: {error.msg}{where}"
        return Finding((), cause, "correct it")
    except (ValueError, RecursionError):
        return Finding((), f"the handler file {path} is not Python source", "correct it")
    names, anything = _top_level(tree.body)
    if function not in names and not anything:
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        has = f"it defines: {', '.join(functions)}" if functions else "it defines no function"
        cause = f"{path} has no `{function}` at its top level"
        return Finding((), cause, f"{has}; correct the name after the colon")
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == function for node in tree.body):
        cause = f"{function} in {path} is async, and Lambda's Python runtime calls handlers synchronously"
        return Finding((), cause, "make it a plain def that calls asyncio.run")
    return None


def _top_level(body: Iterable[ast.stmt]) -> tuple[set[str], bool]:
    """The names that a module's top level binds, and whether it may bind others (`from x import *`,
    `__getattr__`).
    """
    names: set[str] = set()
    anything = False
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(statement.name)
            case ast.Import() | ast.ImportFrom():
                anything |= any(alias.name == "*" for alias in statement.names)
                names |= {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
            case ast.AnnAssign() if statement.value is None:
                pass  # an annotation alone binds nothing
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                names |= {node.id for node in ast.walk(statement) if _is_bound(node)}  # type: ignore[attr-defined]
            case _:
                blocks = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
                for handler in getattr(statement, "handlers", []):
                    blocks += handler.body
                inner, more = _top_level(blocks)
                names |= inner
                anything |= more
    return names - {"*"}, anything or "__getattr__" in names


def _is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
