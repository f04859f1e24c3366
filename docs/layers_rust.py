"""The modules of each crate in layers, as `docs/architecture.md` shows those of the core: imports go in no circle.

A module is a file; its name is the path of its parts, `("session", "plain")` for `session/plain.rs`, `()` for the root.
What a module hands on by `pub use` is looked through: an import leads to the file that defines the name.

`broken()` lists what breaks the rule, and `table()` is the Markdown that `docs/generate.py` writes.
`tests/unit/test_layers.py` holds both.
"""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

CRATES = Path(__file__).parents[1] / "crates"
USE = re.compile(r"^\s*(pub(?:\(\w+\))? )?use ([^;]+);", re.MULTILINE)
PARTS = re.compile(r"(?:[^,{}]|\{(?:[^{}]|\{[^{}]*\})*\})+")
INLINE = re.compile(r"(?<![\w:])[a-z_]\w*(?:::\w+)+")

Name = tuple[str, ...]


def broken() -> list[str]:
    """What is wrong, in sentences: one for each crate whose modules import each other in a circle."""
    found = []
    for source in sorted(CRATES.glob("*/src")):
        try:
            TopologicalSorter(_Crate(source).imports()).prepare()
        except CycleError as error:
            circle = " → ".join(_shown(module) for module in reversed(error.args[1]))
            found.append(f"{source.parent.name}: a circle of imports: {circle}")
    return found


def table() -> str:
    """The core's modules, top layer first: each stands above everything that it imports."""
    crate = _Crate(CRATES / "sluice-core/src")
    order = TopologicalSorter(crate.imports())
    order.prepare()
    rows: list[str] = []
    while ready := order.get_ready():
        names = ", ".join(f"`{_shown(module)}`" for module in sorted(ready) if module)
        rows.append(f"| {len(rows) + 1} | {names} |")
        order.done(*ready)
    return "\n".join(["| layer | modules of the core |", "|---|---|", *reversed(rows)]) + "\n"


class _Crate:
    """The text of each module, without comments and tests, and the names that it hands on."""

    def __init__(self, source: Path) -> None:
        self._texts: dict[Name, str] = {}
        for file in sorted(source.rglob("*.rs")):
            parts = file.relative_to(source).with_suffix("").parts
            text = re.sub(r"//.*", "", file.read_text()).split("#[cfg(test)]\nmod ")[0]
            self._texts[parts[:-1] if parts[-1] in ("lib", "mod") else parts] = text
        self._handed_on = {
            module: {path[-1]: path for public, tree in USE.findall(text) if public for path in _paths(tree)}
            for module, text in self._texts.items()
        }

    def imports(self) -> dict[Name, set[Name]]:
        return {module: self._imports(module) for module in self._texts}

    def _imports(self, here: Name) -> set[Name]:
        """To hand a name on is no import, unless the module uses it too."""
        text = self._texts[here]
        code = USE.sub("", text)
        used = {path for public, tree in USE.findall(text) if not public for path in _paths(tree)}
        used |= {path for name, path in self._handed_on[here].items() if re.search(rf"\b{name}\b", code)}
        used |= {tuple(path.split("::")) for path in INLINE.findall(code)}
        return {module for path in used if (module := self._find(path, here)) is not None and module != here}

    def _find(self, path: Name, here: Name) -> Name | None:
        """The module that defines what `path` names in `here`. None: another crate does."""
        first, *rest = path
        if first == "super":
            at = here[:-1]
        elif first == "crate":
            at = ()
        elif (*here, first) in self._texts:
            at = (*here, first)
        else:
            return None
        for name in rest:
            if (*at, name) in self._texts:
                at = (*at, name)
            elif name in self._handed_on[at]:
                return self._find(self._handed_on[at][name], at)
        return at


def _paths(tree: str) -> Iterator[Name]:
    """The paths in a `use`: `a::{b, c::{self, d as e}}` has a::b, a::c and a::c::d."""
    head, brace, inside = tree.strip().partition("{")
    path = tuple(head.partition(" as ")[0].strip().removesuffix("::").split("::"))
    if not brace:
        yield path
    for part in PARTS.findall(inside.removesuffix("}")):
        for rest in _paths(part) if part.strip() else ():
            yield path if rest == ("self",) else (*path, *rest)


def _shown(module: Name) -> str:
    return "::".join(module) or "lib"
