"""The gate of instruction counts: what fails, and what is kept."""

import json
from pathlib import Path

import pytest
from bench import instructions

COUNTS = {"parse": 1_101, "seal": 1_100, "new": 5}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose counts were kept before, with valgrind at hand."""
    (tmp_path / "CHANGELOG.md").write_text("- `seal` costs more instructions, as RFC 9 wants it.\n")
    (tmp_path / "kept.json").write_text(json.dumps({"here": {"parse": 1_000, "seal": 1_000}}))
    for name, value in {
        "PROJECT": tmp_path,
        "KEPT": tmp_path / "kept.json",
        "_here": lambda: "here",
        "_counts": lambda: COUNTS,
    }.items():
        monkeypatch.setattr(instructions, name, value)
    monkeypatch.setattr(instructions.shutil, "which", lambda _: "/usr/bin/valgrind")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["instructions", *arguments])
    return instructions.main()


def test_more_than_a_tenth_fails_until_the_changelog_says_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tree / "kept.json").read_text()
    assert run(monkeypatch) == 1
    said = capsys.readouterr()
    assert "+10.1% of 1000" in said.out
    assert "parse: over 110%" in said.err
    assert run(monkeypatch, "--keep") == 1
    assert "`parse` costs more instructions" in capsys.readouterr().err
    assert (tree / "kept.json").read_text() == before
    (tree / "CHANGELOG.md").write_text("- `parse` costs more instructions: it checks more.\n")
    assert run(monkeypatch, "--keep") == 0
    assert json.loads((tree / "kept.json").read_text()) == {"here": COUNTS}
    assert run(monkeypatch) == 0


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("_here", lambda: "elsewhere", "no counts are kept"), ("shutil", None, "there is no valgrind")],
)
def test_what_cannot_be_checked_is_named(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: object,
    told: str,
) -> None:
    if value is None:
        monkeypatch.setattr(instructions.shutil, "which", lambda _: None)
    else:
        monkeypatch.setattr(instructions, name, value)
    assert run(monkeypatch) == 0
    assert f"skipped: instruction counts: {told}" in capsys.readouterr().err
