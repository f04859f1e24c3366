"""A Destination of a user's own package: an entry point makes it known wherever a configuration is checked."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import HANG_SECONDS, PROGRAM, Client, Gateway, run_program

import packages

MODULE = '''
import socket
from sluicegate import Arguments, Destination, DestinationError

class Syslog(Destination):
    """Sends each packet to a syslog server: `syslog:HOST:PORT`."""

    @classmethod
    def from_spec(cls, name, target, arguments, context):
        reader = Arguments(arguments, f"destination {name}")
        made = cls(name, context)
        made.facility = reader.integer("Facility", 1, 0, 23)
        reader.finish()
        host, _, port = target.rpartition(":")
        if not port.isdecimal():
            raise DestinationError(f"destination {name}: syslog: names no port", "write it as syslog:HOST:PORT")
        made.to = host, int(port)
        return made

    async def provision(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def deliver(self, batch):
        for record in batch.records():
            self.socket.sendto(b"<%d>1 " % (self.facility * 8 + 6) + record, self.to)

    async def close(self):
        if hasattr(self, "socket"):
            self.socket.close()

class Timestream(Syslog):
    @classmethod
    def from_spec(cls, name, target, arguments, context):
        return super().from_spec(name, target.rpartition("/")[2], arguments, context)
'''
METADATA = "Metadata-Version: 2.1\nName: my-destinations\nVersion: 1.0\n"
ENTRY_POINTS = (
    "[sluicegate.destinations]\nsyslog = my_destinations:Syslog\ntimestream = my_destinations:Timestream\n"
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def install(folder: Path, module: str = MODULE, entry_points: str = ENTRY_POINTS) -> dict[str, str]:
    """A distribution in `folder`; the environment in which it is found."""
    info = folder / "my_destinations-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(entry_points)
    (folder / "my_destinations.py").write_text(module)
    return {**os.environ, "PYTHONPATH": str(folder)}


def sluicegate(environment: dict[str, str], *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return run_program([PROGRAM, *arguments], env=environment)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Where syslog messages arrive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(HANG_SECONDS)
        yield made


def config(target: str, arguments: str = "{ Facility: 3 }") -> str:
    return f"""\
listeners:
  - name: entry
    bind: 127.0.0.1
    destinations:
      - name: log
        destination_arn: "{target}"
        arguments: {arguments}
        batching: {{ timeout_in_seconds: 0.01 }}
