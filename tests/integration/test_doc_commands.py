"""Every block of every page runs: configurations start, commands and programs end well, sessions print what they show.

A page is read from its beginning, as a newcomer does, in a folder with the repository's examples. Each configuration
starts a gateway, which replaces the one before, and so does each `sluicegate run`. `NOT_RUN` has what a machine without
an account and without rights cannot run.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import PROGRAM, Client, Process
from terminal import Terminal
from terminal import place as place
from terminal import terminal as terminal
from wireguard import Tunnel, udp_in_ip

from packages import installed
from pages import ROOT, Block, blocks
from shown import LOCAL, configuration, write, write_files

ACCOUNT = "needs an account at AWS"
LONG = "takes minutes; `make -n` checks its recipe"
NOT_RUN = {
    "make test": LONG,
    "make check": LONG,
    "make bench": LONG,
    ".venv/bin/python -m bench": "takes half a minute at least, and two cores for itself",
    "./build.sh": "takes a minute where nothing is cached; test_languages.py has `make test-languages` run it",
    "aws ": ACCOUNT,
    "sluicegate sources remove replies --discard": f"{ACCOUNT}; test_sns_source_drains.py runs it",
    "sluicegate replay arn:aws:sqs": f"{ACCOUNT}; test_sqs_dead_letters.py runs it with ministack",
    "sysctl -w": "changes the machine, as root",
    "echo net.core": "changes the machine, as root",
    "wg-quick up": "changes the machine, as root; test_wireguard.py has a stock client",
    "ping": "needs the tunnel of wg-quick; test_wireguard.py does it",
    "echo hello | nc": "needs the tunnel of wg-quick; test_wireguard.py does it",
    "coap-client": "goes on for 30 s; test_coap.py runs the example",
    "python examples/coap-observe/notify.py": "needs who observes; test_coap.py runs the example",
    "cdk synth": "needs node; tests/cdk has what it writes",
    "pip install -e . pytest && pytest": "needs a package index; test_write_a_destination.py runs the tests",
    "Parameters:": "a part of a template, without its function and role; test_cloudformation.py has whole ones",
}
"""The beginnings of commands and blocks that are not run, with the reason. Everything else is run."""

KEY = r"[A-Za-z0-9+/]{43}="
APPROVAL = """\
require_approval: true
listeners: [{ name: decoder, bind: "127.0.0.1:2048" }]
packet_sources:
  - name: replies
    listener_name: decoder
    sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }
"""
LETTERS = """\
listeners: [{ name: decoder, bind: "127.0.0.1:2048" }]
packet_sources:
  - name: replies
    listener_name: decoder
    sns_topic_source: { topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }
    egress_networks: [127.0.0.0/8]
    dead_letter_queue_arn: file:dead.ndjson
