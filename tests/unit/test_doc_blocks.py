"""Every fenced block of every page is what it says: configurations are valid, commands exist, programs compile.

`tests/integration/test_doc_commands.py` runs those that need a gateway.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import botocore.session  # type: ignore[import-untyped]
import click
import pytest
from ruamel.yaml import YAML

import guide
from packages import installed
from pages import LANGUAGES, PAGES, ROOT, Block, blocks, commands
from sluicegate.cfn.reader import parse as parse_template
from sluicegate.cli import main
from sluicegate.events.types import TYPES
from sluicegate.model import DestinationSpec, GatewayConfig, Listener, PacketSource, Resource

PROGRAM = Path(sys.executable).with_name("sluicegate")
HANDLER = "def handler(event, context):\n    return None\n"


def every(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*languages), ids=lambda one: one.place)


def test_every_fence_says_what_it_holds() -> None:
    assert [one.place for one in blocks() if one.language not in LANGUAGES] == []


# YAML


def whole(data: dict[str, Any]) -> dict[str, Any]:
    """A block may show a part: the keys of one resource, or PacketSources without their Listeners. This adds the
    rest."""
    owners: tuple[type[Resource], ...] = (GatewayConfig, PacketSource, Listener, DestinationSpec)
    owner = next(one for one in owners if data.keys() <= one.spellings().keys())
    shown = {"name": "show", "destination_arn": "console:"}
    listener: dict[str, Any] = {"name": "decoder", "destinations": [shown]}
    if owner is PacketSource:
        topic = {"topic_arn": "arn:aws:sns:us-east-1:000000000000:replies"}
        source = {"name": "replies", "listener_name": "decoder", "sns_topic_source": topic}
        return {"listeners": [listener], "packet_sources": [source | data]}
    if owner is Listener:
        return {"listeners": [listener | data]}
    if owner is DestinationSpec:
        return {"listeners": [listener | {"destinations": [shown | data]}]}
    named = {one["listener_name"] for one in data.get("packet_sources", ())}
    return data if "listeners" in data else data | {"listeners": [{"name": name} for name in named]}


def write_files(block: Block, folder: Path) -> None:
    """The files that a configuration names: the page's own where it has them."""
    for name in re.findall(r"function:([\w/.-]+\.py):", block.text):
        own = [one.text for one in blocks("python", page=block.page) if one.text.startswith(f"# {name}\n")]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(own[0] if own else HANDLER)
    if "tls:" in block.text:
        (made,) = [one.text for one in blocks("sh", page=block.page) if "openssl req" in one.text]
        shell(folder, re.sub(r"^curl .*\n", "", made, flags=re.M))
    if block.page == "docs/write-a-destination.md":
        guide.write_package(folder)


def shell(folder: Path, script: str) -> str:
    done = subprocess.run(
        ["sh", "-euc", script], cwd=folder, env=os.environ | installed(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@every("yaml")
def test_a_yaml_block_can_be_run(block: Block, tmp_path: Path) -> None:
    if re.search(r"^Resources:", block.text, re.M):
        parse_template(block.place, block.text)
        return
    data = YAML(typ="safe", pure=True).load(block.text)
    with (tmp_path / "sluicegate.yaml").open("w") as file:
        if (more := whole(data)) == data:
            file.write(block.text)
        else:
            YAML().dump(more, file)
    write_files(block, tmp_path)
    assert ": valid" in shell(tmp_path, f"{PROGRAM} validate sluicegate.yaml")


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
    """True for an action of IAM that is an operation of its service."""
    service, _, name = action.partition(":")
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


@every("console")
def test_a_session_shows_what_the_commands_print(block: Block, tmp_path: Path) -> None:
    sessions = re.split(r"^\$ sluicegate ", block.text, flags=re.M)[1:]
    assert sessions
    for session in sessions:
        command, _, shown = session.partition("\n")
        assert shell(tmp_path, f"{PROGRAM} {command}") == shown


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