"""


def start(directory: Path, text: str, environment: dict[str, str]) -> Gateway:
    directory.mkdir()
    return Gateway(directory, text, environment={"PYTHONPATH": environment["PYTHONPATH"]}).start()


@pytest.mark.parametrize(
    "kind", ["syslog:127.0.0.1:{}", "arn:aws:timestream:us-east-1:123456789012:topic/127.0.0.1:{}"]
)
def test_packets_arrive_in_it(kind: str, server: socket.socket, tmp_path: Path) -> None:
    environment = install(tmp_path / "site")
    target = kind.format(server.getsockname()[1])
    gateway = start(tmp_path / "g", config(target), environment)
    try:
        with Client() as client:
            client.send(b"hello", gateway.address())
        message = server.recv(65_535)
        assert message.startswith(b"<30>1 ")
        assert json.loads(message.partition(b" ")[2])["Data"] == "aGVsbG8="

        result = sluicegate(environment, "validate", gateway.file)
        assert (result.returncode, "valid, 1 Listener" in result.stdout) == (0, True)

        by_api = {
            "Name": "api",
            "Bind": "127.0.0.1",
            "Destinations": [{"Name": "l", "DestinationArn": target}],
        }
        assert gateway.api("POST", "/v1/listeners", by_api).status_code == 201

        template = tmp_path / "t.json"
        properties = {
            "ClientRestrictions": {"Networks": ["127.0.0.0/8"]},
            "Destinations": [
                {
                    "DestinationArn": target,
                    "Arguments": {"Facility": "4"},
                    "Batching": {"TimeoutInSeconds": "0.01"},
                }
            ],
        }
        resource = {"Type": "Custom::SluicegateListener", "Properties": properties}
        template.write_text(json.dumps({"Resources": {"Entry": resource}}))
        for options in (["--dry-run"], []):
            options += ["--use-aws"]  # the package reads the ARN itself
            result = sluicegate(environment, "apply", template, "--api", gateway.api_url, *options)
            assert (result.returncode, result.stderr) == (0, "")
        with Client() as client:
            client.send(b"again", ("127.0.0.1", gateway.port("t-Entry")))
        assert server.recv(65_535).startswith(b"<38>1 ")
    finally:
        gateway.close()


def test_an_editor_knows_its_scheme_and_service(tmp_path: Path) -> None:
    def pattern(environment: dict[str, str]) -> str:
        schema = json.loads(sluicegate(environment, "schema").stdout)
        field = schema["$defs"]["DestinationSpec"]["properties"]["destination_arn"]
        text, by_region, _ = field["anyOf"]
        assert by_region["additionalProperties"]["pattern"] == text["pattern"]
        return str(text["pattern"])

    def accepted(pattern: str, target: str) -> bool:
        return re.search(pattern, target) is not None

    with_it, without = pattern(install(tmp_path / "site")), pattern(dict(os.environ))
    for target in ("syslog:127.0.0.1:514", "arn:aws:timestream:us-east-1:123456789012:topic/t"):
        assert (accepted(with_it, target), accepted(without, target)) == (True, False)
    site = install(
        tmp_path / "odd",
        entry_points="[sluicegate.destinations]\n( = my_destinations:Syslog\nUP = "
        "my_destinations:Syslog\na_b = my_destinations:Syslog\n",
    )
    odd = pattern(site)
    assert (accepted(odd, "up:x"), accepted(odd, "a_b:x"), accepted(odd, "console:")) == (True, False, True)
    for target in ("console:", "file:a.ndjson", "function:a.py:b"):
        assert (accepted(with_it, target), accepted(without, target)) == (True, True)
    assert not accepted(with_it, "pigeon:loft")


def test_its_misspelt_argument_has_a_place(tmp_path: Path) -> None:
    environment = install(tmp_path / "site")
    good = config("syslog:127.0.0.1:514")
    gateway = start(tmp_path / "g", good, environment)
    try:
        text = gateway.file.read_text()
        gateway.file.write_text(text.replace("Facility", "Facilty"))
        line = gateway.file.read_text().split("\n").index("        arguments: { Facilty: 3 }") + 1
        expected = f"{gateway.file}:{line}:22: destination log has no argument Facilty, known are Facility"
        for command in ("validate", "run"):
            result = sluicegate(environment, command, gateway.file)
            assert result.returncode == 1
            assert expected in result.stdout + result.stderr
        gateway.process.signal(signal.SIGHUP)
        assert expected in gateway.event("ReloadRefused")["Detail"]

        wrong = {"DestinationArn": "syslog:127.0.0.1:514", "Arguments": {"Facilty": "3"}}
        answer = gateway.api("POST", "/v1/listeners", {"Name": "b", "Destinations": [wrong]})
        assert answer.status_code == 422
        assert answer.json()["Errors"][0]["Pointer"] == "/Destinations/0/Arguments/Facilty"

        template = tmp_path / "t.yaml"
        template.write_text(
            "Resources:\n  Entry:\n    Type: Custom::SluicegateListener\n    Properties:\n      Destinations:\n"
            "        - DestinationArn: syslog:127.0.0.1:514\n          Arguments:\n            Facilty: 3\n"
        )
        for options in (["--dry-run"], []):
            result = sluicegate(environment, "apply", template, "--api", gateway.api_url, *options)
            assert result.returncode == 1
            assert (
                f"{template}:8:13: Entry cannot be made: Destination dstn-t-Entry-0, Arguments.Facilty: "
                in result.stderr
            )
            assert "has no argument Facilty, known are Facility" in result.stderr
    finally:
        gateway.close()


def test_an_unknown_scheme_names_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(config("pigeon:loft", "{}"))
    result = sluicegate(install(tmp_path / "site"), "validate", file)
    assert (
        f'{file}:6:26: "pigeon:loft" is not a destination: the scheme "pigeon" is not known here, '
        in result.stdout
    )
    known = result.stdout.partition("known are ")[2]
    assert {"console:", "file:", "function:", "timestream:", "syslog:"} <= set(re.split(r"[,\s]+", known))


BROKEN = {
    "raise ValueError('out of cheese')": "cannot be loaded from my_destinations:Syslog of the package my-destinations "
    "(ValueError: out of cheese)",
    "import sys\nsys.exit('no')": "cannot be loaded from",
    "import no_such_module": "ModuleNotFoundError",
    "def f(:": "SyntaxError",
    "Syslog = print": "is not a subclass of Destination",
    "": "AttributeError",
    MODULE.replace(
        "reader = ", "reader = 1 / 0 or "
    ): "failed to read this (ZeroDivisionError: division by zero)",
    MODULE.replace("return made", "return None"): "from_spec returned NoneType, not a Destination",
    MODULE.replace(
        "    async def provision", "    def __init__(self, *about): ...\n\n    async def provision"
    ): "does not call super().__init__(name, context)",
    MODULE + "\n    concurrency = property(lambda self: 0)\nSyslog = Timestream": "failed to read this",
    MODULE + "\n    concurrency = 1.5\nSyslog = Timestream": "concurrency is 1.5, not a whole number",
    MODULE
    + "\n    batch_bytes_limit = '5MB'\nSyslog = Timestream": "batch_bytes_limit is '5MB', not a whole number",
    MODULE + "\n    batch_bytes_limit = -5\nSyslog = Timestream": "ValueError: batch_bytes_limit is -5",
    MODULE.replace(
        "reader = ", "raise SystemExit(9)\n        reader = "
    ): "failed to read this (SystemExit: 9)",
}


def test_broken_packages_are_findings_in_every_way_in(tmp_path: Path) -> None:
    """Each of them has a scheme of its own in one environment."""
    schemes = {f"broken{chr(97 + number)}": module for number, module in enumerate(BROKEN)}
    points = "".join(f"{scheme} = {scheme}:Syslog\n" for scheme in schemes)
    environment = install(tmp_path / "site", entry_points=f"[sluicegate.destinations]\n{points}")
    for scheme, module in schemes.items():
        (tmp_path / "site" / f"{scheme}.py").write_text(module)
    targets = [
        json.dumps({"name": s, "destinations": [{"destination_arn": f"{s}:localhost:1"}]}) for s in schemes
    ]
    file = tmp_path / "g.yaml"
    file.write_text("listeners:\n" + "".join(f"  - {target}\n" for target in targets))
    said = []
    for command in ("validate", "run"):
        result = sluicegate(environment, command, file)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        said.append(result.stdout + result.stderr)
    gateway = start(tmp_path / "g", "listeners: []", environment)
    try:
        for line, (scheme, module) in enumerate(schemes.items(), 2):
            words = BROKEN[module].replace("my_destinations:Syslog", f"{scheme}:Syslog")
            expected = f"{file}:{line}:62: the Destination for '{scheme}'"
            for text in said:
                assert words in text.partition(expected)[2].partition(str(file))[0], text
            document = {"Name": "b", "Destinations": [{"DestinationArn": f"{scheme}:localhost:1"}]}
            answer = gateway.api("POST", "/v1/listeners", document)
            assert answer.status_code == 422
            assert answer.json()["Errors"][0]["Pointer"] == "/Destinations/0/DestinationArn"
            assert words in answer.json()["Errors"][0]["Cause"]
    finally:
        gateway.close()


def test_one_that_cannot_begin_ends_a_start_with_a_sentence(tmp_path: Path) -> None:
    environment = install(tmp_path / "site", MODULE.replace("self.socket = socket.socket", "raise KeyError"))
    file = tmp_path / "g.yaml"
    file.write_text("api: null\n" + config("syslog:127.0.0.1:514"))
    result = sluicegate(environment, "run", file)
    assert result.returncode == 4
    assert f"{file}:7:26: the Destination log failed to begin (KeyError: " in result.stderr
    assert "Traceback" not in result.stderr


CLOSES_BADLY = (
    MODULE
    + """