"""
LETTER = (
    '{"PacketSource": "replies", "Listener": "decoder", "MessageId": "1", "Index": 0, "Reason": "RemoteDenied", '
    '"Detail": "", "At": "2026-06-09T10:00:00.123Z", '
    '"Entry": {"Data": "AQID", "Remote": {"Address": "127.0.0.1", "Port": 9}}}'
)
DECODER = 'listeners: [{ name: decoder, bind: "127.0.0.1:2048" }]\n'


class Supposed(NamedTuple):
    """What a page supposes, and what a user sees after it.

    `own`: what a reader replaces. `starts`: the configuration that is there before a command. `first`: what has
    happened before a command, in a shell. `after`: what is done after one, with its output and its errors. `printed`:
    what commands that go on have printed at the end of the page.
    """

    own: Mapping[str, str] = {}
    starts: Mapping[str, str] = {}
    first: Mapping[str, str] = {}
    after: Mapping[str, "Callable[[Page, str, str], None]"] = {}
    printed: tuple[str, ...] = ()


class Page:
    """A page that is being read."""

    def __init__(self, name: str, terminal: Terminal, top: Path) -> None:
        self.name = name
        self.terminal = terminal
        self.supposed = PAGES_SUPPOSE.get(name, Supposed())
        self.own = dict(self.supposed.own)
        self.going: list[Process] = []
        self.printed = ""
        self.closing = contextlib.ExitStack()
        self.checks: list[Callable[[], bool]] = []
        self._top = top
        self._gateways = 0
        self._new_folder()
        terminal.environment |= {
            "PATH": f"{PROGRAM.parent}:{terminal.environment['PATH']}",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }

    def read(self, block: Block) -> None:
        if why_not(block.text):
            return
        if block.language == "yaml":
            handler = "function:handlers/echo.py:handler" if "def handler" in self._python() else None
            self.start(configuration(block._replace(text=self.filled(block.text)), handler), block)
        elif block.language == "python":
            self._program(self.filled(block.text))
        else:
            before = ""
            for command, shown in steps(block):
                if re.match(r"(cd|export) ", command):
                    before += f"{command}\n"
                elif not why_not(command):
                    self._command(before, command, shown if block.language == "console" else None)

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{place}: {error}") from None

    def start(self, text: str, block: Block) -> None:
        """A gateway with this configuration, in a folder of its own."""
        self.stop()
        self._new_folder()
        folder = self.terminal.directory
        (folder / "sluicegate.yaml").write_text(text)
        write_files(block, folder)
        self.terminal.environment |= installed(folder)
        self._go_on("sluicegate run sluicegate.yaml")

    def stop(self) -> None:
        """Ctrl-C in each terminal."""
        for process in self.going:
            os.kill(program_of(process.pid), signal.SIGINT)
        ended = [(process.wait(), process.stderr.text) for process in self.going]
        self.printed += "".join(process.stdout.text for process in self.going)
        self.going.clear()
        assert [said for code, said in ended if code != 0] == []

    def filled(self, text: str) -> str:
        """With what a reader fills in."""
        for shown, own in self.own.items():
            text = text.replace(shown, own)
        return re.sub(r"sudo (-u \S+ )?", "", text).replace("/etc/sluicegate.yaml", "sluicegate.yaml")

    def _python(self) -> str:
        return "".join(one.text for one in blocks("python", page=self.name))

    def _new_folder(self) -> None:
        self._gateways += 1
        folder = self.terminal.directory = self._top / f"copy{self._gateways}"
        folder.mkdir()
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.db*"))
        shutil.copy(ROOT / "Makefile", folder)
        (folder / ".venv").symlink_to(sys.prefix)
        with (folder / "examples/aws/sluicegate.yaml").open("a") as file:
            file.write(LOCAL)

    def _program(self, text: str) -> None:
        name = re.match(r"# ([\w/.-]+)\n", text)
        if name:
            write(self.terminal.directory / name[1], text)
            return
        done = self.terminal.run(f"{sys.executable} -", stdin=text)
        assert (done.returncode, done.stderr) == (0, "")

    def _command(self, before: str, command: str, shown: str | None) -> None:
        for start, text in self.supposed.starts.items():
            if command.startswith(start):
                self.start(text + LOCAL, Block(self.name, 0, "yaml", text))
        for start, script in self.supposed.first.items():
            if command.startswith(start):
                done = self.terminal.run(self.filled(script))
                assert done.returncode == 0, done.stderr
        if goes_on(command):
            if command.startswith("sluicegate run "):
                self.stop()
            self._go_on(command)
            return
        done = self.terminal.run(self.filled(f"set -eu\n{before}{command}"))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if found := re.search(r"\bsg_[\w-]+", done.stdout):
            self.own["sg_…"] = found[0]
        if shown is not None:
            assert masked(done.stdout + done.stderr).startswith(masked(shown)), command
        for start, work in self.supposed.after.items():
            if command.startswith(start):
                work(self, done.stdout, done.stderr)

    def _go_on(self, command: str) -> None:
        """In a terminal of its own, until the page ends."""
        process = self.terminal.start(command.replace("make ", "make -o setup "))
        self.going.append(process)
        if "listen" in command:
            process.stderr.wait(
                lambda lines: any("listening on" in one for one in lines), "word that it listens"
            )
        else:
            process.stdout.wait(lambda lines: any('"GatewayStarted"' in one for one in lines), "a gateway")


def program_of(pid: int) -> int:
    """The program that `make` runs; else the process itself."""
    if Path(f"/proc/{pid}/comm").read_text() != "make\n":
        return pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def steps(block: Block) -> list[tuple[str, str]]:
    """The commands of a block, each with what it prints."""
    text = block.text.replace("\\\n", " ")
    if block.language == "sh":
        return [(re.sub(r" +# .*", "", line), "") for line in text.splitlines() if line]
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M)
    assert found, block.place
    return [(re.sub(r" +# .*", "", command), shown) for command, shown in found]


def why_not(text: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if text.startswith(start)), None)


def goes_on(command: str) -> bool:
    """True if it runs until somebody stops it."""
    found = re.match(r"(?:.*/)?sluicegate (run|dev|tail|listen)\b|make run", command)
    return found is not None and "--count" not in command and "--timeout" not in command


def masked(text: str) -> str:
    """Keys are different each time."""
    return re.sub(rf"(= )(?:{KEY}|\(shown this once\))", r"\1KEY", text)


# What pages suppose


def let_in(page: Page, printed: str, said: str) -> None:
    """The reader writes the lines into the file, and the peer's client shakes hands."""
    file = page.terminal.directory / "sluicegate.yaml"
    lines = [line for line in said.splitlines() if line.startswith("    ")]
    file.write_text(
        file.read_text().replace("    destinations:\n", "\n".join([*lines, "    destinations:\n"]), 1)
    )
    gateway = page.going[0]
    gateway.signal(signal.SIGHUP)
    gateway.stdout.wait(lambda lines: any('"Reloaded"' in one for one in lines), "a reload")
    (private,) = re.findall(rf"PrivateKey = ({KEY})", printed)
    (gateway_key,) = re.findall(rf"PublicKey = ({KEY})", printed)
    client = Client(place=page.terminal.place)
    page.closing.callback(client.close)
    tunnel = Tunnel(client, ("127.0.0.1", 51820), gateway_key, private).connect()
    page.own["D2ke7vUT1bwb0YjGpe6hqbSVOKBeqR0871LocHYlt0Y="] = tunnel.public_key
    tunnel.send(udp_in_ip(("10.60.0.2", 5000), ("10.60.0.1", 5683), b"hello"))
    assert tunnel.receive()[28:].rstrip(b"\0") == b"hello"  # WireGuard pads
    # The pushes that follow, one by the command and one by SNS.
    page.checks.append(
        lambda: [tunnel.receive()[28:].rstrip(b"\0") for _ in range(2)] == 2 * [b"good morning"]
    )


