"""A file that a user names is no pipe, device or socket: nobody waits for one, and the message says what it is."""

import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import PROGRAM, run_program

from sluicegate.cli.credentials import Api
from sluicegate.cli.errors import CliError
from sluicegate.cli.replay.file import replay_file
from sluicegate.cli.replay.letters import Choice
from sluicegate.state import State

HANG_SECONDS = 60


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/urandom")


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


KINDS = {pipe: "a pipe", endless: "a device", bound: "a socket"}
LISTENER = """
listeners:
  - name: a
    bind: 127.0.0.1
    destinations: [{ name: d, destination_arn: "DESTINATION" }]
"""


def sluicegate(folder: Path, *arguments: str, text: str = "") -> tuple[int, str]:
    """Exit code and everything that was printed. Without a file that ends it, it would hang."""
    done = run_program([PROGRAM, *arguments], cwd=folder, input=text)
    return done.returncode, done.stdout + done.stderr


def configuration(folder: Path, more: str = "", destination: str = "console:") -> None:
    text = LISTENER.replace("DESTINATION", destination)
    (folder / "gateway.yaml").write_text(f"{more}\n{text}")


def as_configuration(folder: Path) -> None:
    """The odd file is the configuration itself."""
    (folder / "odd").rename(folder / "gateway.yaml")


def as_destination(folder: Path) -> None:
    configuration(folder, destination="file:odd")


def as_events(folder: Path) -> None:
    configuration(folder, "events: { file: odd }")


def as_state(folder: Path) -> None:
    configuration(folder, "state: odd")


def as_certificate(folder: Path) -> None:
    configuration(folder, "api: { bind: '127.0.0.1:0', tls: { cert: odd, key: odd } }")


def as_handler(folder: Path) -> None:
    (folder / "odd").rename(folder / "odd.py")
    configuration(folder, destination="function:odd.py:handler")


@pytest.mark.attack
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "place", [as_configuration, as_destination, as_events, as_state, as_certificate, as_handler]
)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_an_odd_file_is_refused_at_once(
    command: str, place: Callable[[Path], None], kind: Callable[[Path], None], tmp_path: Path
) -> None:
    kind(tmp_path / "odd")
    place(tmp_path)
    code, said = sluicegate(tmp_path, command, "gateway.yaml")
    assert code in (1, 2, 3)
    assert "Traceback" not in said
    assert (KINDS[kind] if place is not as_handler else "is not a file") in said


def keys(folder: Path) -> tuple[str, ...]:
    (folder / "odd").rename(folder / "sluicegate.db.keys")
    return ("keys", "create", "gateway.yaml", "--name", "me", "--scope", "read")


def state_or_configuration(folder: Path) -> tuple[str, ...]:
    return ("state", "export", "odd")


def target(folder: Path) -> tuple[str, ...]:
    State.open(folder / "sluicegate.db").close()
    return ("state", "export", "gateway.yaml", "--to", "odd")


def bootstrap(folder: Path) -> tuple[str, ...]:
    return (
        "cfn",
        "bootstrap",
        "odd",
        "--region",
        "eu-west-1",
        "--service-token",
        "arn:aws:sns:eu-west-1:1:t",
    )


def letters(folder: Path) -> tuple[str, ...]:
    return ("replay", "odd", "--dry-run")


def payload(folder: Path) -> tuple[str, ...]:
    return ("send", "--to", "127.0.0.1:9", "--file", "odd")


@pytest.mark.attack
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [keys, state_or_configuration, target, bootstrap, letters, payload])
def test_commands_refuse_an_odd_file(
    command: Callable[[Path], tuple[str, ...]], kind: Callable[[Path], None], tmp_path: Path
) -> None:
    configuration(tmp_path)
    kind(tmp_path / "odd")
    before = stat.S_IFMT((tmp_path / "odd").stat().st_mode)
    code, said = sluicegate(tmp_path, *command(tmp_path))
    assert code in (1, 2, 3, 4)
    assert "Traceback" not in said
    assert KINDS[kind] in said
    if command is not keys:
        assert stat.S_IFMT((tmp_path / "odd").stat().st_mode) == before


@pytest.mark.attack
def test_letters_are_not_moved_to_a_pipe_of_that_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "letters")
    with pytest.raises(CliError, match="a pipe"):
        replay_file(tmp_path / "letters", Api("http://127.0.0.1:9"), Choice(), None)
    assert stat.S_ISFIFO((tmp_path / "letters").stat().st_mode)


def test_what_the_shell_hands_over_is_read(tmp_path: Path) -> None:
    configuration(tmp_path)
    text = (tmp_path / "gateway.yaml").read_text()
    assert sluicegate(tmp_path, "validate", "/dev/stdin", text=text)[0] == 0
    for handed in ("<(cat gateway.yaml)", "/dev/stdin < gateway.yaml"):
        shell = ["bash", "-c", f'"{PROGRAM}" validate {handed}']
        found = subprocess.run(
            shell, cwd=tmp_path, timeout=HANG_SECONDS, check=False, capture_output=True, text=True
        )
        # Relative paths begin where the user is.
        assert (found.returncode, "valid, 1 Listener" in found.stdout) == (0, True), found.stdout


def test_what_throws_away_is_a_file_to_append_to(tmp_path: Path) -> None:
    configuration(tmp_path, "events: { file: /dev/null }", destination="file:/dev/null")
    assert sluicegate(tmp_path, "validate", "gateway.yaml")[0] == 0


def test_an_export_goes_where_a_link_leads(tmp_path: Path) -> None:
    configuration(tmp_path)
    State.open(tmp_path / "sluicegate.db").close()
    (tmp_path / "link").symlink_to("real.json")
    (tmp_path / "real.json").write_text("of before")
    assert sluicegate(tmp_path, "state", "export", "gateway.yaml", "--to", "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert "Resources" in json.loads((tmp_path / "real.json").read_text())
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o600
