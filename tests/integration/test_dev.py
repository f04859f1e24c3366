"""`sluicegate dev`, used as a new user does: in an empty directory, with what it prints."""

import base64
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from harness import PROGRAM, Client, wait_for_records
from terminal import LISTENER, SERVERS, Terminal, listening, received
from terminal import place as place
from terminal import terminal as terminal


def test_from_nothing_to_a_packet_as_printed(terminal: Terminal) -> None:
    dev = terminal.dev()
    assert "wrote sluicegate.yaml and handlers/echo.py" in dev.process.stdout.text
    assert "UDP 127.0.0.1:2048" in dev.process.stdout.text
    assert "http://127.0.0.1:8080" in dev.process.stdout.text
    assert "http://127.0.0.1:4566" in dev.process.stdout.text
    client = terminal.start(dev.client_line)
    received(client, "127.0.0.1:2048 5 bytes: 68 65 6c 6c 6f")
    done = terminal.run(f"{dev.python} -", stdin=dev.snippet)
    assert (done.returncode, done.stderr) == (0, "")
    received(client, "127.0.0.1:2048 4 bytes: 01 02 03 04")
    # Again, at any time: nothing was asked for by the client.
    assert terminal.run(f"{dev.python} -", stdin=dev.snippet).returncode == 0
    client.stdout.wait(lambda lines: sum("01 02 03 04" in line for line in lines) == 2, "a second packet")
    dev.stop()


def test_the_printed_line_uses_the_program_on_the_path(terminal: Terminal) -> None:
    terminal.environment["PATH"] = f"{PROGRAM.parent}{os.pathsep}{terminal.environment['PATH']}"
    dev = terminal.dev()
    assert dev.client_line == ("sluicegate listen --bind 127.0.0.1:4567 --to 127.0.0.1:2048 --send hello")
    client = terminal.start(dev.client_line)
    received(client, "127.0.0.1:2048 5 bytes: 68 65 6c 6c 6f")


def test_what_dev_writes_is_valid_and_is_kept(terminal: Terminal) -> None:
    terminal.dev().stop()
    config, handler = terminal.directory / "sluicegate.yaml", terminal.directory / "handlers/echo.py"
    assert terminal.run(f"{PROGRAM} validate sluicegate.yaml").returncode == 0
    # The user changes both; a second `dev` runs what is there now.
    config.write_text(config.read_text().replace("replies", "answers") + "# mine\n")
    handler.write_text(
        "def handler(event, context):\n"
        '    return {"Replies": [{"Tag": m["Tag"], "Data": "bWluZQ=="} for m in event["Messages"]]}\n'
    )
    before = config.read_text(), handler.read_text()
    dev = terminal.dev()
    assert "wrote" not in dev.process.stdout.text
    assert (config.read_text(), handler.read_text()) == before
    assert 'TopicArn="arn:aws:sns:us-east-1:000000000000:answers"' in dev.snippet
    client = terminal.start(dev.client_line)
    received(client, f"127.0.0.1:2048 4 bytes: {b'mine'.hex(' ')}")
    assert terminal.run(f"{dev.python} -", stdin=dev.snippet).returncode == 0
    received(client, "127.0.0.1:2048 4 bytes: 01 02 03 04")


def test_dev_with_a_file_writes_nothing(terminal: Terminal) -> None:
    (terminal.directory / "my.yaml").write_text(
        "state: ./state/my.db\n"
        "sns: {}\n"
        "listeners:\n"
        '  - { name: six, bind: "[::1]:2048" }\n'
        "packet_sources:\n"
        "  - name: replies\n"
        "    listener_name: six\n"
        '    egress_networks: ["::1/128"]\n'
        '    sns_topic_source: { topic_arn: "arn:aws:sns:eu-west-1:000000000000:replies" }\n'
    )
    (terminal.directory / "state").mkdir()
    dev = terminal.dev("my.yaml")
    assert sorted(path.name for path in terminal.directory.iterdir()) == ["my.yaml", "state"]
    client = terminal.start(dev.client_line)
    listening(client)
    assert 'region_name="eu-west-1"' in dev.snippet
    assert terminal.run(f"{dev.python} -", stdin=dev.snippet).returncode == 0
    received(client, "[::1]:2048 4 bytes: 01 02 03 04")


# What a user gets wrong


def written(terminal: Terminal, old: str, new: str) -> None:
    """The configuration that `dev` writes, with one change."""
    terminal.dev().stop()
    config = terminal.directory / "sluicegate.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def place_of(text: str, wanted: str) -> str:
    """`line:col` of the first `wanted` in `text`."""
    line = text[: text.index(wanted)].count("\n") + 1
    return f"{line}:{text.splitlines()[line - 1].index(wanted) + 1}"


def refused_at(terminal: Terminal, old: str, new: str, at: str) -> str:
    """What `dev` says of its configuration with one change; it names the place of `at`."""
    written(terminal, old, new)
    code, said = terminal.refused()
    text = (terminal.directory / "sluicegate.yaml").read_text()
    assert code == 1
    assert f"sluicegate.yaml:{place_of(text, at)}: " in said
    return said


def test_a_missing_handler_is_named(terminal: Terminal) -> None:
    said = refused_at(terminal, "handlers/echo.py", "handlers/gone.py", "function:handlers")
    assert f"the handler file {terminal.directory}/handlers/gone.py does not exist" in said


