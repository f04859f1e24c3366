"""The command line as a whole: help, version, exit codes, colour, and how little a command imports."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from sluicegate import __version__
from sluicegate.cli import COMMANDS, main
from sluicegate.cli.errors import CliError, Exit


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"sluicegate {__version__}\n")


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from sluicegate.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted(m for m in sys.modules if m.startswith(('sluicegate.', 'httpx', 'pydantic'))))"
    )
    path = ":".join(sys.path)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    *help_text, modules = result.stdout.splitlines()
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in help_text)
    assert modules == "['sluicegate.cli', 'sluicegate.cli.errors']"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["validate"], ["listen", "--count", "x"]])
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == Exit.USAGE


@pytest.mark.parametrize("code", [Exit.FAILED, Exit.UNREACHABLE, Exit.NOT_STARTED])
def test_errors_go_to_standard_error_with_their_code(code: Exit) -> None:
    @click.command()
    def failing() -> None:
        raise CliError("the port is in use", code)

    result = CliRunner().invoke(failing)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "error: the port is in use\n")


@pytest.mark.parametrize(("setting", "coloured"), [("1", False), ("", True)])
def test_no_color(setting: str, coloured: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "gateway.yaml"
    path.write_text("region: us-east-1\n")
    # color=True is what a terminal is to click.
    arguments = ["validate", str(path)]
    result = CliRunner().invoke(main, arguments, env={"NO_COLOR": setting}, color=True)
    assert result.exit_code == 0
    assert ("\x1b[" in result.output) is coloured
