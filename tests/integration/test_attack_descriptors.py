"""File descriptors under a low limit: clients take none of workers and Listeners, and too few are told at once."""

import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import HANG_SECONDS, HOST, PROGRAM, Client, Gateway, source_of

from conftest import StartGateway

pytestmark = pytest.mark.attack

LIMITED = """
import base64, os, resource, signal
def handler(event, context):
    for m in event["Messages"]:
        if m["Data"] == "ZGll":  # die
            os.kill(os.getpid(), signal.SIGKILL)
    limit = base64.b64encode(b"%d" % resource.getrlimit(resource.RLIMIT_NOFILE)[0]).decode()
    return {"Replies": [{"Tag": m["Tag"], "Data": limit} for m in event["Messages"]]}
"""
FUNCTION = """
listeners:
  - name: decoder
    bind: 127.0.0.1
    client_restrictions: { networks: [127.0.0.0/8] }
    destinations:
      - name: echo
        destination_arn: function:limited.py:handler
        batching: { count: 1, timeout_in_seconds: 0.01 }
"""


def many(count: int, destination: str = "file:packets.ndjson") -> str:
    lines = [
        f"  - {{ name: l{number}, bind: 127.0.0.1, destinations: [{{ name: d, destination_arn: '{destination}' }}] }}"
        for number in range(count)
    ]
    return "\nlisteners:\n" + "\n".join(lines)


def limited(monkeypatch: pytest.MonkeyPatch, count: int, *, soft: bool = False) -> None:
    """Gateways that start from now on may have `count` files open, or with `soft` may raise that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if soft else count
    wrapper = f"ulimit -Sn {count} && ulimit -Hn {hard}"
    monkeypatch.setattr(
        HOST, "inside", lambda words: ["/bin/bash", "-c", f'{wrapper} && exec "$@"', "bash", *words]
    )


def descriptors(one: Gateway) -> int:
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), HANG_SECONDS)


HALVES: list[Callable[[socket.socket], object]] = [
    lambda silent: None,
    lambda half: half.sendall(b"GET / HTTP/1.1\r\nHost: loc"),
    lambda body: body.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1"),
]


@pytest.mark.parametrize("half", HALVES, ids=["silent", "half a head", "half a body"])
def test_half_open_connections_leave_room_for_workers_and_listeners(
    gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, half: Callable[[socket.socket], object]
) -> None:
    limited(monkeypatch, 128)
    one = gateway(FUNCTION + source_of("decoder"), {"limited": LIMITED})
    held = []
    for url in (one.api_url, one.sns_url):
        for _ in range(200):
            held.append(connect(url))
            half(held[-1])
    with Client() as client:
        client.send(b"die", one.address())
        one.event("DeliveryFailed")
        client.send(b"again", one.address())
        assert client.receive()[0] == b"128"
    assert one.publish({"Messages": []})
    assert descriptors(one) < 128
    assert "no descriptor is left" not in one.process.stderr.text
    for connection in held:
        connection.close()
    assert one.stop() == 0


def test_the_soft_limit_is_raised_and_workers_have_lambdas(
    gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 60, soft=True)
    one = gateway(FUNCTION, {"limited": LIMITED})
    held = [connect(one.api_url) for _ in range(200)]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    with Client() as client:
        client.send(b"x", one.address())
        assert client.receive()[0] == b"1024"
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("text", "limit"),
    [(many(90), 120), (many(60, "function:limited.py:handler"), 400), (many(20), 64)],
    ids=["Listeners", "workers", "few"],
)
def test_a_limit_that_cannot_be_enough_is_told_with_its_place(
    gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, text: str, limit: int
) -> None:
    limited(monkeypatch, limit)
    one = gateway(text, {"limited": LIMITED}, start=False)
    process = one.spawn()
    assert process.wait() == 4
    said = process.stderr.text
    line = one.file.read_text().splitlines().index("listeners:") + 2
    assert f"gateway.yaml:{line}:3: " in said
    assert f"open files, and this process may have {limit}, allow more before it starts: `ulimit -n " in said
    assert "LimitNOFILE=" in said
    assert "Traceback" not in said


def test_what_is_counted_is_what_is_open(gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 Listeners start where there are as many descriptors as they are counted for, and have no more open."""
    limited(monkeypatch, 200)
    one = gateway(many(60))
    assert 120 < descriptors(one) < 32 + 120 + 18
    listener = {
        "Name": "more",
        "Bind": "127.0.0.1",
        "Destinations": [{"Name": "d", "DestinationArn": "console:"}],
    }
    made = 0
    while (
        answer := one.api("POST", "/v1/listeners", {**listener, "Name": f"more{made}"})
    ).status_code == 201:
        made += 1
        assert made < 40
    assert answer.status_code == 409
    assert "open files, and this process may have 200" in answer.json()["detail"]
    assert one.api("GET", "/healthz").status_code == 200
    one.process.signal(signal.SIGTERM)
    assert one.process.wait() == 0


@pytest.mark.parametrize("count", [9, 12, 16, 20, 24, 30])
@pytest.mark.parametrize("command", [("run", "gateway.yaml"), ("dev", "gateway.yaml")], ids=["run", "dev"])
def test_hardly_any_descriptor_is_told_before_one_is_missing(
    command: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    (tmp_path / "gateway.yaml").write_text(many(1))
    words = ["/bin/bash", "-c", f'ulimit -n {count} && exec "$@"', "bash", str(PROGRAM), *command]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert f"and this process may have {count}, allow more before it starts: `ulimit -n " in done.stderr
    assert not (tmp_path / "sluicegate.db").exists()
