"""Is the handler of a `function:` Destination there? Found out without running any of its code."""

import ast
import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import FrozenImporter, PathFinder
from pathlib import Path

from sluicegate.functions import build, node
from sluicegate.functions.code import NODE, Code, node_module
from sluicegate.model import Finding

_SOURCES = {
    ".ts": ("TypeScript", f"{build.TYPESCRIPT}, and name that file"),
    ".mts": ("TypeScript", f"{build.TYPESCRIPT}, and name that file"),
    ".tsx": ("TypeScript", f"{build.TYPESCRIPT}, and name that file"),
    ".go": ("Go source", f"{build.GO}, and name that program"),
    ".rs": ("Rust source", f"{build.RUST}, and name that program"),
    ".cs": ("C# source", f"{build.DOTNET}, and name that program"),
    ".dll": (".NET code", f"{build.DOTNET}, and name that program"),
    ".java": ("Java", build.JAVA), ".jar": ("Java", build.JAVA), ".class": ("Java", build.JAVA),
    ".rb": ("Ruby", build.RUBY),
}  # fmt: skip
"""What does not run as it is: what it is, and how to go on."""
_EXPORT = re.compile(r"[^\s./:]+(\.[^\s./:]+)*")
_STARTED = ("encodings", "site")  # Python has imported them before it knows of the handler


def check_function(path: Path, handler: str | None) -> Finding | None:
    """What keeps the code that `path` and `handler` name (`Code.of`) from being started.

    A Python handler must be defined at the top level of its file; the file is parsed and never imported, because
    validating a configuration must not have the effects of running it. Of a handler for Node.js the file must be there,
    and a program `node`.
    """
    if not path.exists() or not (path.is_file() or (path.is_dir() and handler is not None)):
        return _no_file(path)
    code = Code.of(path, handler)
    if code.kind == "exec":
        return _check_program(code.file)
    if code.kind == "node":
        return _check_script(path, code, handler or "")
    module, _, function = code.handler.rpartition(".")
    if not function.isidentifier() or not all(re.split(r"[./]", module)):
        name = "MODULE.NAME" if path.is_dir() else "handler"
        return Finding((), f'"{handler}" is not the name of a function', f"write {path.name}:{name}")
    if code.file == path and "." in path.stem:
        return Finding((), f'a module\'s name has no dot, "{path.stem}" does', "rename the file")
    if not code.file.is_file():
        return _no_module(path, code)
    return _check_name(code, re.split(r"[./]", module)[0]) or _check_source(code.file, function)


def _check_program(path: Path) -> Finding | None:
    if path.suffix in _SOURCES:
        return _unbuilt(path)
    if path.suffix in NODE:
        return Finding((), f"{path} is named without a handler", f"write function:{path}:handler")
    if os.access(path, os.X_OK):
        return None
    return Finding((), f"{path} is not executable", f"make it executable (chmod +x {path.name})")


def _check_script(path: Path, code: Code, handler: str) -> Finding | None:
    *folders, _ = code.handler.split("/")
    if ".." in folders or (folders and path.is_file()) or not _EXPORT.fullmatch(code.export):
        name = "MODULE.NAME" if path.is_dir() else "handler"
        return Finding((), f'"{handler}" is not the name of a function', f"write {path.name}:{name}")
    if node.program() is None:
        return Finding((), f"{code.file} is JavaScript, and {node.MISSING}", node.INSTALL)
    return None


def _unbuilt(path: Path) -> Finding:
    what, fix = _SOURCES[path.suffix]
    return Finding((), f"{path} is {what}, which does not run here as it is", fix)


def _no_file(path: Path) -> Finding:
    what = "is not a file" if path.exists() else "does not exist"
    fix = "create it or correct the path, relative to the configuration file"
    return Finding((), f"the handler file {path} {what}", fix)


def _no_module(path: Path, code: Code) -> Finding:
    """There is no such Python file. Says what is there instead, as other runtimes have the same layout."""
    module = node_module(code.root, code.handler)
    for suffix in _SOURCES:
        for other in (code.file.with_suffix(suffix), module.with_name(module.name + suffix)):
            if other.is_file():
                return _unbuilt(other)
    program = code.root / "bootstrap"
    if program.is_file():
        cause = f"there is no {code.file}, but a program {program}"
        return Finding((), cause, f"write function:{path}/bootstrap:{code.handler} to run it")
    return _no_file(code.file)


def _check_name(code: Code, top: str) -> Finding | None:
    """Would the runtime's import find this file, and not another module of its name?"""
    if top in sys.builtin_module_names or top in _STARTED or FrozenImporter.find_spec(top) is not None:
        return Finding((), f"{top} is the name of a built-in module", f"rename the {_what(code, top)}")
    package = code.root / top
    if (code.root / f"{top}.py") == code.file or (package / "__init__.py").is_file():
        return None
    if (code.root / f"{top}.py").is_file():
        cause = f"{code.root / top}.py hides the folder {top}"
        return Finding((), cause, "rename one of the two")
    found = PathFinder.find_spec(top)
    if found is not None and found.origin is not None:
        cause = f"a module {top} of Python or of an installed package comes before the folder {package}"
        return Finding((), cause, "add an __init__.py to the folder, or rename it")
    return None


def _what(code: Code, top: str) -> str:
    return "file" if code.file.parent == code.root and code.file.stem == top else "folder"


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
        functions = [
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        has = f"it defines: {', '.join(functions)}" if functions else "it defines no function"
        cause = f"{path} has no `{function}` at its top level"
        return Finding((), cause, f"{has}; correct the name after the colon")
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
