"""The rooms of `python/sluicegate` in layers, as `docs/architecture.md` shows them: imports point downwards only.

A room is a package or a module directly below `sluicegate`. `broken()` lists what breaks the rule, and `table()` is the
Markdown that `docs/generate.py` writes. `tests/unit/test_layers.py` holds both.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "python"

LAYERS = [
    ("cli",),
    ("gateway",),
    ("api", "cfn"),
    ("running",),
    ("sluicegate", "testing"),
    ("config",),
    ("sources",),
    ("egress",),
    ("deadletters",),
    ("events", "destinations"),
    ("aws", "functions"),
    ("http",),
    ("httpclient", "model", "state"),
    ("entrypoints", "ids", "linefile", "localcode", "paths"),
    ("backoff", "faults", "handlers", "loopwatch", "regular", "threads"),
]
"""From the top down. A room imports rooms of lower layers, never one beside it or above."""

Import = tuple[str, str]
"""`(importing module, imported module)`, both dotted."""


def broken() -> list[str]:
    """What is wrong, in sentences: imports that do not point downwards, rooms without a layer, circles of modules."""
    height = {room: -layer for layer, rooms in enumerate(LAYERS) for room in rooms}
    imports = list(_imports())
    homeless = {_room(module) for module in _modules()} ^ set(height)
    found = [
        f"{room} stands either in LAYERS or in the source tree, not in both" for room in sorted(homeless)
    ]
    for importing, imported in imports:
        above, below = height.get(_room(importing), 0), height.get(_room(imported), 0)
        if _room(importing) != _room(imported) and above <= below:
            found.append(f"{importing} imports {imported}, which is not in a lower layer")
    graph: dict[str, set[str]] = {}
    for importing, imported in imports:
        graph.setdefault(importing, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"a circle of imports: {' → '.join(error.args[1])}")
    return found


def table() -> str:
    """One row for each room, top layer first: what it is (the first sentence of its docstring) and what it imports."""
    wanted: dict[str, set[str]] = {}
    for importing, imported in _imports():
        if _room(importing) != _room(imported):
            wanted.setdefault(_room(importing), set()).add(_room(imported))
    rows = ["| layer | room | what it is | imports |", "|---|---|---|---|"]
    modules = _modules()
    for number, rooms in zip(range(len(LAYERS), 0, -1), LAYERS, strict=True):
        for room in rooms:
            module = room if room == "sluicegate" else f"sluicegate.{room}"
            text = ast.get_docstring(_tree(modules[module])) or ""
            summary = " ".join(text.partition("\n\n")[0].split()).rstrip(".")
            below = [one for layer in LAYERS for one in layer if one in wanted.get(room, ())]
            names = ", ".join(f"`{one}`" for one in below) or "nothing of ours"
            rows.append(f"| {number} | `{room}` | {summary} | {names} |")
    return "\n".join(rows) + "\n"


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports() -> Iterator[Import]:
    """Every import of ours by ours, also those inside functions and for type checkers."""
    modules = _modules()
    for module, path in modules.items():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("sluicegate"):
                continue
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if alias.name != "_native":
                    yield module, inner if inner in modules else node.module or ""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _room(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] or first
