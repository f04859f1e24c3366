"""The file is taken over while the gateway runs: what does not change is not touched, a mistake changes nothing."""

import signal
import subprocess
import sys
import threading
import time

from harness import (
    ECHO,
    PROGRAM,
    Client,
    Gateway,
    Metrics,
    Process,
    records,
    source_of,
    until,
    wait_for_records,
)

from conftest import StartGateway

SECONDS = 2.0
PACED = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
sent, start = 0, time.monotonic()
while (now := time.monotonic() - start) < float(sys.argv[3]):
    while sent < now * 5000:
        sock.send(sent.to_bytes(4, "big") * 25)
        sent += 1
    time.sleep(0.001)
print(sent)
"""


def two(other: str) -> str:
    """Listener `steady`, and `other` with what a test makes of it."""
    return f"""
listeners:
  - name: steady
    bind: 127.0.0.1
    destinations:
      - {{ name: all, destination_arn: "file:all.ndjson", batching: {{ count: 500, timeout_in_seconds: 0.05 }} }}
  - name: other
    bind: 127.0.0.1
{other}
"""


def reload(gateway: Gateway, count: int = 1) -> str:
    """Reload by SIGHUP; what the `count`-th reload changed."""
    gateway.process.signal(signal.SIGHUP)
    return str(gateway.wait_for("Reloaded", count)[-1]["Detail"])


def refused(gateway: Gateway, count: int = 1) -> str:
    gateway.process.signal(signal.SIGHUP)
    return str(gateway.wait_for("ReloadRefused", count)[-1]["Detail"])


def flooded(gateway: Gateway, *, reloads: bool) -> tuple[int, Metrics]:
    """Packets sent to `steady` for a while, and the counters after that; with `reloads`, `other` changes meanwhile."""
    address, port = gateway.address("steady")
    command = [sys.executable, "-c", PACED, address, str(port), str(SECONDS)]
    flood = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        count = 0
        while reloads and flood.poll() is None:
            count += 1
            name = f"d{count}"
            text = two(f'    destinations: [{{ name: {name}, destination_arn: "file:{name}.ndjson" }}]')
            head, _, tail = gateway.file.read_text().partition("\nlisteners:")
            gateway.file.write_text(head + text + tail[tail.index("ports:") :])
            assert reload(gateway, count).startswith("change Listener other")
            time.sleep(0.02)  # more than 100 events of a kind in a second are summed up
        assert flood.stdout is not None
        sent = int(flood.stdout.read())
        assert not reloads or count > 2
    finally:
        flood.kill()
        flood.wait()
    lost = gateway.metrics().value("kernel_dropped_packets", listener="steady")
    until(
        lambda: gateway.metrics().value("delivery_packets", listener="steady") >= sent - lost,
        "every packet is delivered",
    )
    return sent, gateway.metrics()


def test_a_listener_under_load_does_not_notice_a_reload_of_another(gateway: StartGateway) -> None:
    text = two('    destinations: [{ name: d0, destination_arn: "file:d0.ndjson" }]')
    control, changed = gateway(text), None
    _, before = flooded(control, reloads=False)
    assert control.stop() == 0
    changed = gateway(text)
    sent, after = flooded(changed, reloads=True)
    dropped_before = before.value("kernel_dropped_packets", listener="steady")
    dropped = after.value("kernel_dropped_packets", listener="steady")
    assert dropped <= dropped_before, "no more than without a reload"
    assert after.value("received_packets", listener="steady") == sent - dropped
    assert after.value("rejected_packets", listener="steady") == 0
    assert after.value("destination_dropped_packets", listener="steady") == 0
    assert len(wait_for_records(changed.directory / "all.ndjson", sent - dropped)) == sent - dropped
    assert changed.named("ListenerStarted", Listener="steady") == changed.named("ListenerStarted")[:1]
    assert not changed.named("ListenerStopped")


def test_destinations_change_under_load_without_losing_a_packet(gateway: StartGateway) -> None:
    """Every kind of change in turn; each packet arrives at the Destination that was there when it came."""
    one = gateway(
        """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{ name: kept, destination_arn: "file:kept.ndjson", batching: { count: 10 } }, CHANGING]