def name_the_key(page: Page, printed: str, said: str) -> None:
    page.own["sluicegate.yaml ID"] = f"sluicegate.yaml {printed.splitlines()[-1].split()[0]}"


PAGES_SUPPOSE = {
    "README.md": Supposed(
        printed=("127.0.0.1:2048 5 bytes: 68 65 6c 6c 6f", *2 * ["127.0.0.1:2048 4 bytes: 01 02 03 04"])
    ),
    "docs/functions.md": Supposed(),
    "docs/api.md": Supposed(
        starts={
            "sudo -u sluicegate sluicegate sources approve": APPROVAL,
            "sudo sluicegate keys create": APPROVAL,
            "sluicegate keys create": DECODER,
            "sluicegate sources list": APPROVAL,
        },
        after={"sluicegate keys list": name_the_key},
    ),
    "docs/cloudformation.md": Supposed(
        own={
            "sluicegate cfn bootstrap": "SLUICEGATE_API_KEY=sg_… sluicegate cfn bootstrap",
            "service-token ARN": "service-token arn:aws:lambda:us-east-1:111122223333:function:sluicegate",
        },
        starts={"sluicegate keys create": DECODER},
    ),
    "docs/sns-endpoint.md": Supposed(starts={"sluicegate keys create": DECODER}),
    "docs/packet-sourcing.md": Supposed(
        own={"cancel 12": "cancel 1"},
        starts={
            "sluicegate send --to 198.51.100.7": LETTERS,
            "sluicegate replay dead": LETTERS,
            "sluicegate replay letters": LETTERS,
        },
        first={
            "sluicegate replay dead": "sluicegate send --to 192.0.2.1:9 --data x || test -s dead.ndjson",
            "sluicegate replay letters": f"echo '{LETTER}' > letters.ndjson",
        },
    ),
    "docs/packets-from-aws.md": Supposed(printed=("127.0.0.1:2048 8 bytes: 66 72 6f 6d 20 41 57 53",)),
    "docs/wireguard.md": Supposed(after={"sluicegate peers add phone": let_in}),
    "docs/templates.md": Supposed(
        own={"cdk.out/EchoApp": f"{ROOT}/tests/cdk/cdk.out/Listener"},
    ),
}
RUN = sorted({one.page for one in blocks("sh", "console", "python", "yaml")})


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs(name: str, terminal: Terminal, tmp_path: Path) -> None:
    page = Page(name, terminal, tmp_path)
    with page.closing:
        page.closing.callback(page.stop)
        for block in blocks("sh", "console", "python", "yaml", page=name):
            with page.at(block.place):
                page.read(block)
        page.stop()
        assert all(check() for check in page.checks)
    for line in page.supposed.printed:
        assert page.printed.count(line) >= page.supposed.printed.count(line), page.printed


def test_what_is_not_run_is_in_a_page() -> None:
    shown = [command for block in blocks("sh", "console") for command, _ in steps(block)]
    shown += [block.text for block in blocks("yaml", "python")]
    assert [start for start in NOT_RUN if not any(one.startswith(start) for one in shown)] == []


def test_targets_of_make_exist() -> None:
    """Also of those that take too long to be run."""
    named = {
        command.split()[1]
        for block in blocks("sh")
        for command, _ in steps(block)
        if command.startswith("make ")
    }
    for target in named:
        done = subprocess.run(["make", "-n", "-o", "setup", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
