"""The formatter `coap` with stock peers: libcoap's client and aiocoap, over UDP and through WireGuard; and the example
that is observed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from harness import (
    HANG_SECONDS,
    HOST,
    Client,
    Gateway,
    Netns,
    Place,
    Process,
    until,
    wait_for_records,
)
from test_wireguard import FAR, GATEWAY, INNER, PORT, Site
from wireguard import StockPeer

from conftest import StartGateway

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples/coap-observe"
SERVER = (HERE / "coap_server.py").read_text()
BODY = bytes(range(256)) * 12
CONCURRENCY = 4
TOPIC = "arn:aws:sns:us-east-1:000000000000:notifications"
LIBCOAP = next(filter(None, map(shutil.which, ("coap-client", "coap-client-notls"))), None)
needs_libcoap = pytest.mark.skipif(LIBCOAP is None, reason="needs coap-client (libcoap3-bin)")


class Lan:
    """A gateway whose Destination has the formatter `coap`, as its clients see it."""

    def __init__(self, running: Gateway, place: Place, host: str, port: int, directory: Path) -> None:
        self.gateway = running
        self.place = place
        self.uri = f"coap://{host}:{port}"
        self._directory = directory

    def libcoap(self, path: str, *options: str) -> bytes:
        """What the client printed: the payload."""
        assert LIBCOAP is not None
        # -B: it gives up; -v 0: nothing but the payload.
        command = [LIBCOAP, "-v", "0", "-B", "30", *options, self.uri + path]
        done = self.place.run(
            lambda: subprocess.run(
                self.place.inside(command), capture_output=True, timeout=HANG_SECONDS, cwd=self._directory
            )
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def aiocoap(self, *steps: str) -> Process:
        pytest.importorskip("aiocoap")
        return Process([sys.executable, HERE / "coap_peer.py", self.uri, *steps], self._directory, self.place)


def config(protocol: str, handler: str, topic: str, housekeeping: str = "") -> str:
    return f"""
listeners:
  - name: devices
    {protocol}
    {housekeeping}
    destinations:
      - name: server
        destination_arn: function:{handler}.py:handler
        formatter: coap
        batching: {{ count: 1 }}
        arguments: {{ Concurrency: {CONCURRENCY} }}
      - {{ name: raw, formatter: hex, destination_arn: "file:raw.ndjson", batching: {{ count: 1 }} }}
packet_sources:
  - name: notifications
    listener_name: devices
    sns_topic_source: {{ topic_arn: "{topic}" }}
    egress_networks: [127.0.0.0/8]
