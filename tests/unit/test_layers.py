"""Imports point downwards, also in Rust: `docs/layers*.py` know the layers, `docs/architecture.md` shows them."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LAYERS = runpy.run_path(str(DOCS / "layers.py"))


def test_imports_point_downwards_and_go_in_no_circle() -> None:
    assert LAYERS["broken"]() == []


def test_modules_of_a_crate_import_each_other_in_no_circle() -> None:
    assert runpy.run_path(str(DOCS / "layers_rust.py"))["broken"]() == []


def test_a_circle_is_seen_through_what_a_parent_hands_on(tmp_path: Path) -> None:
    files = {
        "lib.rs": "mod a;\nmod b;\npub use b::Thing;\n",
        "a.rs": "use crate::{Thing, other::{self}};\npub fn run() {}\n",
        "b/mod.rs": "mod c;\npub use c::Thing;\n",
        "b/c.rs": "//! Not `crate::b::d`.\npub struct Thing;\nfn f() { crate::a::run() }\n",
    }
    for name, text in files.items():
        file = tmp_path / "one/src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    script = runpy.run_path(str(DOCS / "layers_rust.py"))
    script["broken"].__globals__["CRATES"] = tmp_path
    (found,) = script["broken"]()
    assert found in ("one: a circle of imports: " + circle for circle in ("a → b::c → a", "b::c → a → b::c"))
    (tmp_path / "one/src/b/c.rs").write_text("pub struct Thing;\n#[cfg(test)]\nmod tests { use crate::a; }\n")
    assert script["broken"]() == []
