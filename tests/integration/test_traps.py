"""The traps of UDP on Linux (`docs/architecture.md`, "I/O"), each met by the real gateway."""

import base64
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import (
    ECHO,
    HOST,
    LOOPBACK,
    Client,
    Gateway,
    Netns,
    Place,
    Wire,
    clients,
    free_port,
    process_exists,
    records,
    until,
    wait_for_records,
)

from conftest import StartGateway
from sluicegate.functions._keeper_main import below

NOT_STARTED = 4
TOPIC = '{ topic_arn: "arn:aws:sns:us-east-1:000000000000:replies" }'


def config(bind: str, destinations: str, networks: str = LOOPBACK) -> str:
    """One Listener with `destinations` (YAML items in flow style) and one PacketSource."""
    lines = "".join(f"      - {line.strip()}\n" for line in destinations.strip().splitlines())
    return (
        f'listeners:\n  - name: decoder\n    bind: "{bind}"\n    destinations:\n{lines}'
        "packet_sources:\n"
        f"  - {{ name: replies, listener_name: decoder, egress_networks: {networks}, "
        f"sns_topic_source: {TOPIC} }}\n"
    )


PACKETS = "{ name: packets, destination_arn: 'file:packets.ndjson', batching: { count: 1 } }"
ECHOING = "{ name: echo, destination_arn: 'function:echo.py:handler', batching: { count: 1 } }"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ICMP errors


def wait_for_icmp(running: Gateway) -> None:
    """The trap was there: errors came back to this gateway's socket."""
    until(lambda: running.metrics().value("icmp_errors") > 0, "ICMP errors come back")


@pytest.mark.usefixtures("icmp")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_replies_reach_live_clients_between_dead_ones(gateway: StartGateway, host: str) -> None:
    """The batch is full, and the handler called, only when every second client has gone."""
    batch = (
        "{ name: echo, destination_arn: 'function:echo.py:handler', "
        "batching: { count: 400, timeout_in_seconds: 300 } }"
    )
    running = gateway(config(host, batch), {"echo": ECHO})
    listener = running.address()
    with clients(200, host) as live:
        for number, device in enumerate(live):
            with Client(host) as dead:
                dead.send(b"dead", listener)
            device.send(str(number).encode(), listener)
        for number, device in enumerate(live):
            assert device.receive() == (str(number).encode(), listener)
    metrics = running.metrics()
    assert metrics.value("destination_replies", destination="echo") == 400
    assert metrics.value("destination_replies_sent", destination="echo") == 400
    assert metrics.by("reason", "destination_replies_failed") == {}
    wait_for_icmp(running)


@pytest.mark.usefixtures("icmp")
def test_icmp_errors_do_not_stop_receiving(gateway: StartGateway) -> None:
    """A pending error must not fail the next receive either."""
    running = gateway(config("127.0.0.1", PACKETS))
    listener = running.address()
    with Client() as gone:
        dead = gone.remote
    with Client() as client:
        for n in range(50):
            assert running.post({"Data": "eA==", "Remote": dead})["Sent"] == 1
            client.send(str(n).encode(), listener)
        packets = wait_for_records(running.directory / "packets.ndjson", 50)
    assert [base64.b64decode(p["Data"]) for p in packets] == [str(n).encode() for n in range(50)]
    wait_for_icmp(running)


# The address that the client used


def check_source_address(running: Gateway, host: str, address: str, place: Place = HOST) -> None:
    """What reaches a client that spoke to `address` comes from there: reply, sourced by Tag, by Remote."""
    listener = (address, running.port())
    seen = len(records(running.directory / "packets.ndjson"))
    with Client(host, place=place) as client:
        client.send(b"hello", listener)
        assert client.receive() == (b"hello", listener)
        packet = wait_for_records(running.directory / "packets.ndjson", seen + 1)[-1]
        assert packet["Local"]["IpAddress"] == address
        assert packet["Remote"] == {"IpAddress": client.address[0], "Port": client.address[1]}
        running.post({"Tag": packet["Tag"], "Data": b64(b"by Tag")})
        assert client.receive() == (b"by Tag", listener)
        running.post({"Remote": packet["Remote"], "Data": b64(b"by Remote")})
        assert client.receive() == (b"by Remote", listener)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_answers_leave_from_the_address_that_the_client_used(gateway: StartGateway, bind: str) -> None:
    running = gateway(config(bind, f"{ECHOING}\n{PACKETS}"), {"echo": ECHO})
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1"):
        check_source_address(running, "127.0.0.1", address)
    if bind == "::":
        check_source_address(running, "::1", "::1")


