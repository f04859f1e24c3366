"""Odd configurations: none of them is called valid and then does not start.

What `validate` cannot know is whether another program has a port at the moment of the start, so that is the start's to
say: with the place and the next step, as for everything else.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import PROGRAM, Client, Netns, Process

from sluicegate.cli.errors import Exit
from sluicegate.config import Config, ConfigError, load

LISTENER = "listeners:\n  - name: a\n    destinations: [{ name: d, destination_arn: 'console:' }]\n"
DESTINATION = "listeners:\n  - name: a\n    destinations:\n      - name: d\n        "
SOURCE = f"{LISTENER}sns: {{}}\npacket_sources:\n  - name: s\n    listener_name: a\n    "
TOPIC = 'sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:t" }'
BASES = {
    "file": "",
    "top": LISTENER,
    "listener": f"{LISTENER}    ",
    "destination": DESTINATION,
    "batching": f"{DESTINATION}destination_arn: 'console:'\n        batching: ",
    "source": SOURCE,
    "topic": f"{SOURCE}{TOPIC}\n    ",
    "wg": f"{LISTENER}    protocol: wg\n    ",
}
SIGNS = str.maketrans({"⏎": "\n", "⇥": "\t", "␍": "\r", "␇": "\a", "␀": "\0", "␢": "\ufeff"})


class Odd(NamedTuple):
    kind: str
    base: str
    text: str
    answer: str


def table() -> list[Odd]:
    found, kind, base = [], "", ""
    for line in Path(__file__).with_name("odd_configurations.txt").read_text().splitlines():
        if line.startswith("@"):
            kind, base = line[1:].split()
        elif kind and line:
            text, _, answer = line.partition(" =>")
            found.append(Odd(kind, base, text.translate(SIGNS), answer.strip().translate(SIGNS)))
    return found


TABLE = table()


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "odd", [odd for odd in TABLE if odd.kind == kind], ids=lambda odd: f"{odd.base}: {odd.text[:40]!r}"
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("hello\n")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def written(here: Path, odd: Odd) -> Path:
    file = here / "gateway.yaml"
    file.write_bytes(f"{BASES[odd.base]}{odd.text}\n".encode())
    return file


def sentence(here: Path, line: object) -> str:
    return str(line).replace(f"{here}/gateway.yaml:", "").replace(f"{here}", "HERE")


def test_there_are_enough_of_them() -> None:
    assert len({odd.text for odd in TABLE}) >= 150


@of("refused")
def test_it_is_refused_with_place_cause_and_next_step(here: Path, odd: Odd) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(here, odd))
    findings = caught.value.findings
    assert any(sentence(here, found).startswith(odd.answer) for found in findings), str(caught.value)
    assert all(found.line and found.col and found.cause and found.fix for found in findings)
    assert not re.search(r"Error|Traceback|pydantic|\bTrue\b|\bFalse\b|\bNone\b", str(caught.value))


def valid(here: Path, odd: Odd) -> Config:
    config = load(written(here, odd))
    warnings = [sentence(here, warning) for warning in config.warnings]
    assert any(one.startswith(odd.answer) for one in warnings) if odd.answer else not warnings
    return config


@pytest.mark.netns
@of("starts")
def test_what_is_valid_starts_and_stops(here: Path, odd: Odd, netns: Netns) -> None:
    config = valid(here, odd)
    running = Process([PROGRAM, "run", config.path], here, netns)
    try:
        running.stderr.wait(lambda lines: any(one.startswith("ready:") for one in lines), "ready")
        running.signal(15)
        assert running.wait() == Exit.OK, running.stderr.text
    finally:
        running.close()


@pytest.mark.netns
@of("elsewhere")
def test_what_starts_on_another_machine_alone_is_warned_about(here: Path, odd: Odd, netns: Netns) -> None:
    place = odd.answer.split()[0]
    config = valid(here, odd)
    refused = Process([PROGRAM, "run", config.path], here, netns)
    try:
        assert refused.wait() == Exit.NOT_STARTED
        assert f"{here}/gateway.yaml:{place}" in refused.stderr.text
    finally:
        refused.close()


def test_a_port_in_use_is_refused_at_the_start_with_its_place(here: Path) -> None:
    with Client() as other:
        port = other.address[1]
        config = load(written(here, Odd("", "listener", f"bind: 127.0.0.1:{port}\napi: null", "")))
        refused = Process([PROGRAM, "run", config.path], here)
        try:
            assert refused.wait() == Exit.NOT_STARTED
            assert (
                f"gateway.yaml:4:11: UDP port {port} of Listener a is in use by another program"
                in refused.stderr.text
            )
        finally:
            refused.close()
