"""Clocks that are not right: the gateway's after a restart or while it runs, and those of peers."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from clocks import WallClock
from harness import ECHO, PROGRAM, TOPIC, Client, Gateway, run_program, until
from wireguard import DATA, INITIATION, Tunnel, key_pair

from conftest import StartGateway

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY_SECONDS = 86_400
DAY = DAY_SECONDS * SECOND
ECHOING = '{ name: echo, destination_arn: "function:echo.py:handler", batching: { count: 1 } }'


def listener(name: str, settings: str, peers: str) -> str:
    return f"""
  - name: {name}
    protocol: wg
    bind: 127.0.0.1
    {settings}
    peers: [{peers}]
    destinations: [{ECHOING}]
"""


def config(*listeners: str) -> str:
    names = [text.split("name: ")[1].split("\n")[0] for text in listeners]
    sources = "".join(
        f"  - {{ name: to-{name}, listener_name: {name}, hold_seconds: 1,\n"
        f'      sns_topic_source: {{ topic_arn: "{TOPIC}" }}, egress_networks: [127.0.0.0/8] }}\n'
        for name in names
    )
    return f"listeners:\n{''.join(listeners)}\npacket_sources:\n{sources}"


def one_tunnel(*public: str, settings: str = "") -> str:
    return config(listener("tunnel", settings, ", ".join(f'{{ public_key: "{key}" }}' for key in public)))


class Clients:
    """Makes userspace clients and closes their sockets."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, running: Gateway, private_key: str, listener: str = "tunnel") -> Tunnel:
        found = running.api("GET", f"/v1/listeners/{listener}").json()
        device = self._stack.enter_context(Client())
        return Tunnel(device, (found["Address"], found["Port"]), found["WireGuardPublicKey"], private_key)


@pytest.fixture
def client() -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(stack)


def begin(running: Gateway, tunnel: Tunnel, listener: str = "tunnel") -> int:
    """Have the gateway begin a handshake with a client that does not answer: its stamp."""
    tunnel.socket.waiting()
    message = {"Data": "aGk=", "Remote": {"PeerKey": tunnel.public_key, **tunnel.socket.remote}}
    running.sns.publish(TopicArn=TOPIC, Message=json.dumps({"Messages": [message]}))
    while (datagram := tunnel.socket.receive()[0])[0] != INITIATION:
        pass
    return tunnel.stamp_of(datagram)


def marks(running: Gateway) -> dict[str, int]:
    """The marks in the state, by public key."""
    db = sqlite3.connect(f"file:{running.directory / 'sluicegate.db'}?mode=ro", uri=True)
    try:
        return dict(db.execute("SELECT public_key, mark FROM stamp_marks"))
    finally:
        db.close()


def own_key(running: Gateway, listener: str = "tunnel") -> str:
    return str(running.api("GET", f"/v1/listeners/{listener}").json()["WireGuardPublicKey"])


def raise_mark(running: Gateway, key: str, mark: int) -> None:
    """What a gateway of before has left in the state."""
    with sqlite3.connect(running.directory / "sluicegate.db") as db:
        db.execute("INSERT OR REPLACE INTO stamp_marks VALUES (?, ?)", (key, mark))
    db.close()


def test_stamps_grow_over_restarts_whatever_the_clock_says(
    gateway: StartGateway, client: Clients, wall_clock: WallClock
) -> None:
    private, public = key_pair()
    running = gateway(one_tunnel(public), {"echo": ECHO}, start=False)
    running.environment |= wall_clock.environment
    stamps = []
    for ahead in (0, -DAY_SECONDS, DAY_SECONDS, 0, -30 * DAY_SECONDS):
        wall_clock.set(ahead)
        running.start()
        stamps.append(begin(running, client(running, private)))
        assert stamps[-1] <= max(marks(running).values())
        running.kill()
    assert stamps == sorted(set(stamps)), stamps
    assert abs(stamps[0] - time.time_ns()) < DAY // 2, "a right clock gives the time"
    assert stamps[-1] > time.time_ns() + DAY // 2


def test_a_mark_that_is_ahead_is_respected_and_does_not_run_away(
    gateway: StartGateway, client: Clients
) -> None:
    private, public = key_pair()
    running = gateway(one_tunnel(public), {"echo": ECHO})
    key, mark = own_key(running), time.time_ns() + DAY
    running.kill()
    raise_mark(running, key, mark)
    for number in range(3):
        running.start()
        assert begin(running, client(running, private)) > mark + number * SECOND
        running.kill()
    assert marks(running) == {key: mark + 3 * SECOND}


