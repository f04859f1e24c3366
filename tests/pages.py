"""The fenced blocks of every page of the project, each with its place."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("bench/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        ROOT / "fuzz/README.md",
    }
)
LANGUAGES = {"sh", "python", "yaml", "json", "toml", "text", "console"}


class Block(NamedTuple):
    """A fenced block: its page below the repository's root, the line of its fence, its language, and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def end(self) -> int:
        """The line of its last fence."""
        return self.line + self.text.count("\n") + 1


def blocks(*languages: str, page: str | None = None) -> list[Block]:
    """Every block of these languages (of any, without one), in the order of the pages."""
    return [
        one
        for file in PAGES
        if page in (None, str(file.relative_to(ROOT)))
        for one in _of(file)
        if not languages or one.language in languages
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """The command lines of `sluicegate` in a block of commands: the words after the program's name."""
    for line in block.text.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:\$ )?(?:sudo (?:-u \S+ )?)?(?:\.venv/bin/)?sluicegate (.*)", line)
        if found:
            words = shlex.split(re.sub(r"[|>] .*", "", found[1]), comments=True)
            yield [word.replace("…", "x") for word in words]


def _of(file: Path) -> Iterator[Block]:
    text = file.read_text()
    for found in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(str(file.relative_to(ROOT)), line, found[1], found[2])