"""


class Starts:
    """Starts gateways over one protocol."""

    def __init__(self, protocol: str, start: StartGateway, directory: Path, stack: ExitStack) -> None:
        self._protocol, self._start = protocol, start
        self._directory, self._stack = directory, stack
        self.housekeeping = ""
        """The setting `coap` of the Listener."""

    def __call__(self, handler: str = "server", **handlers: str) -> Lan:
        texts = handlers or {"server": SERVER}
        if self._protocol == "udp":
            udp = config("bind: 127.0.0.1", handler, TOPIC, self.housekeeping)
            place = self._stack.enter_context(closing(Netns())) if self.housekeeping else HOST
            running = self._start(udp, texts, place=place)
            return Lan(running, place, *running.address(), self._directory)
        site = Site(self._directory, self._stack)
        peer = site.peer((f"{INNER}/32",))
        wg = f"""protocol: wg
    bind: "{GATEWAY}:{PORT}"
    decapsulated_delivery: true
    peers: [{{ public_key: "{peer.public_key}", allowed_ips: ["{INNER}/32"] }}]"""
        running = self._start(config(wg, handler, TOPIC, self.housekeeping), texts, place=site.gateway_side)
        key = running.api("GET", "/v1/listeners").json()["Items"][0]["WireGuardPublicKey"]
        peer.connect((GATEWAY, PORT), key, ["10.60.0.0/24"])
        return Lan(running, site.peer_side, FAR, 5683, self._directory)


@pytest.fixture(params=["udp", pytest.param("wg", marks=pytest.mark.netns)])
def starts(request: pytest.FixtureRequest, gateway: StartGateway, tmp_path: Path) -> Iterator[Starts]:
    missing = Netns.missing() or StockPeer.missing() if request.param == "wg" else None
    if missing:
        pytest.skip(missing)
    with ExitStack() as stack:
        yield Starts(request.param, gateway, tmp_path, stack)


def answers(peer: Process, count: int) -> dict[str, Any]:
    """What the steps of `coap_peer.py` gave."""
    said = peer.stdout.wait(lambda lines: lines if len(lines) >= count else None, f"{count} lines of aiocoap")
    return {line["Step"]: line["Answer"] for line in map(json.loads, said)}


@needs_libcoap
def test_stock_clients_get_and_put_in_blocks_and_get_separate_answers(starts: Starts, tmp_path: Path) -> None:
    lan = starts()
    steps = ("con", "non", "separate", "block1", "block2")
    with closing(lan.aiocoap(*steps)) as peer:
        body = (b"0123456789abcdef" * 61)[:-5]
        (tmp_path / "body").write_bytes(body)
        assert lan.libcoap("/hello").strip() == b"hello"
        assert lan.libcoap("/hello", "-N").strip() == b"hello"
        assert lan.libcoap("/separate").strip() == b"later"
        lan.libcoap("/store", "-m", "put", "-b", "64", "-f", "body")
        assert lan.libcoap("/store", "-b", "128").strip() == body
        assert lan.libcoap("/store").strip() == body
        got = answers(peer, len(steps))
        assert peer.wait() == 0, peer.stderr.text
    hello = {"Code": "2.05", "Payload": b"hello".hex()}
    assert (got["con"], got["non"]) == (hello, hello)
    assert got["separate"] == {"Code": "2.05", "Payload": b"later".hex()}
    assert got["block1"]["Code"] == "2.04"
    assert got["block2"] == {"Code": "2.05", "Payload": BODY.hex()}
    assert lan.gateway.metrics().by("reason", "destination_dropped_packets") == {}


class Loss:
    """What comes from the server's port is lost in the clients' namespace, until this ends."""

    def __init__(self, lan: Lan) -> None:
        self._place = lan.place
        port = lan.uri.rpartition(":")[2]
        self._nft("add table inet loss")
        self._nft("add chain inet loss input { type filter hook input priority 0; }")
        self._nft(f"add rule inet loss input udp sport {port} counter drop")

    @property
    def count(self) -> int:
        return int(self._nft("list table inet loss").partition("packets ")[2].split()[0])

    def end(self) -> None:
        self._nft("delete table inet loss")

    def _nft(self, command: str) -> str:
        run = ["nft", *command.split(" ")]
        return self._place.run(lambda: subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def kept(starts: Starts) -> Starts:
    """Starts gateways with housekeeping, in namespaces of their own."""
    missing = Netns.missing() or (None if shutil.which("nft") else "needs nft (nftables)")
    if missing:
        pytest.skip(missing)
    starts.housekeeping = "coap: { deduplicate: true, acknowledge_after: 0.5 }"
    return starts


def requests(running: Gateway) -> list[str]:
    """Confirmable requests that were delivered, in hex. The Destination `raw` has what `server` has."""
    packets = wait_for_records(running.directory / "raw.ndjson", 1)
    return [packet["Data"] for packet in packets if packet["Data"][0] == "4" and packet["Data"][2] == "0"]


@needs_libcoap
@pytest.mark.netns
def test_lost_acknowledgements_and_answers_of_a_slow_handler_lead_to_one_delivery(
    kept: Starts, tmp_path: Path
) -> None:
    lan = kept()
    metrics = lan.gateway.metrics

    def libcoap(*options: str) -> Process:
        assert LIBCOAP is not None
        return stack.enter_context(
            closing(Process([LIBCOAP, "-v", "0", "-B", "60", *options], tmp_path, lan.place))
        )

    with ExitStack() as stack:
        assert lan.libcoap("/hello").strip() == b"hello"
        slow = libcoap("-w", lan.uri + "/slow")
        other = stack.enter_context(closing(lan.aiocoap("slow", "non")))
        until(lambda: metrics().value("coap_acknowledgements") == 2, "both are acknowledged")
        loss = Loss(lan)
        put = libcoap("-m", "put", "-e", "once", lan.uri + "/store")
        until(lambda: loss.count >= 1, "the acknowledgement of the PUT is lost")
        stored = loss.count
        (lan.gateway.directory / "answer").touch()
        until(lambda: loss.count >= stored + 2, "the slow answers are lost")
        loss.end()
        for peer in (put, slow):
            assert peer.wait() == 0, peer.stderr.text
        assert slow.stdout.text.strip() == "hello"
        assert lan.libcoap("/store").strip() == b"once"
        got = answers(other, 2)
    assert [got[step]["Payload"] for step in ("slow", "non")] == [b"hello".hex()] * 2
    until(
        lambda: metrics().value("rejected_packets", reason="CoapAcknowledged") == 2,
        "the slow answers are acknowledged",
    )
    # hello, /slow twice, PUT and GET.
    assert len(requests(lan.gateway)) == 5
    assert metrics().value("rejected_packets", reason="CoapRepeated") >= 1
    assert metrics().value("coap_answered_again") >= 1
    assert metrics().value("coap_retransmissions") >= 2
    assert metrics().value("coap_unacknowledged_answers") == 0


class Example:
    """examples/coap-observe on a gateway of the test's: its handler, its notifier, its table."""

    def __init__(self, lan: Lan, directory: Path) -> None:
        self._lan = lan
        self._table = directory / "observers.db"

    def notify(self, *options: str) -> int:
        """Run the notifier; how many it notified."""
        command = [sys.executable, EXAMPLE / "notify.py", "--endpoint", self._lan.gateway.sns_url, *options]
        done = Process(command, EXAMPLE, self._lan.gateway.place, {"OBSERVERS": str(self._table)})
        try:
            assert done.wait() == 0, done.stderr.text
            return int(done.stdout.text.removeprefix("notified "))
        finally:
            done.close()


