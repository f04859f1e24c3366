"""The package of `docs/write-a-destination.md`, as a reader of the guide would have it installed."""

import re
import tomllib
from pathlib import Path

from packages import GROUP, install

PAGE = Path(__file__).parents[1] / "docs/write-a-destination.md"


def blocks(language: str) -> list[str]:
    """The page's blocks of this language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def files() -> dict[str, str]:
    """The blocks that begin with a comment that names a file."""
    found = {}
    for block in blocks("toml") + blocks("python"):
        if name := re.match(r"# (\S+\.(?:toml|py))\n", block):
            found[name[1]] = block
    return found


def write_package(directory: Path) -> None:
    """Install the package as its pyproject.toml says."""
    project = tomllib.loads(files()["pyproject.toml"])["project"]
    install(directory, files(), project["name"], project["entry-points"][GROUP])