class Raises(Syslog):
    async def close(self):
        raise RuntimeError("it went away by itself")

class Plain(Syslog):
    def close(self):
        pass
"""
)


@pytest.mark.parametrize("kind", ["Raises", "Plain"])
def test_a_close_that_fails_does_not_keep_the_gateway_from_stopping(kind: str, tmp_path: Path) -> None:
    points = f"[sluicegate.destinations]\nsyslog = my_destinations:{kind}\n"
    gateway = start(
        tmp_path / "g", config("syslog:127.0.0.1:514"), install(tmp_path / "site", CLOSES_BADLY, points)
    )
    try:
        assert gateway.api("POST", "/v1/listeners", {"Name": "other", "Destinations": []}).status_code == 201
        assert gateway.stop() == 0
        assert gateway.named("GatewayStopped")
        assert {one["Listener"] for one in gateway.named("ListenerStopped")} == {"entry", "other"}
    finally:
        gateway.close()


def test_two_packages_for_one_scheme_are_both_named(tmp_path: Path) -> None:
    """Which of them is found first depends on the order of folders: nobody may replace another unseen."""
    environment = install(tmp_path / "site")
    for package, scheme in (("other-syslog", "syslog"), ("my-file", "file")):
        module = package.replace("-", "_")
        packages.install(tmp_path / package, {f"{module}.py": MODULE}, package, {scheme: f"{module}:Syslog"})
        environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path / package}"
    file = tmp_path / "g.yaml"
    for target, first, second in (
        ("syslog:127.0.0.1:514", "my_destinations:Syslog", "other_syslog:Syslog of the package other-syslog"),
        ("file:a", "sluicegate.destinations.file:FileDestination", "my_file:Syslog of the package my-file"),
    ):
        file.write_text(config(target, "{}"))
        for command in ("validate", "run"):
            result = sluicegate(environment, command, file)
            assert result.returncode == 1
            said = (result.stdout + result.stderr).partition(f"{file}:6:26: ")[2]
            assert "is provided more than once: " in said
            assert first in said
            assert second in said
            assert "Traceback" not in result.stderr
