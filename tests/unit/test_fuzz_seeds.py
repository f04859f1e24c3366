"""Every seed of the Python fuzz targets through its target's check, without atheris."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
SEEDS = [
    (target.stem, seed)
    for target in sorted((FUZZ / "python").glob("[a-z]*.py"))
    for seed in sorted((FUZZ / "seeds" / target.stem).iterdir())
]


def check_of(target: str) -> Callable[[bytes], None]:
    """The target's `check`. Its file is no module of ours: other modules may have its name."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{target}", FUZZ / "python" / f"{target}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check: Callable[[bytes], None] = module.check
    return check


def test_every_target_has_seeds() -> None:
    assert {target for target, _ in SEEDS} == {"config", "entries", "framing", "sns"}


@pytest.mark.parametrize(("target", "seed"), SEEDS, ids=[f"{target}-{seed.name}" for target, seed in SEEDS])
def test_seed(target: str, seed: Path) -> None:
    check_of(target)(seed.read_bytes())
