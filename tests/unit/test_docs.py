"""What the documentation shows is what the project does: generated, validated, and without dead links."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from sluicegate.cli import dev
from sluicegate.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    ("page", "render"),
    [
        ("configuration", "render"),
        ("resources", "render_resources"),
        ("architecture", "render_architecture"),
    ],
)
def test_a_generated_page_is_up_to_date(page: str, render: str) -> None:
    written = (ROOT / f"docs/{page}.md").read_text()
    made = runpy.run_path(str(ROOT / "docs/generate.py"))[render]()
    assert written == made, "run: python docs/generate.py"


def test_the_pages_of_destinations_are_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs/generate.py"))["render_destinations"]()
    folder = ROOT / "docs/reference/destinations"
    assert {page.name: page.read_text() for page in folder.iterdir()} == made, "run: python docs/generate.py"


def test_the_readme_shows_the_snippet_that_dev_prints() -> None:
    (snippet,) = blocks("README.md", "python")
    printed = dev.SNIPPET.format(
        endpoint="http://127.0.0.1:4566",
        region="us-east-1",
        topic="arn:aws:sns:us-east-1:000000000000:replies",
        client_ip="127.0.0.1",
        client_port=dev.CLIENT_PORT,
    )
    assert snippet == printed


def test_the_readme_configuration_can_be_run(tmp_path: Path) -> None:
    (text,) = blocks("README.md", "yaml")
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/echo.py").write_text(dev.HANDLER_TEXT)
    (tmp_path / "sluicegate.yaml").write_text(text)
    config = load(tmp_path / "sluicegate.yaml")
    assert config.warnings == []
    assert [len(listener.destinations) for listener in config.gateway.listeners] == [2, 1]


def test_the_configurations_of_the_wireguard_guide_can_be_run(tmp_path: Path) -> None:
    handler = blocks("docs/wireguard.md", "python")[0].removeprefix("# echo.py\n")
    (tmp_path / "echo.py").write_text(handler)
    found = blocks("docs/wireguard.md", "yaml")
    assert len(found) == 2
    for text in found:
        (tmp_path / "sluicegate.yaml").write_text(text)
        config = load(tmp_path / "sluicegate.yaml")
        assert config.warnings == []
        assert config.gateway.listeners[0].protocol == "wg"


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*/sluicegate.yaml")), ids=lambda f: f.parent.name)
def test_examples_can_be_run(file: Path) -> None:
    config = load(file)
    assert config.warnings == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(str(page.relative_to(ROOT)), "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(found.read_text()), f"{page.name}: {target}"