def test_a_minute_of_handshakes_costs_one_write(
    gateway: StartGateway, client: Clients, wall_clock: WallClock
) -> None:
    private, public = key_pair()
    others = [key_pair()[1] for _ in range(200)]
    running = gateway(one_tunnel(public, *others), {"echo": ECHO}, start=False)
    running.environment |= wall_clock.environment
    running.start()
    before = marks(running)
    tunnel = client(running, private)

    def handshakes() -> int:
        return running.metrics().value("wireguard_initiations_sent")

    with Client() as nobody:
        entries = [{"Data": "aGk=", "Remote": {"PeerKey": key, **nobody.remote}} for key in others]
        running.api("POST", "/v1/packet-sources/to-tunnel/messages", {"Messages": entries})
    until(lambda: handshakes() >= len(others), "the handshakes are begun")
    begin(running, tunnel)
    assert marks(running) == before, "the write of the start is enough"
    wall_clock.set(600)
    seen = set()
    begun = handshakes()

    def twice() -> bool:
        seen.update(marks(running).values())
        return handshakes() >= begun + 2 * len(others)  # they repeat themselves every 5 s

    until(twice, "hundreds of handshakes")
    ((key, mark),) = before.items()
    assert seen <= {mark, *marks(running).values()}
    assert len(seen) <= 2, "one block more"
    assert 500 * SECOND < marks(running)[key] - mark < 700 * SECOND


def test_listeners_with_one_key_share_its_stamps(
    gateway: StartGateway, client: Clients, wall_clock: WallClock
) -> None:
    private, public = key_pair()
    own, own_public = key_pair()
    both = [
        listener(name, f'private_key: "{own}"', f'{{ public_key: "{public}" }}') for name in ("one", "two")
    ]
    running = gateway(config(*both), {"echo": ECHO}, start=False)
    running.environment |= wall_clock.environment
    running.start().kill()
    assert list(marks(running)) == [own_public]
    wall_clock.set(-DAY_SECONDS)
    running.start()
    tunnels = {name: client(running, private, name) for name in ("one", "two")}
    stamps = []
    for name in ("one", "two", "one", "two"):
        with Client() as device:
            tunnels[name].socket, _ = device, tunnels[name].socket
            message = {"Data": "aGk=", "Remote": {"PeerKey": public, **device.remote}}
            # The hold is over before the next round; a handshake repeats itself meanwhile.
            running.api("POST", f"/v1/packet-sources/to-{name}/messages", {"Messages": [message]})
            stamps.append(tunnels[name].stamp_of(device.receive()[0]))
    assert len(set(stamps)) == 4
    assert stamps == sorted(stamps)


def test_an_export_carries_the_mark_and_a_new_key_begins_anew(
    gateway: StartGateway, tmp_path: Path, client: Clients
) -> None:
    private, public = key_pair()
    text = one_tunnel(public, settings="key_refresh_token: one")
    running = gateway(text, {"echo": ECHO})
    key, mark = own_key(running), time.time_ns() + DAY
    running.kill()
    raise_mark(running, key, mark)
    file = tmp_path / "export.json"
    command = [PROGRAM, "state", "export", running.directory / "sluicegate.db", "--secrets"]
    done = run_program(command, check=True)
    file.write_text(done.stdout)
    moved = gateway(text, {"echo": ECHO}, start=False)
    run_program([PROGRAM, "state", "import", moved.file, file], check=True)
    moved.start()
    assert own_key(moved) == key
    tunnel = client(moved, private)
    assert begin(moved, tunnel) > mark
    moved.edit("key_refresh_token: one", "key_refresh_token: two")
    assert moved.api("POST", "/v1/reload").status_code == 200
    assert own_key(moved) != key
    renewed = client(moved, private)
    assert begin(moved, renewed) < time.time_ns() + MINUTE
    assert marks(moved)[own_key(moved)] < time.time_ns() + 2 * MINUTE