@pytest.mark.netns
def test_answers_leave_from_the_ipv6_address_that_the_client_used(
    gateway: StartGateway, netns: Netns
) -> None:
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3"):
        netns.ip("address", "add", f"{address}/128", "dev", "lo", "nodad")
    text = config("::", f"{ECHOING}\n{PACKETS}", '["2001:db8::/32"]')
    running = gateway(text, {"echo": ECHO}, place=netns)
    for address in ("2001:db8::2", "2001:db8::3"):
        check_source_address(running, "2001:db8::1", address, netns)


# What is in use already


def not_started(running: Gateway) -> str:
    """Standard error of a gateway that must refuse to start."""
    process = running.spawn()
    assert process.wait() == NOT_STARTED
    assert running.named("GatewayStarted") == []
    assert "Traceback" not in process.stderr.text
    return process.stderr.text


@pytest.mark.parametrize(
    ("bind", "holder"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "::1")]
)
def test_a_udp_port_in_use_is_refused(gateway: StartGateway, bind: str, holder: str) -> None:
    with Client(holder) as other:
        port = other.address[1]
        # A socket that would share the port must not get a share of the packets either.
        other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        running = gateway(
            config(f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}", PACKETS), start=False
        )
        said = not_started(running)
        assert f"{running.file}:7:11: UDP port {port} of Listener decoder is in use" in said
        assert "choose another port" in said


