"""The real gateway as a process, its users' sockets, and network namespaces to put both in."""

import contextlib
import ctypes
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import boto3  # type: ignore[import-untyped]
import httpx
from botocore.config import Config  # type: ignore[import-untyped]
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from warm import CLONE_NEWNET, PROGRAM, Fork, forks

from sluicegate.cli import main
from sluicegate.cli.credentials import choose
from waiting import HANG_SECONDS
from waiting import wait_until as until

_T = TypeVar("_T")

TOPIC = "arn:aws:sns:us-east-1:000000000000:replies"
LOOPBACK = '[127.0.0.0/8, "::1/128"]'

ECHO = """
def handler(event, context):
    return {"Replies": [{"Tag": m["Tag"], "Data": m["Data"]} for m in event["Messages"]]}
"""

SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def source_of(listener: str, networks: str = LOOPBACK, topic: str = f'{{ topic_arn: "{TOPIC}" }}') -> str:
    """The part of a configuration with a PacketSource, `replies`; lines with more of its settings may follow."""
    return f"""
packet_sources:
  - name: replies
    listener_name: {listener}
    sns_topic_source: {topic}
    egress_networks: {networks}
"""


def process_exists(pid: int) -> bool:
    """False for a zombie too: nothing of its program runs any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Place(Protocol):
    """Where sockets and processes are made."""

    def run(self, work: Callable[[], _T]) -> _T: ...

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        """The command that runs `command` there."""
        ...


class Host:
    """The machine as it is."""

    def run(self, work: Callable[[], _T]) -> _T:
        return work()

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        return command


HOST = Host()


class Netns:
    """A network namespace. What is made inside of `run`, sockets and processes, stays in it."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.name = f"sluice-{os.getpid()}-{next(self._numbers)}"
        self._files = Path("/etc/netns", self.name)
        _ip("netns", "add", self.name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        self.ip("link", "set", "lo", "up")

    @staticmethod
    def missing() -> str | None:
        """Why there can be none, if there can be none."""
        if shutil.which("ip") is None:
            return "network namespaces need the program `ip` (iproute2)"
        return None if os.geteuid() == 0 else "network namespaces need root"

    def run(self, work: Callable[[], _T]) -> _T:
        return self._thread.submit(work).result()

    def inside(self, command: Sequence[str | Path]) -> Sequence[str | Path]:
        # The thread is in the namespace. Programs that see its own /etc/resolv.conf need ip-netns(8).
        return ["ip", "netns", "exec", self.name, *command] if self._files.exists() else command

    @property
    def file(self) -> Path:
        """What setns(2) takes."""
        return Path("/var/run/netns", self.name)

    def ask(self, name_server: str) -> None:
        """Programs that are started from now on find this name server in /etc/resolv.conf."""
        self._files.mkdir(parents=True, exist_ok=True)
        (self._files / "resolv.conf").write_text(f"nameserver {name_server}\n")

    def ip(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def close(self) -> None:
        self._thread.shutdown()
        _ip("netns", "del", self.name)
        shutil.rmtree(self._files, ignore_errors=True)

    def _enter(self) -> None:
        with self.file.open() as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12
_SHARES = itertools.cycle(range(20_000 + 1_000 * _WORKER, 21_000 + 1_000 * _WORKER, 100))
"""Ports that are assigned to the Listeners of a gateway: tests that run side by side take none of each other's."""


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free a moment ago, outside of the range that the kernel assigns from."""
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Lines:
    """What a process prints, line by line, as it comes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._more = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._more:
                self._lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def all(self) -> list[str]:
        with self._more:
            return list(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.all)

    def wait(self, enough: Callable[[list[str]], _T], what: str) -> _T:
        """The first true value of `enough`; fails when the stream ends without it."""
        with self._more:
            deadline = time.monotonic() + HANG_SECONDS
            while not (value := enough(self._lines)):
                shown = "\n".join(self._lines[-30:])
                assert not self._ended, f"the process ended before {what}:\n{shown}"
                assert self._more.wait(deadline - time.monotonic()), f"no {what}:\n{shown}"
            return value

    def join(self) -> None:
        self._thread.join()


class Process:
    """A program with its output, stopped by its id."""

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        place: Place = HOST,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}

        def spawn() -> "subprocess.Popen[str]":
            return subprocess.Popen(
                place.inside(command),
                cwd=directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        plain = type(place) in (Host, Netns) and place.inside(command) is command
        # Not inside of the place: what has the program loaded would stay in it, and so would later forks.
        self._process: subprocess.Popen[str] | Fork = (
            Fork(command, directory, variables, getattr(place, "file", None))
            if plain and forks(command, variables)
            else place.run(spawn)
        )
        self.stdout = Lines(self._process.stdout)
        self.stderr = Lines(self._process.stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once the process has ended and everything it printed was read."""
        code = self._process.wait(HANG_SECONDS)
        self.stdout.join()
        self.stderr.join()
        return code

    def close(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.stdout.join()
        self.stderr.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


class Metrics:
    """`/metrics` at a moment."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> int:
        """Sum of the samples of `sluicegate_NAME` that have these labels; 0 when there is none."""
        return sum(
            int(sample.value)
            for sample in self._samples
            if sample.name in (f"sluicegate_{name}", f"sluicegate_{name}_total")
            and labels.items() <= sample.labels.items()
        )

    def by(self, label: str, name: str, **labels: str) -> dict[str, int]:
        """The samples of `sluicegate_NAME` that have these labels and are not 0, by `label`."""
        found = {
            sample.labels[label]
            for sample in self._samples
            if sample.name == f"sluicegate_{name}_total" and labels.items() <= sample.labels.items()
        }
        return {key: count for key in found if (count := self.value(name, **{label: key}, **labels))}


class Gateway:
    """`sluicegate run` on a configuration in `directory`.

    `text` has the Listeners and PacketSources; region, state, API and SNS endpoint are added. A Listener
    whose `bind` names no port gets one that is free, and keeps it. With `aws`, the endpoint of AWS's services,
    there is no SNS endpoint of its own; `environment` then has the credentials.
    """

    def __init__(
        self,
        directory: Path,
        text: str,
        handlers: Mapping[str, str] | None = None,
        place: Place = HOST,
        *,
        region: str = "us-east-1",
        aws: str | None = None,
        reconcile_seconds: int = 300,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.place = place
        self.environment = dict(environment or {})
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.sns_url = f"http://127.0.0.1:{free_port()}"
        self.file = directory / "gateway.yaml"
        low = next(_SHARES)
        self.file.write_text(
            f"region: {region}\n"
            "state: ./sluicegate.db\n"
            f"api: {{ bind: {self.api_url.removeprefix('http://')} }}\n"
            + (
                f"aws: {{ endpoint_url: '{aws}', reconcile_seconds: {reconcile_seconds} }}\n"
                if aws
                else f"sns: {{ bind: {self.sns_url.removeprefix('http://')} }}\n"
            )
            + f"{text}\n"
            # A share of its own: else another test run could take a port while its gateway is restarted.
            f"ports: {low}-{low + 99}\n"
        )
        for name, source in (handlers or {}).items():
            (directory / f"{name}.py").write_text(source)
        self._process: Process | None = None
        self._http: httpx.Client | None = None
        self._sns: Any = None

    # Life

    @property
    def process(self) -> Process:
        assert self._process is not None, "it was not started"
        return self._process

    def spawn(self) -> Process:
        """Start the process without waiting for anything."""
        self._process = Process([PROGRAM, "run", self.file], self.directory, self.place, self.environment)
        return self._process

    def start(self) -> "Gateway":
        self.spawn()
        try:
            self.event("GatewayStarted")
        except AssertionError as error:
            self.process.close()
            raise AssertionError(f"{error}\n{self.process.stderr.text}") from None
        answer = self.api("GET", "/healthz")
        assert answer.status_code == 200, answer.text
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.signal(number)
        code = self.process.wait()
        self._disconnect()
        return code

    def kill(self) -> None:
        """SIGKILL: nothing is drained, nothing is said."""
        self.process.close()
        self._disconnect()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None
        if self._sns is not None:
            self._sns.close()
            self._sns = None

    # Its file

    def edit(self, before: str, after: str) -> None:
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after))

    def bind_to_all(self, *urls: str) -> None:
        """Bind these of its endpoints to every address: then they ask for keys, also whoever comes over loopback."""
        for url in urls:
            port = url.rpartition(":")[2]
            self.edit(f"bind: 127.0.0.1:{port} ", f"bind: 0.0.0.0:{port} ")

    def open_to_everybody(self) -> None:
        """Let everybody on loopback do everything at the API, without a key."""
        port = self.api_url.rpartition(":")[2]
        self.edit(f"api: {{ bind: 127.0.0.1:{port} ", f"api: {{ local_access: admin, bind: 127.0.0.1:{port} ")

    # What it says

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.process.stdout.all]

    def named(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Events of this name with these fields, so far."""
        return _named(self.process.stdout.all, event, fields)

    def wait_for(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """The events of this name with these fields, once there are `count`."""

        def enough(lines: list[str]) -> list[dict[str, Any]] | None:
            found = _named(lines, event, fields)
            return found if len(found) >= count else None

        found = self.process.stdout.wait(enough, f"{count} {event} {fields or ''}")
        assert found is not None
        return found

    def event(self, event: str, **fields: object) -> dict[str, Any]:
        return self.wait_for(event, 1, **fields)[0]

    # Its interfaces

    def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        if self._http is None:
            self._http = httpx.Client(base_url=self.api_url, timeout=HANG_SECONDS, trust_env=False)
        http = self._http
        return self.place.run(lambda: http.request(method, path, json=body, headers=self.credentials))

    @property
    def credentials(self) -> dict[str, str]:
        """The headers that a command of the gateway's own user sends: its key is found by its file."""
        return choose(self.api_url, self.file, None).credentials.headers

    def metrics(self) -> Metrics:
        answer = self.api("GET", "/metrics")
        assert answer.status_code == 200
        return Metrics(answer.text)

    def address(self, listener: str | None = None) -> tuple[str, int]:
        """Address and port of a Listener (by default the first)."""
        items = self.api("GET", "/v1/listeners").json()["Items"]
        found = next(item for item in items if listener in (None, item["Name"]))
        return found["Address"], found["Port"]

    def port(self, listener: str | None = None) -> int:
        return self.address(listener)[1]

    def post(self, message: Any, source: str = "replies") -> dict[str, Any]:
        """Source a message through the REST API; the account of its entries."""
        answer = self.api("POST", f"/v1/packet-sources/{source}/messages", message)
        assert answer.status_code == 200, answer.text
        outcome: dict[str, Any] = answer.json()
        ended = outcome["Sent"] + outcome["Duplicates"] + len(outcome["Failures"])
        assert outcome["Entries"] == ended + outcome.get("Scheduled", 0)
        return outcome

    @property
    def sns(self) -> Any:
        """A real boto3 client of its SNS endpoint."""
        if self._sns is None:
            self._sns = boto3.client(
                "sns",
                endpoint_url=self.sns_url,
                region_name="us-east-1",
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(retries={"max_attempts": 1, "mode": "standard"}),
            )
        return self._sns

    def publish(self, message: Any, topic: str = TOPIC) -> str:
        """Publish a message through boto3; its MessageId."""
        answer = self.sns.publish(TopicArn=topic, Message=json.dumps(message))
        return str(answer["MessageId"])


def _named(lines: list[str], event: str, fields: Mapping[str, object]) -> list[dict[str, Any]]:
    events = (json.loads(line) for line in lines if f'"Event":"{event}"' in line)
    return [found for found in events if fields.items() <= found.items()]


def in_process(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """What `sluicegate ARGUMENTS` prints and how it ends, without a process: to start one is most of the work of a
    command that speaks to a gateway. Others run as processes, where a terminal, a folder or a signal is the subject."""
    done = CliRunner().invoke(main, list(map(str, arguments)), prog_name=PROGRAM.name)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def run_program(
    command: Sequence[str | Path],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    input: str = "",
    check: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run` does, for `sluicegate`: what it prints is kept, and it may take `HANG_SECONDS`."""
    variables = dict(os.environ if env is None else env)
    if not forks(command, variables):
        return subprocess.run(
            command,
            cwd=cwd,
            env=variables,
            input=input,
            check=check,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    with tempfile.TemporaryFile() as file:
        file.write(input.encode())
        file.seek(0)
        process = Fork(command, cwd or Path.cwd(), variables, stdin=file.fileno())
    out, err = process.communicate(HANG_SECONDS)
    done = subprocess.CompletedProcess(command, process.wait(), out, err)
    if check:
        done.check_returncode()
    return done


class Client:
    """A device: one UDP socket."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, place: Place = HOST) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = place.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self.socket.settimeout(HANG_SECONDS)
        # So that a busy machine does not lose what a test counts; root may go beyond the system's limit.
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((host, port))

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()[:2]
        return host, port

    @property
    def remote(self) -> dict[str, Any]:
        """`Remote` of a message to this client."""
        host, port = self.address
        return {"Address": host, "Port": port}

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self.socket.sendto(data, to)

    def receive(self) -> tuple[bytes, tuple[str, int]]:
        """The next datagram and where it came from."""
        data, address = self.socket.recvfrom(65_535)
        return data, (address[0], address[1])

    def receive_data(self, count: int) -> list[bytes]:
        return [self.receive()[0] for _ in range(count)]

    def waiting(self) -> list[bytes]:
        """Everything that has arrived by now."""
        found = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(65_535))
        self.socket.settimeout(HANG_SECONDS)
        return found

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def icmp_comes_back(host: str) -> bool:
    """True if a plain connected socket learns that nobody listens at a port of `host`."""
    with Client(host) as gone:
        dead = gone.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(dead)
        # On loopback the answer is there when `send` returns: this is patience, not a race.
        probe.settimeout(1)
        probe.send(b"")
        try:
            probe.recv(1)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return False


@contextlib.contextmanager
def clients(count: int, host: str = "127.0.0.1") -> Iterator[list[Client]]:
    """`count` devices."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(host)) for _ in range(count)]


def records(path: Path) -> list[dict[str, Any]]:
    """The packets that a `file:` Destination has written so far, whole lines only."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def wait_for_records(path: Path, count: int) -> list[dict[str, Any]]:
    """The packets in a Destination's file, once there are `count`."""

    def enough() -> list[dict[str, Any]] | None:
        found = records(path)
        return found if len(found) >= count else None

    found = until(enough, f"{count} packets are in {path.name}")
    assert found is not None
    return found


class Wire:
    """Every UDP datagram that leaves from `port` in a network namespace, by whatever interface."""

    ALL = 0x0003  # linux/if_ether.h, ETH_P_ALL
    OUTGOING = 4  # linux/if_packet.h, PACKET_OUTGOING

    def __init__(self, place: Netns, port: int) -> None:
        self._port = port
        self._socket = place.run(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(self.ALL))
        )
        self._socket.settimeout(HANG_SECONDS)

    def until(self, last: bytes) -> list[bytes]:
        """The payloads up to and with `last`, in the order in which they left."""
        seen: list[bytes] = []
        while last not in seen:
            packet, (_, _, kind, _, _) = self._socket.recvfrom(65_535)
            header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
            protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
            source_port = int.from_bytes(packet[header : header + 2], "big")
            if kind == self.OUTGOING and protocol == socket.IPPROTO_UDP and source_port == self._port:
                seen.append(packet[header + 8 :])
        return seen

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
