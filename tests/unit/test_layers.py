"""Imports point downwards: `docs/layers.py` knows the layers, `docs/architecture.md` shows them."""

import runpy
from pathlib import Path

LAYERS = runpy.run_path(str(Path(__file__).parents[2] / "docs/layers.py"))


def test_imports_point_downwards_and_go_in_no_circle() -> None:
    assert LAYERS["broken"]() == []
