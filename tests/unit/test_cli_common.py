"""What all commands have in common, and `docs/commands.md` says: exit codes, and JSON for programs."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sluicegate.cli import main
from sluicegate.cli.errors import Exit

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()
EVENTS_ON_STANDARD_OUTPUT = {"run", "dev"}


def every(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from every(found, (*names, name))
        else:
            yield " ".join((*names, name)), found


COMMANDS = dict(every(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_for_programs(name: str) -> None:
    output = [one for one in COMMANDS[name].params if one.name == "output"]
    assert bool(output) == (name not in EVENTS_ON_STANDARD_OUTPUT)


def test_the_page_lists_every_exit_code() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d) \|", PAGE, re.M)] == [int(code) for code in Exit]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["apply", "t.yaml", "--egress-network", "127.0.0.1/8"], "not the network, write 127.0.0.0/8"),
        (
            ["apply", "t.yaml", "--egress-network", "lan"],
            '"lan" is not a network, write it as ADDRESS/PREFIX',
        ),
        (
            ["keys", "create", "s.yaml", "--name", " ", "--scope", "admin"],
            "it is empty, write whose key it is",
        ),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_done(command: list[str], said: str) -> None:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert f"Invalid value for '{command[-2] if command[0] == 'apply' else '--name'}'" in done.stderr
    assert said in done.stderr