@pytest.fixture
def example(starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lan, Example]:
    text = (EXAMPLE / "handlers/clock.py").read_text()
    table = f"TABLE = Path({str(tmp_path / 'observers.db')!r})\n"
    before = next(line for line in text.splitlines(keepends=True) if line.startswith("TABLE = "))
    lan = starts("clock", clock=text.replace(before, table))
    return lan, Example(lan, tmp_path)


@needs_libcoap
def test_stock_clients_observe_and_cancel(example: tuple[Lan, Example], tmp_path: Path) -> None:
    lan, clock = example
    assert LIBCOAP is not None
    with ExitStack() as stack:
        peer = stack.enter_context(closing(lan.aiocoap("observe")))
        peer.stdout.wait(lambda lines: len(lines) >= 1, "the registration")
        assert json.loads(peer.stdout.all[0]) == {"Registered": True}
        # Cancels by a request after its 5 s.
        watch = [LIBCOAP, "-v", "0", "-w", "-s", "5", lan.uri + "/time"]
        libcoap = stack.enter_context(closing(Process(watch, tmp_path, lan.place)))
        libcoap.stdout.wait(lambda lines: len(lines) >= 1, "the registration")
        assert clock.notify("--confirmable") == 2
        libcoap.stdout.wait(lambda lines: len(lines) >= 2, "a notification")
        peer.stdout.wait(lambda lines: len(lines) >= 2, "a notification")
        assert libcoap.wait() == 0, libcoap.stderr.text
        assert clock.notify() == 1, "libcoap's client observes no more"
        peer.stdout.wait(lambda lines: len(lines) >= 4, "that it has no use for more")
        # The next one is answered by a reset, and the handler forgets the observer.
        assert clock.notify("--confirmable") == 1
        until(lambda: clock.notify("--confirmable") == 0, "nobody observes any more")
    resets = [
        packet
        for packet in wait_for_records(lan.gateway.directory / "raw.ndjson", 2)
        if packet["Data"][:4] == "7000"
    ]
    assert resets, "it was cancelled by a reset"