""".replace("CHANGING", '{ name: moving, destination_arn: "file:a.ndjson", batching: { count: 7 } }')
    )
    address = one.address()
    stop, sent = threading.Event(), [0]

    def send() -> None:
        with Client() as client:
            while not stop.is_set():
                client.send(sent[0].to_bytes(4, "big"), address)
                sent[0] += 1
                time.sleep(0.0005)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        steps = [
            ("count: 7", "count: 70"),  # batching
            ("file:a.ndjson", "file:b.ndjson"),  # another target
            ("count: 70", "count: 3, timeout_in_seconds: 0.01"),
            ("name: moving,", "name: moving, formatter: hex,"),  # another formatter
            (
                '{ name: moving, formatter: hex, destination_arn: "file:b.ndjson"',
                '{ name: third, destination_arn: "file:c.ndjson"',
            ),
        ]
        wait_for_records(one.directory / "a.ndjson", 1)
        for number, (before, after) in enumerate(steps, 1):
            one.edit(before, after)
            assert reload(one, number).startswith("change Listener decoder")
            file = one.directory / f"{'abbbc'[number - 1]}.ndjson"
            count = len(records(file)) if file.exists() else 0
            wait_for_records(file, count + 1)
    finally:
        stop.set()
        sender.join()
    until(lambda: one.metrics().value("received_packets") == sent[0], "everything has arrived")
    assert one.stop() == 0
    totals = one.event("ListenerStopped")["Totals"]
    assert totals["KernelDrops"] == 0
    assert [destination["Dropped"] for destination in totals["Destinations"]] == [{}] * len(
        totals["Destinations"]
    )
    assert len(wait_for_records(one.directory / "kept.ndjson", sent[0])) == sent[0]
    elsewhere = [wait_for_records(one.directory / f"{name}.ndjson", 1) for name in ("a", "b", "c")]
    assert sum(map(len, elsewhere)) == sent[0], "each packet once, wherever it went"
    assert {packet["Formatter"] for packet in elsewhere[1]} == {"base64", "hex"}
    assert totals["Rejected"] == {}


def test_sessions_tags_and_ids_outlive_a_reload(gateway: StartGateway) -> None:
    one = gateway(
        f"""
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{{ name: log, destination_arn: "file:log.ndjson", batching: {{ count: 1 }} }}]
{source_of("decoder", "[127.0.0.0/8, 203.0.113.0/24]")}
    require_session: true
"""
    )
    address = one.address()
    with Client() as client, Client() as stranger:
        client.send(b"x", address)
        tag = wait_for_records(one.directory / "log.ndjson", 1)[0]["Tag"]
        entry = {"Data": "AQ==", "Remote": client.remote, "Id": "a"}
        assert one.post(entry)["Sent"] == 1
        one.edit("count: 1 }", "count: 2 }")
        one.edit(
            "egress_networks: [127.0.0.0/8, 203.0.113.0/24]",
            "egress_networks: [127.0.0.0/8, 198.51.100.0/24]\n    hold_seconds: 5",
        )
        assert "PacketSource replies" in reload(one)
        assert one.address() == address
        assert one.post(entry)["Duplicates"] == 1
        assert one.post(entry | {"Id": "b"})["Sent"] == 1, "it has a session"
        assert one.post({"Data": "AQ==", "Tag": tag})["Sent"] == 1
        assert one.post({"Data": "AQ==", "Remote": stranger.remote})["Failures"][0]["Reason"] == "NoSession"
        assert client.receive_data(3) == [b"\x01"] * 3
    metrics = one.metrics()
    assert metrics.value("source_entries") == 5
    assert metrics.value("received_packets") == 1


def test_a_bad_file_is_refused_with_its_reasons_and_the_old_one_runs(gateway: StartGateway) -> None:
    one = gateway(
        """
listeners:
  - name: decoder
    bind: 127.0.0.1
    destinations: [{ name: echo, destination_arn: "function:echo.py:handler", batching: { count: 1 } }]
