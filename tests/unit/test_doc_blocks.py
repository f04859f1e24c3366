"""Every block of every page is what it says: configurations are valid, commands exist, programs compile.

`tests/integration/test_doc_commands.py` runs them.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import botocore.session  # type: ignore[import-untyped]
import click
import pytest

from pages import LANGUAGES, PAGES, ROOT, Block, blocks, commands
from shown import configuration, write_files
from sluicegate.cfn.reader import parse as parse_template
from sluicegate.cli import main
from sluicegate.config import load
from sluicegate.events.types import TYPES
from sluicegate.model import Listener


def every(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*languages), ids=lambda one: one.place)


def test_every_fence_says_what_it_holds() -> None:
    assert [one.place for one in blocks() if one.language not in LANGUAGES] == []


def test_nothing_is_a_block_without_a_fence() -> None:
    """Indented text and indented fences would be shown as code, and not be found here."""
    found = []
    for file in PAGES:
        lines = file.read_text().splitlines()
        fenced = {
            number
            for one in blocks(page=str(file.relative_to(ROOT)))
            for number in range(one.line, one.end + 1)
        }
        for number, line in enumerate(lines, 1):
            starts = re.match(r" {4}\S", line) and not lines[number - 2].strip()
            if number not in fenced and (starts or re.match(r"\s*(```|~~~)", line)):
                found.append(f"{file.relative_to(ROOT)}:{number}")
    assert found == []


def test_what_is_only_to_be_read_has_no_commands() -> None:
    """Commands are `sh`, sessions `console`: those are run."""
    assert [one.place for one in blocks("text") if list(commands(one)) and one.page not in UNREAD] == []


# YAML


@every("yaml")
def test_a_yaml_block_is_a_template_or_a_configuration(block: Block, tmp_path: Path) -> None:
    if re.search(r"^Resources:", block.text, re.M):
        parse_template(block.place, block.text)
    elif "destination_arn: syslog:" not in block.text:  # known where its package is installed
        write_files(block, tmp_path)
        (tmp_path / "sluicegate.yaml").write_text(configuration(block))
        assert load(tmp_path / "sluicegate.yaml").gateway.listeners


# JSON


@every("json")
def test_a_json_block_is_what_it_shows(block: Block) -> None:
    data = json.loads(block.text)
    if "Statement" in data:
        assert data["Version"] == "2012-10-17"
        for statement in data["Statement"]:
            assert [one for one in _list(statement["Action"]) if not _is_operation(one)] == []
    elif "Event" in data:
        assert data["Event"] in TYPES
    elif "Destinations" in data and "ReceivedPackets" not in data:
        Listener.model_validate({"Bind": "0.0.0.0:2048", **data})
    elif "Entry" in data:
        assert data["Reason"]


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _is_operation(action: str) -> bool:
    """True for an action of IAM that is an operation of its service, if by another name."""
    service, _, name = action.partition(":")
    if action == "execute-api:Invoke":  # of whatever the API has
        return True
    name = {"lambda:InvokeFunction": "Invoke"}.get(action, name)
    service = {"geo": "location", "iot": "iot-data", "states": "stepfunctions"}.get(service, service)
    return name in botocore.session.get_session().get_service_model(service).operation_names


@every("text", "json")
def test_lines_of_events_are_events(block: Block) -> None:
    for line in block.text.splitlines():
        if line.startswith('{"Time"') and not line.endswith("…"):
            assert json.loads(line)["Event"] in TYPES


# Python and TOML


@every("python")
def test_a_python_block_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


@every("toml")
def test_a_toml_block_parses(block: Block) -> None:
    tomllib.loads(block.text)


# Commands

UNREAD = {"docs/contract.md": "a list of commands with what each does, and of those that a later version has"}
"""Pages whose blocks of commands are not read, and why."""


def command_of(words: list[str]) -> tuple[click.Command, list[str], click.Context]:
    """The command that these words call, what is left of them, and where it stands. Fails if there is none."""
    command: click.Command = main
    context = click.Context(main, info_name="sluicegate")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    return command, words, context


@every("sh", "text", "console")
def test_a_command_line_is_one_that_the_program_takes(block: Block) -> None:
    for words in commands(block) if block.page not in UNREAD else ():
        command, rest, context = command_of(words)
        if not isinstance(command, click.Group):
            command.parse_args(context, rest)


SENTENCES = [
    Block(page, number, "", found)
    for page in (str(file.relative_to(ROOT)) for file in PAGES if file.name != "CHANGELOG.md")
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1)
    for found in re.findall(r"`(sluicegate [a-z][^`]*)`", line)
]


@pytest.mark.parametrize("block", SENTENCES, ids=lambda one: one.place)
def test_a_command_in_a_sentence_exists(block: Block) -> None:
    for words in commands(block):
        command, rest, _ = command_of(words)
        known = {one for parameter in command.params for one in parameter.opts + parameter.secondary_opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known