def test_a_tcp_port_in_use_is_refused(gateway: StartGateway) -> None:
    for line, column, setting in ((3, 14, "api"), (4, 14, "sns")):
        running = gateway(config("127.0.0.1", PACKETS), start=False)
        url = running.api_url if setting == "api" else running.sns_url
        port = int(url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            said = not_started(running)
        assert f"{running.file}:{line}:{column}: 127.0.0.1:{port} is in use" in said
        assert f"{setting}.bind" in said


def test_a_second_gateway_on_the_same_state_is_refused(gateway: StartGateway) -> None:
    first = gateway(config("127.0.0.1", PACKETS))
    second = gateway(config("127.0.0.1", PACKETS), start=False)
    state = first.directory / "sluicegate.db"
    second.edit("./sluicegate.db", str(state))
    said = not_started(second)
    assert f"{second.file}:2:8: the state {state} is in use by another gateway" in said
    assert f"process {first.process.pid}" in said
    # The first one has not noticed.
    with Client() as client:
        assert first.post({"Data": "eA==", "Remote": client.remote})["Sent"] == 1
        assert client.receive() == (b"x", first.address())
    # And after a SIGKILL the state is free.
    first.kill()
    second.start()


# Drops that only the kernel knows of


def test_what_the_kernel_drops_is_counted(gateway: StartGateway) -> None:
    running = gateway(
        config("127.0.0.1", "{ name: packets, destination_arn: 'file:packets.ndjson' }"),
    )
    listener = running.address()
    with Client() as client:
        client.send(b"first", listener)
        wait_for_records(running.directory / "packets.ndjson", 1)
        running.process.signal(signal.SIGSTOP)
        # A signal is sent at once but taken later: the thread that receives must really stand still.
        until(lambda: all_stopped(running.process.pid), "every thread of the gateway stands still")
        sent = 1
        # Larger than what any socket buffer holds, in datagrams of which a few hundred fit.
        for _ in range(2_000):
            client.send(bytes(16_000), listener)
            sent += 1
        running.process.signal(signal.SIGCONT)

        def everything() -> tuple[int, int] | None:
            metrics = running.metrics()
            received, dropped = metrics.value("received_packets"), metrics.value("kernel_dropped_packets")
            assert received + dropped <= sent
            return (received, dropped) if received + dropped == sent else None

        found = until(everything, "received and dropped packets add up to those sent")
        assert found is not None
        received, dropped = found
        assert received > 1
        assert dropped > 0
        assert running.stop() == 0
    assert len(records(running.directory / "packets.ndjson")) == received
    (stopped,) = running.named("ListenerStopped")
    assert (stopped["Totals"]["ReceivedPackets"], stopped["Totals"]["KernelDrops"]) == (received, dropped)


def all_stopped(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


# Sizes


@pytest.fixture
def wire(netns: Netns) -> Iterator[tuple[Netns, Netns]]:
    """The gateway's namespace and a client's, joined by a link of 1,500 bytes; neither has another route."""
    far = Netns()
    try:
        netns.ip("link", "add", "near", "mtu", "1500", "type", "veth", "peer", "name", "far")
        netns.ip("link", "set", "far", "netns", far.name)
        for place, link, number in ((netns, "near", 1), (far, "far", 2)):
            place.ip("link", "set", link, "mtu", "1500")
            place.ip("address", "add", f"198.51.100.{number}/24", "dev", link)
            place.ip("address", "add", f"2001:db8::{number}/64", "dev", link, "nodad")
            place.ip("link", "set", link, "up")
        yield netns, far
    finally:
        far.close()


@pytest.mark.netns
@pytest.mark.parametrize(("near", "far"), [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")])
def test_large_datagrams_pass_a_narrow_link(
    gateway: StartGateway, wire: tuple[Netns, Netns], near: str, far: str
) -> None:
    here, there = wire
    running = gateway(
        config("::", f"{ECHOING}\n{PACKETS}", "[198.51.100.0/24, '2001:db8::/64']"),
        {"echo": ECHO},
        place=here,
    )
    listener = (near, running.port())
    payload = os.urandom(4_000)
    with Client(far, place=there) as client:
        # Out first, to a client that has not spoken.
        assert running.post({"Data": b64(payload), "Remote": client.remote})["Sent"] == 1
        assert client.receive() == (payload, listener)
        client.send(payload[::-1], listener)
        assert client.receive() == (payload[::-1], listener)
        (packet,) = wait_for_records(running.directory / "packets.ndjson", 1)
        assert base64.b64decode(packet["Data"]) == payload[::-1]
        assert packet["Remote"]["IpAddress"] == far


@pytest.mark.netns
def test_a_remote_without_a_route_fails_alone(gateway: StartGateway, wire: tuple[Netns, Netns]) -> None:
    here, there = wire
    networks = "[198.51.100.0/24, 203.0.113.0/24, '2001:db8::/32']"
    running = gateway(config("::", PACKETS, networks), place=here)
    with Client("198.51.100.2", place=there) as client, Wire(here, running.port()) as seen:
        unreachable: list[dict[str, Any]] = [
            {"Address": "203.0.113.42", "Port": 4567},
            {"Address": "2001:db8:ffff::1", "Port": 4567},
        ]
        messages = []
        for n in range(10):
            messages.append({"Data": b64(b"lost"), "Remote": unreachable[n % 2]})
            messages.append({"Data": b64(str(n).encode()), "Remote": client.remote})
        outcome = running.post({"Messages": messages})
        assert outcome["Sent"] == 10
        assert [(f["Index"], f["Reason"]) for f in outcome["Failures"]] == [
            (n, "RemoteUnreachable") for n in range(0, 20, 2)
        ]
        assert client.receive_data(10) == [str(n).encode() for n in range(10)]
        assert b"lost" not in seen.until(b"9")
    failed = running.metrics().by("reason", "source_failed_entries", packet_source="replies")
    assert failed == {"RemoteUnreachable": 10}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_empty_datagrams_pass(gateway: StartGateway, host: str) -> None:
    running = gateway(config(host, f"{ECHOING}\n{PACKETS}"), {"echo": ECHO})
    listener = running.address()
    with Client(host) as client:
        for _ in range(3):
            client.send(b"", listener)
            assert client.receive() == (b"", listener)
        packets = wait_for_records(running.directory / "packets.ndjson", 3)
        assert [p["Data"] for p in packets] == ["", "", ""]
        outcome = running.post(
            {"Messages": [{"Data": "", "Remote": client.remote}, {"Data": "eA==", "Remote": client.remote}]}
        )
        assert outcome["Sent"] == 2
        assert client.receive_data(2) == [b"", b"x"]
    assert running.metrics().value("received_packets") == 3


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65_507), ("::1", 65_527)])
def test_the_largest_datagram_passes_and_one_byte_more_does_not(
    gateway: StartGateway, host: str, largest: int
) -> None:
    running = gateway(config(host, f"{ECHOING}\n{PACKETS}"), {"echo": ECHO})
    listener = running.address()
    payload = os.urandom(largest)
    with Client(host) as client:
        assert running.post({"Data": b64(payload), "Remote": client.remote})["Sent"] == 1
        assert client.receive() == (payload, listener)
        client.send(payload, listener)
        assert client.receive() == (payload, listener)
        (packet,) = wait_for_records(running.directory / "packets.ndjson", 1)
        assert base64.b64decode(packet["Data"]) == payload
        outcome = running.post(
            {
                "Messages": [
                    {"Data": b64(payload + b"1"), "Remote": client.remote},
                    {"Data": b64(b"end"), "Remote": client.remote},
                ]
            }
        )
        assert [(f["Index"], f["Reason"]) for f in outcome["Failures"]] == [(0, "PayloadTooLarge")]
        assert client.receive()[0] == b"end"


# Bursts to one remote, which the kernel may take in one piece (UDP_SEGMENT)


BURSTS = [
    [os.urandom(size) for size in sizes]
    for sizes in (
        [*[100] * 150, 40],  # more than one run takes, the last one shorter
        [*[100] * 3, 0, 0, 0, 100, 99, 100, 101, 100],
        [*[1_200] * 60, 7, 1_200, 1_201],
        [300],
    )
]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_burst_to_one_remote_arrives_datagram_by_datagram(gateway: StartGateway, host: str) -> None:
    running = gateway(config(host, PACKETS))
    with Client(host) as client, Client(host) as other:
        # Each client alone fits into the smallest default receive queue, coalesced or not.
        for burst in BURSTS:
            messages = [{"Data": b64(data), "Remote": client.remote} for data in burst]
            messages.insert(50, {"Data": b64(b"between"), "Remote": other.remote})
            outcome = running.post({"Messages": messages})
            assert outcome["Sent"] == len(messages)
            assert client.receive_data(len(burst)) == burst
            assert other.receive_data(1) == [b"between"]
        assert client.waiting() == other.waiting() == []
    metrics = running.metrics()
    datagrams = [data for burst in BURSTS for data in (*burst, b"between")]
    assert metrics.value("source_sent_packets") == len(datagrams)
    assert metrics.value("source_sent_bytes") == sum(map(len, datagrams))


@pytest.mark.netns
@pytest.mark.parametrize("far", ["198.51.100.2", "2001:db8::2"])
def test_bursts_above_and_below_the_mtu_pass_a_narrow_link(
    gateway: StartGateway, wire: tuple[Netns, Netns], far: str
) -> None:
    here, there = wire
    running = gateway(config("::", PACKETS, "[198.51.100.0/24, '2001:db8::/64']"), place=here)
    with Client(far, place=there) as client:
        for size in (1_400, 1_480, 4_000, 1_000):
            burst = [os.urandom(size) for _ in range(20)]
            outcome = running.post(
                {"Messages": [{"Data": b64(data), "Remote": client.remote} for data in burst]}
            )
            assert (outcome["Sent"], outcome["Failures"]) == (20, [])
            assert client.receive_data(20) == burst


@pytest.mark.usefixtures("icmp")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bursts_to_dead_remotes_do_not_harm_live_ones(gateway: StartGateway, host: str) -> None:
    running = gateway(config(host, PACKETS))
    with Client(host) as gone:
        dead = gone.remote
    with Client(host) as client:
        messages = []
        for n in range(50):
            messages += [{"Data": b64(bytes(100)), "Remote": dead}] * 10
            messages += [{"Data": b64(bytes([n]) * 100), "Remote": client.remote}] * 2
        outcome = running.post({"Messages": messages})
        assert (outcome["Sent"], outcome["Failures"]) == (600, [])
        assert client.receive_data(100) == [bytes([n // 2]) * 100 for n in range(100)]
    wait_for_icmp(running)


@pytest.mark.netns
def test_a_burst_without_a_route_fails_entry_by_entry(
    gateway: StartGateway, wire: tuple[Netns, Netns]
) -> None:
    here, there = wire
    running = gateway(config("::", PACKETS, "[198.51.100.0/24, 203.0.113.0/24]"), place=here)
    nowhere = {"Data": b64(bytes(100)), "Remote": {"Address": "203.0.113.42", "Port": 4567}}
    with Client("198.51.100.2", place=there) as client:
        here_it_is = {"Data": b64(b"here"), "Remote": client.remote}
        outcome = running.post({"Messages": [nowhere] * 100 + [here_it_is]})
        assert outcome["Sent"] == 1
        assert [(f["Index"], f["Reason"]) for f in outcome["Failures"]] == [
            (n, "RemoteUnreachable") for n in range(100)
        ]
        assert client.receive()[0] == b"here"


# The end


def worker_pids(gateway_pid: int) -> list[int]:
    """Processes that a gateway has started, and those that these have started."""
    return list(below(gateway_pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_received_is_delivered_before_the_end(gateway: StartGateway, number: signal.Signals) -> None:
    late = "batching: { count: 1000, timeout_in_seconds: 30 }"
    running = gateway(
        config(
            "127.0.0.1",
            f"{{ name: packets, destination_arn: 'file:packets.ndjson', {late} }}\n"
            f"{{ name: echo, destination_arn: 'function:echo.py:handler', {late} }}",
        ),
        {"echo": ECHO},
    )
    listener = running.address()
    workers = worker_pids(running.process.pid)
    assert len(workers) >= 2  # a worker and its keeper
    with Client() as client:
        for n in range(50):
            client.send(str(n).encode(), listener)
        assert running.stop(number) == 0
        packets = records(running.directory / "packets.ndjson")
        assert [base64.b64decode(p["Data"]) for p in packets] == [str(n).encode() for n in range(50)]
        # And answered: the reply leaves before the socket closes.
        assert client.waiting() == [str(n).encode() for n in range(50)]
    assert not any(map(process_exists, workers))
    assert running.events[-1]["Event"] == "GatewayStopped"
    assert running.named("DeliveryFailed") == []


HANGING = """
import pathlib, signal, threading

def handler(event, context):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    (pathlib.Path(__file__).parent / "hanging").touch()
    threading.Event().wait()
"""
HANGS = (
    "{ name: hangs, destination_arn: 'function:hanging.py:handler', batching: { count: 1 }, "
    "arguments: { TimeoutInSeconds: 900 } }"
)


def with_a_hanging_handler(gateway: StartGateway, more: str = "") -> tuple[Gateway, list[int]]:
    """A gateway whose handler hangs with one packet, and the ids of the handler's processes."""
    running = gateway(config("127.0.0.1", f"{HANGS}\n{more}"), {"hanging": HANGING})
    with Client() as client:
        client.send(b"x", running.address())
        until((running.directory / "hanging").exists, "the handler hangs")
    workers = worker_pids(running.process.pid)
    assert workers
    return running, workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(gateway: StartGateway, number: signal.Signals) -> None:
    """The exit code tells that nothing was waited for: a drain that ran to its end makes it 0."""
    running, workers = with_a_hanging_handler(gateway)
    running.process.signal(number)
    running.process.stderr.wait(
        lambda lines: any("once more to stop at once" in line for line in lines), "word of the first signal"
    )
    running.process.signal(number)
    assert running.process.wait() == 128 + number
    until(lambda: not any(map(process_exists, workers)), "the workers are gone")


def test_a_handler_that_hangs_does_not_outlast_the_drain(gateway: StartGateway) -> None:
    running, workers = with_a_hanging_handler(gateway, PACKETS)
    assert running.stop() == 0
    assert not any(map(process_exists, workers))
    (failed,) = running.named("DeliveryFailed")
    assert (failed["Destination"], failed["Reason"], failed["Packets"]) == ("hangs", "Shutdown", 1)
    assert len(records(running.directory / "packets.ndjson")) == 1


def test_no_worker_outlives_a_gateway_that_was_killed(gateway: StartGateway) -> None:
    running, workers = with_a_hanging_handler(gateway)
    running.kill()
    until(lambda: not any(map(process_exists, workers)), "the workers are gone")


def test_a_start_that_fails_half_way_leaves_nothing(gateway: StartGateway) -> None:
    """The second Listener's port is taken: the first one's is free again, and so is the state."""
    with Client() as other:
        port, taken = free_port(socket.SOCK_DGRAM), other.address[1]
        text = (
            "listeners:\n"
            f'  - {{ name: one, bind: "127.0.0.1:{port}", destinations: [{ECHOING}] }}\n'
            f'  - {{ name: two, bind: "127.0.0.1:{taken}" }}\n'
        )
        running = gateway(text, {"echo": ECHO}, start=False)
        assert f"{running.file}:7:24: UDP port {taken} of Listener two is in use" in not_started(running)
    running.start()
    with Client() as client:
        client.send(b"x", running.address("one"))
        assert client.receive() == (b"x", ("127.0.0.1", port))


def test_a_burst_of_clients_is_kept_apart(gateway: StartGateway) -> None:
    """The kernel may coalesce a burst (GRO): each datagram is one packet all the same."""
    running = gateway(config("127.0.0.1", PACKETS))
    listener = running.address()
    with ExitStack() as stack:
        devices = [stack.enter_context(Client()) for _ in range(4)]
        for device in devices:
            # One call to the kernel, one buffer, ten datagrams (UDP_SEGMENT, linux/udp.h).
            device.socket.setsockopt(socket.IPPROTO_UDP, 103, 100)
            device.send(b"".join(bytes([n]) * 100 for n in range(9)) + b"short", listener)
        packets = wait_for_records(running.directory / "packets.ndjson", 40)
        expected = [bytes([n]) * 100 for n in range(9)] + [b"short"]
        for device in devices:
            mine = [p for p in packets if p["Remote"]["Port"] == device.address[1]]
            assert [base64.b64decode(p["Data"]) for p in mine] == expected
            assert len({p["Tag"] for p in mine}) == 10
    assert running.metrics().value("received_packets") == 40