""",
        {"echo": ECHO},
    )
    good = one.file.read_text()
    address = one.address()
    for number, (before, after, words) in enumerate(
        [
            (
                "bind: 127.0.0.1\n",
                "bnd: 127.0.0.1\n",
                "gateway.yaml:8:5: unknown key `bnd`, did you mean `bind`?",
            ),
            ("name: echo,", "name: echo, formatter: base64x,", "gateway.yaml:9:"),
            ("echo.py", "missing.py", "missing.py"),
            ("listeners:\n", "listeners: [\n", "gateway.yaml:"),
            (
                "region: us-east-1",
                "region: eu-west-1",
                "`region` has changed, which a reload cannot take over",
            ),
            ("bind: 127.0.0.1\n", "bind: 203.0.113.77\n", "not one of this machine"),
        ],
        1,
    ):
        one.edit(before, after)
        assert words in refused(one, number)
        one.process.stderr.wait(lambda lines, words=words: words in "\n".join(lines), "it is told")
        one.file.write_text(good)
        with Client() as client:
            client.send(b"still", address)
            assert client.receive() == (b"still", address)
    assert reload(one) == "nothing changes"
    assert one.api("GET", "/healthz").status_code == 200
    assert len(one.named("ListenerStarted")) == 1
    answer = one.api("POST", "/v1/reload")
    assert (answer.status_code, answer.json()) == (200, {"Changes": []})


def test_listeners_and_sources_come_move_and_go(gateway: StartGateway) -> None:
    one = gateway(two("    destinations: []"))
    first, second = one.address("steady"), one.address("other")
    one.file.write_text(one.file.read_text() + source_of("steady"))
    assert "PacketSource replies" in reload(one)
    with Client() as client:
        entry = {"Data": "AQ==", "Remote": client.remote}
        one.publish(entry)
        assert client.receive()[1] == first
        one.edit("listener_name: steady", "listener_name: other")
        reload(one, 2)
        one.publish(entry)
        assert client.receive()[1] == second
        one.edit("  - name: steady\n", "  - name: renamed\n")
        assert reload(one, 3) == "create Listener renamed; delete Listener steady"
        with Client(*first):
            pass  # its port is free
        one.publish(entry)
        assert client.receive()[1] == second
        assert client.waiting() == []


def test_the_file_and_the_api_live_together(gateway: StartGateway) -> None:
    one = gateway(two("    destinations: []"))
    made = one.api("POST", "/v1/listeners", {"Name": "mine", "Bind": "127.0.0.1"})
    assert made.status_code == 201
    one.edit("name: other", "name: mine")
    told = refused(one)
    assert 'the Listener "mine" is declared by' in told
    assert "DELETE /v1/listeners/mine" in told
    assert one.stop() == 0
    process = one.spawn()
    assert process.wait() == 4
    assert f"sluicegate state remove {one.file} Listener mine" in process.stderr.text
    removed = Process([PROGRAM, "state", "remove", one.file, "Listener", "mine"], one.directory)
    assert removed.wait() == 0, removed.stderr.text
    removed.close()
    one.start()
    items = one.api("GET", "/v1/listeners").json()["Items"]
    assert [(item["Name"], item["DeclaredBy"]) for item in items] == [("steady", "File"), ("mine", "File")]


def test_a_saved_file_is_taken_over(gateway: StartGateway) -> None:
    one = gateway(two("    destinations: []"), start=False)
    process = Process([PROGRAM, "run", "--watch", one.file], one.directory)
    try:
        one._process = process
        one.event("GatewayStarted")
        one.edit("destinations: []", 'destinations: [{ name: log, destination_arn: "file:log.ndjson" }]')
        assert "Destination log" in one.event("Reloaded")["Detail"]
        with Client() as client:
            client.send(b"x", one.address("other"))
        wait_for_records(one.directory / "log.ndjson", 1)
        one.edit("name: log", "nme: log")
        assert "unknown key `nme`" in one.event("ReloadRefused")["Detail"]
        process.stderr.wait(
            lambda lines: any("what ran before runs on" in line for line in lines), "it is told"
        )
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.close()
