"""A message source of another package in a real gateway: what it sends, what it acknowledges, and its mistakes."""

import json
import os
import subprocess
from pathlib import Path

from harness import PROGRAM, Client, Gateway, records, run_program, until

from conftest import StartGateway
from packages import SOURCES, install, installed

MODULE = """
from sluicegate import MessageSource, Resource, SourceError

class LineFile(MessageSource):
    '''Each line of a file is a message; the numbers of lines that have ended are written to a second file.'''

    class Settings(Resource):
        path: str

    async def provision(self):
        self.path = self.context.base_dir / self.context.settings.path
        self.done = self.path.with_suffix(".done")
        self.fails = self.path.with_suffix(".fails")
        if not self.path.exists():
            raise SourceError(f"{self.path.name} does not exist", "create it")

    async def run(self):
        if self.fails.exists():
            self.fails.unlink()
            raise RuntimeError("a mistake of the package")
        ended = set(self.done.read_text().split()) if self.done.exists() else set()
        for number, line in enumerate(self.path.read_bytes().splitlines()):
            if str(number) not in ended:
                await self.carry(str(number), line, acknowledge=self.remember)

    async def remember(self, outcome):
        with self.done.open("a") as done:
            print(outcome.message_id, file=done)
"""

CONFIGURATION = """
listeners:
  - { name: decoder, bind: 127.0.0.1 }
packet_sources:
  - name: readings
    listener_name: decoder
    message_source: { line_file: { path: readings.ndjson } }
    egress_networks: [127.0.0.0/8]
    dead_letter_queue_arn: file:dead.ndjson
"""


def prepare(gateway: StartGateway, tmp_path: Path, *lines: object) -> Gateway:
    package = tmp_path / "package"
    install(package, {"line_file.py": MODULE}, "line-file", {"LineFile": "line_file:LineFile"}, SOURCES)
    made = gateway(CONFIGURATION, start=False)
    made.environment |= installed(package)
    (made.directory / "readings.ndjson").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return made


def done(made: Gateway) -> list[str]:
    file = made.directory / "readings.done"
    return sorted(file.read_text().split()) if file.exists() else []


def test_messages_of_a_package_are_sent_and_acknowledged_once(gateway: StartGateway, tmp_path: Path) -> None:
    with Client() as client:
        entries = [{"Data": text, "Formatter": "utf8", "Remote": client.remote} for text in ("a", "b", "c")]
        denied = {"Data": "", "Remote": {"Address": "192.0.2.1", "Port": 9}}
        made = prepare(gateway, tmp_path, *entries[:2], {"Messages": [entries[2], denied]}, "no message")
        made.start()
        assert sorted(client.receive_data(3)) == [b"a", b"b", b"c"]
        until(lambda: done(made) == ["0", "1", "2", "3"], "each line is acknowledged")
        letters = records(made.directory / "dead.ndjson")
        assert sorted((one["MessageId"], one["Reason"]) for one in letters) == [
            ("2", "RemoteDenied"),
            ("3", "MalformedMessage"),
        ]
        metrics = made.metrics()
        assert metrics.value("source_messages") == 4
        assert metrics.value("source_sent_packets") == 3
        (shown,) = made.api("GET", "/v1/packet-sources").json()["Items"]
        assert shown["MessageSource"] == {"line_file": {"path": "readings.ndjson"}}
        assert (shown["State"], shown["Subscription"]) == ("Active", "Subscribed")
        assert "line_file" in command(made, "sources", "list", "--api", made.api_url).stdout
        # What has ended does not come again.
        made.stop()
        made.start()
        assert made.metrics().value("source_messages") == 0
        assert client.waiting() == []


def test_a_source_that_ends_with_a_mistake_is_reported_and_begins_anew(
    gateway: StartGateway, tmp_path: Path
) -> None:
    with Client() as client:
        made = prepare(gateway, tmp_path, {"Data": "YQ==", "Remote": client.remote})
        (made.directory / "readings.fails").touch()
        made.start()
        event = made.event("SourcePollFailed")
        assert (event["PacketSource"], event["Reason"]) == ("readings", "InternalError")
        assert "RuntimeError" in event["Detail"]
        assert client.receive_data(1) == [b"a"]


def test_mistakes_have_their_place_in_the_file(gateway: StartGateway, tmp_path: Path) -> None:
    made = prepare(gateway, tmp_path)
    assert command(made, "validate", made.file).returncode == 0
    made.edit("{ path:", "{ pth:")
    refused = command(made, "validate", made.file)
    line, column = place(made, "pth:")
    assert refused.returncode == 1
    assert f"{made.file}:{line}:{column}: unknown key `pth`, did you mean `path`?" in refused.stdout
    made.edit("line_file: { pth:", "lines: { path:")
    assert 'there is no source kind "lines" in this installation' in command(made, "run", made.file).stderr
    made.edit("lines: {", "line_file: {")
    (made.directory / "readings.ndjson").unlink()
    refused = command(made, "run", made.file)
    assert refused.returncode != 0
    assert "readings.ndjson does not exist, create it" in refused.stderr


def command(made: Gateway, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_program([PROGRAM, *map(str, arguments)], env=os.environ | made.environment, cwd=made.directory)


def place(made: Gateway, text: str) -> tuple[int, int]:
    """Where `text` is in the configuration, both from 1."""
    lines = made.file.read_text().splitlines()
    return next((number, line.index(text) + 1) for number, line in enumerate(lines, 1) if text in line)