def test_a_missing_function_is_named(terminal: Terminal) -> None:
    said = refused_at(terminal, "echo.py:handler", "echo.py:handle", "function:handlers")
    assert "has no `handle` at its top level, it defines: handler" in said


def test_a_bad_topic_arn_is_named(terminal: Terminal) -> None:
    said = refused_at(terminal, '"arn:aws:sns:', '"arn:aws:sqs:', '"arn:aws:sqs')
    assert "arn:aws:sns:REGION:ACCOUNT:NAME" in said


@pytest.mark.parametrize(
    ("address", "kind", "setting"),
    [
        (LISTENER, socket.SOCK_DGRAM, "127.0.0.1:2048"),
        (SERVERS[0], socket.SOCK_STREAM, "127.0.0.1:8080"),
        (SERVERS[1], socket.SOCK_STREAM, "127.0.0.1:4566"),
    ],
)
def test_a_port_in_use_is_named(
    terminal: Terminal, address: tuple[str, int], kind: socket.SocketKind, setting: str
) -> None:
    terminal.dev().stop()
    text = (terminal.directory / "sluicegate.yaml").read_text()
    with terminal.place.run(lambda: socket.socket(socket.AF_INET, kind)) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        other.bind(address)
        if kind == socket.SOCK_STREAM:
            other.listen()
        code, said = terminal.refused()
    assert code == 4
    assert f"sluicegate.yaml:{place_of(text, setting)}: " in said
    assert f"{address[1]}" in said
    assert "in use" in said


def test_a_second_dev_in_the_same_directory_is_refused(terminal: Terminal) -> None:
    dev = terminal.dev()
    code, said = terminal.refused()
    assert code == 4
    assert "in use by another gateway" in said
    assert f"process {dev.process.pid}" in said
    dev.stop()


# The other commands against it


def test_send_and_listen(terminal: Terminal) -> None:
    terminal.dev()
    client = terminal.start(f"{PROGRAM} listen --bind 127.0.0.1:5000 --count 3 --timeout 60 --format text")
    listening(client)
    done = terminal.run(f"{PROGRAM} send --to 127.0.0.1:5000 --hex 01020304")
    assert done.returncode == 0
    assert "sent 1 of 1, 4 bytes by replies" in done.stdout
    assert terminal.run(f"{PROGRAM} send --to 127.0.0.1:5000 --data ''").returncode == 0
    assert terminal.run(f"{PROGRAM} send --to 127.0.0.1:5000 -", stdin="from a pipe").returncode == 0
    assert client.wait() == 0
    assert client.stdout.all == [
        r"127.0.0.1:2048 4 bytes: \x01\x02\x03\x04",
        "127.0.0.1:2048 0 bytes: ",
        "127.0.0.1:2048 11 bytes: from a pipe",
    ]


def test_listen_sends_and_ends_after_the_echo(terminal: Terminal) -> None:
    terminal.dev()
    done = terminal.run(
        f"{PROGRAM} listen --to 127.0.0.1:2048 --hex 00ff --count 1 --timeout 60 --output json"
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["Remote"] == {"IpAddress": "127.0.0.1", "Port": 2048}
    assert base64.b64decode(document["Data"]) == b"\x00\xff"


def test_send_answers_a_tag(terminal: Terminal) -> None:
    """As a user would: a file Destination beside the echo, a Tag from it."""
    written(
        terminal,
        "      - name: echo ",
        "      - { name: all, destination_arn: 'file:packets.ndjson' }\n      - name: echo ",
    )
    terminal.dev()
    with Client(place=terminal.place) as client:
        client.send(b"question", LISTENER)
        assert client.receive() == (b"question", LISTENER)
        (packet,) = wait_for_records(terminal.directory / "packets.ndjson", 1)
        done = terminal.run(f"{PROGRAM} send --tag {packet['Tag']} --data answer")
        assert (done.returncode, client.receive()) == (0, (b"answer", LISTENER))
        done = terminal.run(f"{PROGRAM} send --tag {packet['Tag'][:-1]} --data answer")
        assert done.returncode == 1
        assert "InvalidTag" in done.stderr


def test_send_tells_what_went_wrong(terminal: Terminal) -> None:
    terminal.dev()
    refused = terminal.run(f"{PROGRAM} send --to 203.0.113.42:4567 --data x")
    assert refused.returncode == 1
    assert "RemoteDenied" in refused.stderr
    own = terminal.run(f"{PROGRAM} send --to 127.0.0.1:2048 --data x --output json")
    assert own.returncode == 1
    assert json.loads(own.stdout)["Failures"][0]["Reason"] == "RemoteDenied"
    nobody = terminal.run(f"{PROGRAM} send --to 127.0.0.1:5000 --data x --api http://127.0.0.1:1")
    assert nobody.returncode == 3
    assert "no gateway answers" in nobody.stderr


def test_the_snippet_needs_nothing_of_ours(terminal: Terminal) -> None:
    """It imports the article's three modules, and runs with the Python that was printed."""
    dev = terminal.dev()
    imported = re.findall(r"^import (.*)$", dev.snippet, re.MULTILINE)
    assert imported == ["boto3, json, base64"]
    assert (terminal.directory / dev.python).resolve() == Path(sys.executable).resolve()