def test_a_state_that_cannot_be_written_holds_no_handshake_up(
    gateway: StartGateway, client: Clients, wall_clock: WallClock
) -> None:
    private, public = key_pair()
    running = gateway(one_tunnel(public), {"echo": ECHO}, start=False)
    running.environment |= wall_clock.environment
    running.start()
    first = begin(running, client(running, private))
    ((key, mark),) = marks(running).items()
    writer = sqlite3.connect(running.directory / "sluicegate.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        wall_clock.set(600)
        second = begin(running, client(running, private))
        assert first < second <= mark, "above the mark of the state nothing is used"
        event = running.event("PeersNotKept", Listener="tunnel")
        assert "cannot" in event["Detail"] or "locked" in event["Detail"]
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    until(lambda: marks(running)[key] > mark, "the mark is written once that is possible")
    third = begin(running, client(running, private))
    assert mark < third <= marks(running)[key]


def peers(running: Gateway, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [PROGRAM, "peers", *arguments, "--api", running.api_url]
    return run_program(command)


def shown(running: Gateway) -> dict[str, Any]:
    items = running.api("GET", "/v1/listeners/tunnel/peers").json()["Items"]
    assert len(items) == 1
    return dict(items[0])


def shake(tunnel: Tunnel, seconds_ahead: int) -> None:
    """Shake hands by a clock that is so far ahead, and have it confirmed."""
    tunnel.socket.send(tunnel.initiation(seconds=int(time.time()) + seconds_ahead), tunnel.gateway)
    tunnel.finish(tunnel.socket.receive()[0])
    tunnel.send(b"hello")
    assert tunnel.receive() == b"hello"


def test_a_peer_whose_clock_was_ahead_is_named_and_let_in_again(
    gateway: StartGateway, client: Clients
) -> None:
    private, public = key_pair()
    text = config(listener("tunnel", "", f'{{ name: phone, public_key: "{public}" }}'))
    running = gateway(text, {"echo": ECHO})
    tunnel = client(running, private)
    shake(tunnel, 0)
    assert "CLOCK" not in peers(running, "list").stdout
    shake(tunnel, DAY_SECONDS)
    event = running.event("PeerClockDiffers", Reason="StampAhead")
    assert public in event["Detail"]
    assert "hours ahead" in event["Detail"]
    assert DAY_SECONDS - 60 < shown(running)["ClockAheadSeconds"] <= DAY_SECONDS
    assert shown(running)["ClockBehindSeconds"] is None
    # Its clock is set right.
    for _ in range(3):
        tunnel.socket.send(tunnel.initiation(), tunnel.gateway)
    event = running.event("PeerClockDiffers", Reason="StampTooLow")
    assert public in event["Detail"]
    assert "peers reset" in event["Detail"]
    assert event["Remote"] == {"IpAddress": "127.0.0.1", "Port": tunnel.socket.address[1]}
    assert DAY_SECONDS - 60 < shown(running)["ClockBehindSeconds"] <= DAY_SECONDS
    head, line = peers(running, "list").stdout.splitlines()
    assert head.endswith("CLOCK")
    assert "refused: 23 h behind" in line or "refused: 24 h behind" in line
    assert tunnel.socket.waiting() == []
    done = peers(running, "reset", "phone")
    assert (done.returncode, "next handshake" in done.stdout) == (0, True), done.stderr
    shake(tunnel, 0)
    assert (shown(running)["ClockAheadSeconds"], shown(running)["ClockBehindSeconds"]) == (None, None)
    assert len(running.named("PeerClockDiffers")) == 2, "each once"
    (changed,) = running.named("ResourceChanged", Action="ResetPeer")
    assert changed["Detail"] == public


def test_a_peer_that_begins_in_1970_with_each_start_is_named_too(
    gateway: StartGateway, client: Clients
) -> None:
    private, public = key_pair()
    running = gateway("listeners: []", {"echo": ECHO})
    document = {
        "Name": "tunnel",
        "Protocols": ["wg"],
        "Bind": "127.0.0.1",
        "Destinations": [{"DestinationArn": "function:echo.py:handler", "Batching": {"Count": 1}}],
    }
    assert running.api("POST", "/v1/listeners", document).status_code == 201
    assert running.api("POST", "/v1/listeners/tunnel/peers", {"PublicKey": public}).status_code == 201
    tunnel = client(running, private)
    shake(tunnel, 0)
    since_1970 = 50 - int(time.time())
    tunnel.socket.send(tunnel.initiation(seconds=50), tunnel.gateway)
    event = running.event("PeerClockDiffers", Reason="StampTooLow")
    assert "days lower" in event["Detail"]
    assert shown(running)["ClockBehindSeconds"] > 10_000 * DAY_SECONDS
    assert shown(running)["ClockAheadSeconds"] is None
    path = "/v1/listeners/tunnel/peers"
    assert running.api("POST", f"{path}/{quote(key_pair()[1], safe='')}/reset").status_code == 404
    assert running.api("POST", f"{path}/{quote(public, safe='')}/reset").status_code == 204
    shake(tunnel, since_1970 + 10)
    assert shown(running)["ClockBehindSeconds"] is None
    # The session of before a reset goes on.
    assert running.api("POST", f"{path}/{quote(public, safe='')}/reset").status_code == 204
    tunnel.send(b"still here")
    datagram = tunnel.socket.receive()[0]
    assert (datagram[0], tunnel.opened(datagram)) == (DATA, b"still here")


@pytest.mark.attack
def test_old_handshakes_that_are_repeated_are_told_once(gateway: StartGateway, client: Clients) -> None:
    private, public = key_pair()
    running = gateway(one_tunnel(public), {"echo": ECHO})
    tunnel = client(running, private)
    recorded = [tunnel.initiation(seconds=int(time.time()) - 1_000 + n) for n in range(50)]
    shake(tunnel, 0)
    for message in recorded * 3:
        tunnel.socket.send(message, tunnel.gateway)

    def refused() -> int:
        return sum(running.metrics().by("reason", "rejected_packets", listener="tunnel").values())

    until(lambda: refused() >= 150, "all have come")
    assert len(running.named("PeerClockDiffers")) == 1
    tunnel.send(b"still here")
    assert tunnel.receive() == b"still here"