def test_malformed_messages_are_counted_and_never_answered(gateway: StartGateway) -> None:
    running = gateway(config("bind: 127.0.0.1", "server", TOPIC), {"server": SERVER})
    malformed = {
        "CoapTruncated": ["4001", "40010001d0", "40010001e001", "400100010d", "41010001"],
        "CoapVersion": ["00010001", "80010001", "c0010001"],
        "CoapTokenLength": [f"4{length:x}010001" + "00" * 300 for length in range(9, 16)],
        "CoapEmptyCode": ["4000000100", "6000000100", "7000000100", "61000001aa", "71000001aa"],
        "CoapOptionDelta": ["40010001f0", "60450001f0", "70450001f0"],
        "CoapOptionLength": ["400100010f", "604500010f"],
        "CoapOptionNumber": ["40010001e0fef3", "40010001e0fef210"],
        "CoapNoPayload": ["40010001ff", "60450001ff", "70450001ff"],
    }
    packets = [packet for some in malformed.values() for packet in some]
    with Client() as client:
        for packet in packets:
            client.send(bytes.fromhex(packet), running.address())
        # The other Destination has them all; a request is still answered, and that is the first thing that is said.
        client.send(bytes.fromhex("41010007aab568656c6c6f"), running.address())
        assert client.receive() == (bytes.fromhex("61450007aaff") + b"hello", running.address())
        assert client.waiting() == []
    raw = wait_for_records(running.directory / "raw.ndjson", len(packets) + 1)
    assert [packet["Data"].lower() for packet in raw[:-1]] == packets
    expected = {reason: len(some) for reason, some in malformed.items()}
    metrics = running.metrics()
    assert metrics.by("reason", "destination_dropped_packets", destination="server") == expected
    assert metrics.by("reason", "destination_dropped_packets", destination="raw") == {}


def test_a_malformed_answer_fails_alone_and_says_which_field(gateway: StartGateway) -> None:
    text = config("bind: 127.0.0.1", "server", TOPIC)
    answer = """
import json

def handler(event, context):
    tag, asked = event["Messages"][0]["Tag"], json.loads(event["Messages"][0]["Data"])
    good = {"Type": "ack", "Code": "2.04", "MessageId": asked["MessageId"], "Token": asked["Token"]}
    wrong = [{**good, "Code": "2.99"}, {**good, "Options": [{"Number": 12}, {"Number": 70000}]}]
    return {"Replies": [{"Tag": tag, "Data": json.dumps(one)} for one in (*wrong, good)]}
"""
    running = gateway(text, {"server": answer})
    with Client() as client:
        client.send(bytes.fromhex("41020007aa"), running.address())
        assert client.receive()[0] == bytes.fromhex("61440007aa")
    failed = running.wait_for("ReplyFailed", 2)
    assert [event["Reason"] for event in failed] == ["MalformedData"] * 2
    assert failed[0]["Detail"].startswith("Code is neither")
    assert failed[1]["Detail"].startswith("Options[1].Number is not")


def test_sourced_entries_in_coap(gateway: StartGateway) -> None:
    running = gateway(config("bind: 127.0.0.1", "server", TOPIC), {"server": SERVER})
    with Client() as client:
        entry = {"Formatter": "coap", "Remote": client.remote}
        message = {"Type": 0, "Code": "0.02", "MessageId": 1, "Options": [{"Number": 11, "Value": "b24="}]}
        outcome = running.post(
            {
                "Messages": [
                    {**entry, "Data": json.dumps(message)},
                    {**entry, "Data": json.dumps({**message, "Token": "!"})},
                    {**entry, "Data": message},
                    {**entry, "Data": json.dumps({"Type": 2, "Code": "0.00", "MessageId": 258, "Token": ""})},
                ]
            },
            "notifications",
        )
        assert [(failure["Index"], failure["Reason"]) for failure in outcome["Failures"]] == [
            (1, "MalformedData"),
            (2, "MalformedData"),
        ]
        assert outcome["Failures"][0]["Detail"].startswith("Token is not")
        assert sorted(client.receive_data(2)) == sorted(
            [bytes.fromhex("40020001b26f6e"), bytes.fromhex("60000102")]
        )
        # What an answer is taken from: the text of the request itself.
        client.send(bytes.fromhex("40010007"), running.address())
        client.receive()
