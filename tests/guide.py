"""The package of `docs/write-a-destination.md`, as a reader of the guide would have it installed."""

import re
import tomllib
from pathlib import Path

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
    """Write the package into `directory`, with its entry points: on PYTHONPATH it is as good as installed."""
    for name, text in files().items():
        (directory / name).write_text(text)
    project = tomllib.loads(files()["pyproject.toml"])["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    info = directory / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
