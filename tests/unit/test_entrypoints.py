"""Classes that packages bring, by the names of their entry points."""

import tomllib
from pathlib import Path

import pytest

from sluicegate import destinations, sources


@pytest.mark.parametrize("room", [destinations, sources])
def test_ours_are_registered_as_the_distribution_says(room: object) -> None:
    """A source tree has no entry points, so the names stand twice."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registry = room._REGISTRY  # type: ignore[attr-defined]
    assert registry._built_in == project["entry-points"][registry.group]
