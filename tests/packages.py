"""Packages of users, as if they were installed: what extends a gateway is found by its entry points."""

import os
from collections.abc import Mapping
from pathlib import Path

GROUP = "sluicegate.destinations"
SOURCES = "sluicegate.sources"


def install(
    directory: Path, files: Mapping[str, str], name: str, entries: Mapping[str, str], group: str = GROUP
) -> None:
    """Write the files of a package into `directory`, with its entry points for Destinations, or of another group."""
    info = directory / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = [f"[{group}]", *(f"{scheme} = {target}" for scheme, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for file, text in files.items():
        (directory / file).write_text(text)


def installed(directory: Path) -> dict[str, str]:
    """The environment in which a program finds these packages."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))}
