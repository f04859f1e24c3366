"""The native surface as `_native.pyi` describes it, on real sockets, without the rest of the gateway."""

import ast
import errno
import inspect
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluicegate import _native
from sluicegate.running.spec import LISTENER_DESCRIPTORS
from waiting import HANG_SECONDS
from waiting import wait_until as until

KEY = "11" * 32
LOOPBACK = ["127.0.0.0/8", "::1/128"]
DEAD = '{"Data": "AQID", "Remote": {"Address": "127.0.0.1", "Port": 9}}'


def dataplane_spec(**changes: Any) -> str:
    spec = {"Node": 1, "Region": "us-east-1", "TagKeys": [{"Id": 0, "Key": KEY}], "TagSeconds": 3600}
    return json.dumps(spec | changes)


def destination(**changes: Any) -> dict[str, Any]:
    spec = {
        "Name": "d",
        "Formatter": "base64",
        "Count": 1,
        "TimeoutSeconds": 60,
        "SizeBytes": 1 << 20,
        "QueueBytes": 1 << 26,
        "Bound": True,
    }
    return spec | changes


def source(**changes: Any) -> dict[str, Any]:
    spec = {
        "Name": "s",
        "EgressNetworks": LOOPBACK,
        "DefaultTtlSeconds": None,
        "HoldSeconds": 60,
        "DedupSeconds": 300,
        "DedupLimit": 1_000,
    }
    return spec | changes


def listener_spec(**changes: Any) -> str:
    spec: dict[str, Any] = {
        "Id": 1,
        "Name": "decoder",
        "Domain": "ingress-1",
        "Bind": "127.0.0.1:0",
        "DualStack": False,
        "ClientNetworks": ["0.0.0.0/0", "::/0"],
        "SessionIdleSeconds": 300,
        "SessionLimit": 1_000,
        "RingBytes": 1 << 20,
        "Destinations": [destination()],
        "Sources": [source()],
    }
    return json.dumps(spec | changes)


@pytest.fixture
def dataplane() -> Iterator[_native.Dataplane]:
    made = _native.Dataplane(dataplane_spec())
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(HANG_SECONDS)
        yield made


def remote(client: socket.socket) -> dict[str, Any]:
    host, port = client.getsockname()
    return {"Address": host, "Port": port}


def called(
    dataplane: _native.Dataplane,
    register: Callable[[Callable[[], object] | None], None],
    seconds: float = HANG_SECONDS,
) -> bool:
    """True if the data plane calls a callback that is given to `register` (`on_ready`, `on_completions`) in time."""
    calls: list[bool] = []
    register(lambda: calls.append(True))
    deadline = time.monotonic() + seconds
    while not calls and select.select([dataplane], [], [], max(0.0, deadline - time.monotonic()))[0]:
        dataplane.dispatch()
    register(None)
    return bool(calls)


def stats(port: _native.Port) -> dict[str, Any]:
    counted: dict[str, Any] = json.loads(port.stats())
    return counted


def completions(dataplane: _native.Dataplane, port: _native.Port, count: int) -> list[_native.Completion]:
    """The next `count` completions, each of which must add up."""
    found: list[_native.Completion] = []
    while len(found) < count:
        assert called(dataplane, port.on_completions), f"{len(found)} of {count} ended"
        found += port.completions()
    assert len(found) == count
    for one in found:
        assert one.entries == one.sent + one.duplicates + len(one.failures)
        assert (one.source is None) != (one.destination is None)
    return found


def batches(dataplane: _native.Dataplane, reader: _native.Reader, packets: int) -> list[_native.Batch]:
    """Batches with `packets` packets together."""
    found: list[_native.Batch] = []
    while sum(batch.count for batch in found) < packets:
        assert called(dataplane, reader.on_ready)
        found += reader.read(64)
    return found


# The stub tells the truth


def stub() -> ast.Module:
    path = Path(_native.__file__).with_name("_native.pyi")
    return ast.parse(path.read_text())


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "property" for d in function.decorator_list)


def test_everything_in_the_stub_exists_with_its_signature() -> None:
    for node in stub().body:
        if isinstance(node, ast.FunctionDef):
            assert list(inspect.signature(getattr(_native, node.name)).parameters) == parameters(node)
        if not isinstance(node, ast.ClassDef):
            continue
        cls = getattr(_native, node.name)
        for member in node.body:
            if not isinstance(member, ast.FunctionDef):
                continue
            where = f"{node.name}.{member.name}"
            if member.name == "__new__":
                assert list(inspect.signature(cls).parameters) == parameters(member), where
            elif is_property(member):
                assert inspect.isgetsetdescriptor(getattr(cls, member.name)), where
            else:
                found = list(inspect.signature(getattr(cls, member.name)).parameters)
                assert found == ["self", *parameters(member)], where


def test_everything_that_exists_is_in_the_stub() -> None:
    described = {node.name: node for node in stub().body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert {name for name in dir(_native) if not name.startswith("_")} == set(described)
    for name, node in described.items():
        # Exceptions bring what every exception has.
        if isinstance(node, ast.ClassDef) and not issubclass(getattr(_native, name), Exception):
            public = {member for member in vars(getattr(_native, name)) if not member.startswith("_")}
            members = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            assert public == members - {"__new__"}, name


def test_only_the_gateway_makes_its_objects() -> None:
    for cls in (_native.Port, _native.Reader, _native.Batch, _native.Events, _native.Completion):
        with pytest.raises(TypeError):
            cls()


def test_a_tag_key_is_random() -> None:
    keys = {_native.format_tag_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)


# Errors


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "[]",
        "{}",
        dataplane_spec(Node=70_000),
        dataplane_spec(Node="1"),
        dataplane_spec(TagKeys=[]),
        dataplane_spec(TagKeys=[{"Id": 16, "Key": KEY}]),
        dataplane_spec(TagKeys=[{"Id": 0, "Key": KEY[:-2]}]),
        dataplane_spec(TagKeys=[{"Id": 0, "Key": "zz" * 32}]),
        dataplane_spec(TagSeconds=-1),
        dataplane_spec(Unknown=1),
    ],
)
def test_a_bad_dataplane_spec_is_a_value_error(spec: str) -> None:
    with pytest.raises(ValueError, match="data plane spec") as refused:
        _native.Dataplane(spec)
    assert KEY[:-2] not in str(refused.value), "a key is never shown"


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "{}",
        listener_spec(Id=-1),
        listener_spec(Bind="localhost:2048"),
        listener_spec(Bind="127.0.0.1:70000"),
        listener_spec(ClientNetworks=["10.0.0.0/33"]),
        listener_spec(RingBytes=-1),
        listener_spec(Destinations=[destination(Formatter="morse")]),
        listener_spec(Destinations=[{"Name": "d"}]),
        listener_spec(Sources=[{"Name": "s"}]),
        listener_spec(Unknown=1),
    ],
)
def test_a_bad_listener_spec_is_a_value_error(dataplane: _native.Dataplane, spec: str) -> None:
    with pytest.raises(ValueError, match="Listener spec"):
        dataplane.open(spec)
    dataplane.open(listener_spec())


def test_what_the_kernel_refuses_comes_with_its_number(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    number = client.getsockname()[1]
    with pytest.raises(_native.NativeError) as refused:
        dataplane.open(listener_spec(Bind=f"127.0.0.1:{number}"))
    assert refused.value.args == (f"bind 127.0.0.1:{number}", errno.EADDRINUSE)
    with pytest.raises(_native.NativeError) as refused:
        dataplane.open(listener_spec(Bind="203.0.113.42:0"))
    assert refused.value.args == ("bind 203.0.113.42:0", errno.EADDRNOTAVAIL)


def test_a_port_is_not_shared_with_another_listener(dataplane: _native.Dataplane) -> None:
    host, number = dataplane.open(listener_spec()).local_address
    with pytest.raises(_native.NativeError):
        dataplane.open(listener_spec(Bind=f"{host}:{number}"))


def test_an_unknown_index_is_an_index_error(dataplane: _native.Dataplane) -> None:
    port = dataplane.open(listener_spec())
    with pytest.raises(IndexError):
        port.reader(1)
    with pytest.raises(IndexError):
        port.reply(1, "id", b"{}")
    # Nothing of a submission counts if one part of it is wrong.
    with pytest.raises(IndexError):
        port.submit([("a", None, 0, b"{}", None), ("b", None, 1, b"{}", None)])
    with pytest.raises(ValueError, match="unknown reason"):
        port.submit([("a", None, 0, b"{}", None), ("b", None, 0, b"{}", ("Because", "x"))])
    with pytest.raises(OverflowError):
        port.reader(-1)
    assert stats(port)["RingMessages"] == 0
    assert stats(port)["Sources"][0]["Messages"] == 0


# In


def test_batches_are_documents_and_records(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(Destinations=[destination(Count=3, Formatter="utf8")]))
    reader = port.reader(0)
    for text in ("one", "two", "three"):
        client.sendto(text.encode(), port.local_address)
    (batch,) = batches(dataplane, reader, 3)
    assert batch.count == 3
    document = json.loads(batch.body())
    assert [message["Data"] for message in document["Messages"]] == ["one", "two", "three"]
    assert [json.loads(record) for record in batch.records()] == document["Messages"]
    assert batch.lines() == b"\n".join(batch.records()) + b"\n"
    assert not called(dataplane, reader.on_ready, 0)
    assert reader.read(10) == []


def test_an_unread_queue_drops_the_oldest_and_counts_exactly(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    sent = 1_000
    queue_bytes = 10_000
    port = dataplane.open(
        listener_spec(
            Destinations=[
                destination(Count=3, QueueBytes=queue_bytes, Formatter="utf8"),
                destination(Name="other", Formatter="utf8"),
            ]
        )
    )
    reader, other = port.reader(0), port.reader(1)
    kept: list[str] = []
    for n in range(sent):
        client.sendto(str(n).encode(), port.local_address)
        if n % 100 == 99:
            until(lambda n=n: stats(port)["ReceivedPackets"] == n + 1, "they are received")  # type: ignore[misc]
    counted = stats(port)["Destinations"][0]
    assert counted["QueuedBytes"] <= queue_bytes
    for batch in reader.read(1_000):
        kept += [json.loads(record)["Data"] for record in batch.records()]
    dropped = counted["Dropped"]["QueueFull"]
    assert len(kept) == counted["QueuedPackets"]
    # 1,000 is no multiple of 3: the last packet waits in the open batch.
    assert counted["Packets"] == sent == dropped + len(kept) + 1
    assert kept == [str(n) for n in range(dropped, sent - 1)], "the oldest gave way"
    port.stop()
    (last,) = reader.read(10)
    assert json.loads(last.body())["Messages"][0]["Data"] == str(sent - 1)
    # The other Destination has lost nothing.
    assert [json.loads(r)["Data"] for b in other.read(2_000) for r in b.records()] == [
        str(n) for n in range(sent)
    ]


def test_one_batch_larger_than_its_queue_is_kept(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(Destinations=[destination(QueueBytes=10)]))
    client.sendto(b"large", port.local_address)
    (batch,) = batches(dataplane, port.reader(0), 1)
    assert batch.count == 1
    assert stats(port)["Destinations"][0]["Dropped"] == {}


def test_an_unbound_destination_drops_and_counts(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(Destinations=[destination(Bound=False), destination(Name="bound")]))
    client.sendto(b"x", port.local_address)
    batches(dataplane, port.reader(1), 1)
    unbound = stats(port)["Destinations"][0]
    assert (unbound["Packets"], unbound["Batches"], unbound["Dropped"]) == (1, 0, {"Unbound": 1})
    assert port.reader(0).read(1) == []


def test_clients_outside_of_the_networks_are_counted(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec(ClientNetworks=["127.0.0.2/32"]))
    client.sendto(b"x", port.local_address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as allowed:
        allowed.bind(("127.0.0.2", 0))
        allowed.sendto(b"y", port.local_address)
        (batch,) = batches(dataplane, port.reader(0), 1)
    assert json.loads(batch.records()[0])["Remote"]["IpAddress"] == "127.0.0.2"
    counted = stats(port)
    assert counted["ReceivedPackets"] == 2
    assert counted["Rejected"] == {"RefusedNetwork": 1}


# Out


def test_a_message_is_let_go_of(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec())
    body = json.dumps({"Messages": [{"Data": "AQID", "Remote": remote(client)}] * 100}).encode()
    before = sys.getrefcount(body)
    for _ in range(3):
        assert (
            port.submit([("m", None, 0, body, None), ("m", None, 0, body, ("WrongRegion", "elsewhere"))]) == 2
        )
        assert [one.entries for one in completions(dataplane, port, 2)] == [100, 100]
    assert port.submit([]) == 0  # whatever ended before is let go of by the next call at the latest
    assert sys.getrefcount(body) == before


def test_completions_add_up(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec())
    entry = {"Data": "AQID", "Remote": remote(client)}
    bad = {"Data": "?", "Remote": remote(client)}
    messages: list[tuple[str, Any, tuple[int, int], list[tuple[int | None, str]]]] = [
        ("flat", entry, (1, 1), []),
        ("three", {"Messages": [entry, bad, entry]}, (3, 2), [(1, "MalformedData")]),
        ("empty", {"Messages": []}, (0, 0), []),
        ("null", {"Messages": [None, 1]}, (2, 0), [(0, "MalformedMessage"), (1, "MalformedMessage")]),
        ("list", [entry], (1, 0), [(None, "MalformedMessage")]),
    ]
    submissions = [(name, None, 0, json.dumps(body).encode(), None) for name, body, _, _ in messages]
    submissions.append(("broken", None, 0, b'{"Messages": [', None))
    assert port.submit(submissions) == len(submissions)
    ended = {one.message_id: one for one in completions(dataplane, port, len(submissions))}
    for name, _, (entries, sent), failures in messages:
        one = ended[name]
        assert (one.entries, one.sent, one.duplicates) == (entries, sent, 0)
        assert [(index, reason) for index, reason, _ in one.failures] == failures
        assert all(detail for _, _, detail in one.failures)
        assert (one.source, one.destination) == (0, None)
    assert [reason for _, reason, _ in ended["broken"].failures] == ["MalformedMessage"]
    assert [client.recv(100) for _ in range(3)] == [b"\x01\x02\x03"] * 3
    counted = stats(port)["Sources"][0]
    assert counted["Messages"] == len(submissions)
    assert counted["Entries"] == counted["Sent"] + counted["Duplicates"] + sum(counted["Failed"].values())


def test_a_refusal_fails_every_entry(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec())
    body = json.dumps({"Messages": [{"Data": "AQID", "Remote": remote(client)}, None]}).encode()
    assert port.submit([("m", None, 0, body, ("WrongRegion", "it names another"))]) == 1
    (ended,) = completions(dataplane, port, 1)
    assert ended.failures == [(n, "WrongRegion", "it names another") for n in range(2)]
    assert stats(port)["SentPackets"] == 0


def test_ages_count_from_the_publish_time(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(Sources=[source(DefaultTtlSeconds=60)]))
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    assert port.submit([("old", 1.0, 0, body, None), ("new", None, 0, body, None)]) == 2
    old, new = completions(dataplane, port, 2)
    assert [reason for _, reason, _ in old.failures] == ["Expired"]
    assert new.sent == 1


def test_an_id_is_sent_once(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(Sources=[source(), source(Name="other")]))

    def body(*ids: str) -> bytes:
        return json.dumps(
            {"Messages": [{"Data": "AQID", "Remote": remote(client), "Id": one} for one in ids]}
        ).encode()

    port.remember([(0, "before", 10.0), (0, "forgotten", 1_000.0)])
    assert port.submit([("m", None, 0, body("a", "b", "a", "before", "forgotten"), None)]) == 1
    (ended,) = completions(dataplane, port, 1)
    assert (ended.entries, ended.sent, ended.duplicates) == (5, 3, 2)
    assert port.sent_ids() == [(0, "a"), (0, "b"), (0, "forgotten")]
    assert port.submit([("again", None, 0, body("b"), None), ("other", None, 1, body("b"), None)]) == 2
    again, other = completions(dataplane, port, 2)
    assert (again.sent, again.duplicates) == (0, 1)
    assert (other.sent, other.duplicates) == (1, 0), "each source by itself"
    assert port.sent_ids() == [(1, "b")]
    assert [client.recv(10) for _ in range(4)] == [b"\x01\x02\x03"] * 4


def test_events_tell_what_happens_while_somebody_watches(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec())
    everything = port.events('{"Rate": 1000}')
    sourced = port.events('{"Events": ["PacketSourced"], "Remotes": ["127.0.0.1/32"], "Rate": 1000}')
    client.sendto(b"x", port.local_address)
    batches(dataplane, port.reader(0), 1)
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    assert port.submit([("m", None, 0, body, None)]) == 1
    completions(dataplane, port, 1)

    def lines(events: _native.Events, count: int) -> list[dict[str, Any]]:
        text = b""
        while text.count(b"\n") < count:
            assert called(dataplane, events.on_ready)
            text += events.read()
        return [json.loads(line) for line in text.splitlines()]

    assert [event["Event"] for event in lines(everything, 2)] == ["PacketReceived", "PacketSourced"]
    (event,) = lines(sourced, 1)
    assert (event["MessageId"], event["Bytes"], event["PacketSource"]) == ("m", 3, "s")
    sourced.close()
    sourced.close()
    assert not everything.closed
    port.close(1)
    assert called(dataplane, everything.on_ready)
    everything.read()
    assert everything.closed


def test_a_watch_misses_nothing(dataplane: _native.Dataplane, client: socket.socket) -> None:
    """What arrives after `events` has returned is shown, however soon."""
    seen = []
    for _ in range(200):
        port = dataplane.open(listener_spec())
        events = port.events('{"Rate": 1000}')
        client.sendto(b"x", port.local_address)
        batches(dataplane, port.reader(0), 1)
        stats(port)  # the turn in which it was received is over
        seen.append(events.read().count(b"PacketReceived"))
        port.close(0)
    assert seen == [1] * 200


def test_an_unknown_event_is_a_value_error(dataplane: _native.Dataplane) -> None:
    port = dataplane.open(listener_spec())
    with pytest.raises(ValueError, match="PacketRecieved"):
        port.events('{"Events": ["PacketRecieved"], "Rate": 1}')


def test_a_bad_filter_is_a_value_error(dataplane: _native.Dataplane) -> None:
    port = dataplane.open(listener_spec())
    for bad in (
        "",
        "{}",
        '{"Rate": -1}',
        '{"Rate": 1, "Remotes": ["10.0.0.0/33"]}',
        '{"Rate": 1, "Port": 65536}',
    ):
        with pytest.raises(ValueError, match="filter"):
            port.events(bad)


def test_replies_complete_too(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec())
    client.sendto(b"question", port.local_address)
    (batch,) = batches(dataplane, port.reader(0), 1)
    tag = json.loads(batch.records()[0])["Tag"]
    body = {"Replies": [{"Tag": tag, "Data": "AQ=="}, None, {"Data": "x"}, {"Tag": tag, "Data": None}, 7]}
    assert port.reply(0, "r", json.dumps(body).encode())
    (ended,) = completions(dataplane, port, 1)
    assert (ended.message_id, ended.source, ended.destination) == ("r", None, 0)
    assert (ended.entries, ended.sent) == (2, 1)
    assert [(index, reason) for index, reason, _ in ended.failures] == [(4, "MalformedMessage")]
    assert client.recv(10) == b"\x01"
    for nothing in (b"", b"null", b"{}", b'{"Replies": null}'):
        assert port.reply(0, "n", nothing)
        (ended,) = completions(dataplane, port, 1)
        assert (ended.entries, ended.failures) == (0, [])


def test_a_full_ring_takes_fewer_and_says_when_there_is_room(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    port = dataplane.open(listener_spec(RingBytes=3 * len(body) + 1))
    wanted = [(str(n), None, 0, body, None) for n in range(1_000)]
    # One call is one look at the ring: however quick the I/O thread is, no more than three fit.
    assert port.submit(wanted) == 3
    done, ended = 3, []
    while len(ended) < len(wanted):
        assert called(dataplane, port.on_completions), "room is announced"
        ended += port.completions()
        done += port.submit(wanted[done:])
        assert stats(port)["RingBytes"] <= 3 * len(body) + 1
    assert [one.message_id for one in ended] == [str(n) for n in range(1_000)], "in order, each once"
    assert [client.recv(10) for _ in range(10)] == [b"\x01\x02\x03"] * 10
    assert (stats(port)["RingBytes"], stats(port)["RingMessages"]) == (0, 0)


def test_room_is_announced_to_whoever_was_turned_away(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    """Also to one who has read every completion before it tried again."""
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    port = dataplane.open(listener_spec(RingBytes=len(body)))
    for _ in range(300):
        while port.submit([("m", None, 0, body, None)]) == 0:
            assert called(dataplane, port.on_completions)
            port.completions()
        client.recv(10)


def test_a_document_larger_than_the_ring_goes_alone(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec(RingBytes=1))
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    assert port.submit([("a", None, 0, body, None), ("b", None, 0, body, None)]) == 1
    (ended,) = completions(dataplane, port, 1)
    assert ended.sent == 1


def test_what_was_taken_is_sent_in_order(dataplane: _native.Dataplane, client: socket.socket) -> None:
    """More than one turn of the I/O thread can send, in documents of different sizes."""
    port = dataplane.open(listener_spec())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    for start in range(0, 2_000, 100):
        entries = [
            {"Data": str(n), "Formatter": "utf8", "Remote": remote(client)} for n in range(start, start + 100)
        ]
        assert port.submit([("m", None, 0, json.dumps({"Messages": entries}).encode(), None)]) == 1
        assert [int(client.recv(10)) for _ in range(100)] == list(range(start, start + 100))
    assert sum(one.sent for one in completions(dataplane, port, 20)) == 2_000


# The end


def test_stop_flushes_what_has_arrived_and_goes_on_sending(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec(Destinations=[destination(Count=1_000)]))
    reader = port.reader(0)
    for n in range(50):
        client.sendto(str(n).encode(), port.local_address)
    assert not reader.closed
    port.stop()
    assert called(dataplane, reader.on_ready)
    assert not reader.closed, "there is something to read"
    (batch,) = reader.read(10)
    assert batch.count == 50
    assert reader.closed
    assert called(dataplane, reader.on_ready, 0), "for good"
    assert reader.read(10) == []
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    assert port.submit([("late", None, 0, body, None)]) == 1
    assert client.recv(10) == b"\x01\x02\x03"
    tag = json.loads(batch.records()[0])["Tag"]
    assert port.reply(0, "r", json.dumps({"Replies": [{"Tag": tag, "Data": "AQ=="}]}).encode())
    assert client.recv(10) == b"\x01"
    port.stop()


def test_packets_after_the_stop_are_counted_not_delivered(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec())
    port.stop()
    for _ in range(5):
        client.sendto(b"late", port.local_address)
    port.close(0)
    counted = stats(port)
    assert (counted["ReceivedPackets"], counted["Rejected"]) == (5, {"Shutdown": 5})
    assert port.reader(0).read(10) == []


def test_close_sends_what_was_taken(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec())
    entries = [{"Data": "AQID", "Remote": remote(client)}] * 100
    body = json.dumps({"Messages": entries}).encode()
    assert port.submit([(str(n), None, 0, body, None) for n in range(2)]) == 2
    port.close(HANG_SECONDS)
    assert [client.recv(10) for _ in range(200)] == [b"\x01\x02\x03"] * 200
    assert [one.sent for one in completions(dataplane, port, 2)] == [100, 100]


def test_close_without_time_ends_every_document(dataplane: _native.Dataplane, client: socket.socket) -> None:
    port = dataplane.open(listener_spec(RingBytes=1 << 26))
    entries = [{"Data": "AQID", "Remote": remote(client)}] * 1_000
    body = json.dumps({"Messages": entries}).encode()
    taken = port.submit([(str(n), None, 0, body, None) for n in range(100)])
    assert taken == 100
    port.close(0)
    ended = completions(dataplane, port, 100)
    assert sum(one.entries for one in ended) == 100_000
    reasons = {reason for one in ended for _, reason, _ in one.failures}
    assert reasons <= {"SendFailed"}
    counted = stats(port)
    assert counted["Sources"][0]["Sent"] == sum(one.sent for one in ended)
    assert (counted["RingBytes"], counted["RingMessages"]) == (0, 0)


def test_a_closed_port_takes_nothing_and_keeps_its_counters(
    dataplane: _native.Dataplane, client: socket.socket
) -> None:
    port = dataplane.open(listener_spec())
    client.sendto(b"x", port.local_address)
    reader = port.reader(0)
    batches(dataplane, reader, 1)
    before = stats(port)
    port.close(1)
    assert port.submit([("m", None, 0, DEAD.encode(), None)]) == 0
    assert not port.reply(0, "r", b"{}")
    assert port.completions() == []
    assert reader.closed
    assert port.reader(0).closed
    assert stats(port) == before
    port.stop()
    port.close(1)
    # Its port is free again, for another Listener too.
    host, number = port.local_address
    assert dataplane.open(listener_spec(Bind=f"{host}:{number}")).local_address == (host, number)


def test_use_after_the_dataplane_has_closed(client: socket.socket) -> None:
    dataplane = _native.Dataplane(dataplane_spec())
    port = dataplane.open(listener_spec())
    reader, number = port.reader(0), port.local_address[1]
    dataplane.close()
    dataplane.close()
    for use in (
        lambda: dataplane.open(listener_spec()),
        port.stats,
        port.stop,
        lambda: port.close(0),
    ):
        with pytest.raises(RuntimeError, match="has ended"):
            use()
    assert port.local_address[1] == number
    assert reader.read(1) == []
    assert port.completions() == []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", number))


def test_closing_the_dataplane_closes_every_port(client: socket.socket) -> None:
    """Whoever waits for a Reader, a completion or an event is told, and nothing is taken that nobody will send."""
    dataplane = _native.Dataplane(dataplane_spec())
    port = dataplane.open(listener_spec())
    reader, events = port.reader(0), port.events('{"Rate": 1000}')
    dataplane.close()
    assert called(dataplane, reader.on_ready, 0)
    assert reader.closed
    assert events.closed
    assert port.submit([("m", None, 0, DEAD.encode(), None)]) == 0
    assert not port.reply(0, "r", b"{}")


def test_dropping_everything_frees_the_port() -> None:
    dataplane = _native.Dataplane(dataplane_spec())
    port = dataplane.open(listener_spec())
    address = port.local_address
    # A Port keeps the data plane alive, so that it cannot lose its socket unnoticed.
    del dataplane
    assert stats(port)["Listener"] == "decoder"
    del port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(address)


def test_calls_from_many_threads(dataplane: _native.Dataplane, client: socket.socket) -> None:
    """Nothing is lost or doubled when everybody calls at once."""
    port = dataplane.open(listener_spec(RingBytes=10_000))
    body = json.dumps({"Data": "AQID", "Remote": remote(client)}).encode()
    taken: list[int] = []

    def publish(number: int) -> None:
        for n in range(100):
            taken.append(port.submit([(f"{number}/{n}", None, 0, body, None)]))
            stats(port)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    ended: list[str] = []
    while any(thread.is_alive() for thread in threads) or len(ended) < sum(taken):
        if called(dataplane, port.on_completions, 0.05):
            ended += [one.message_id for one in port.completions()]
    assert len(ended) == len(set(ended)) == sum(taken)
    assert stats(port)["Sources"][0]["Messages"] == sum(taken)


# Who is called


def test_a_callback_is_called_until_everything_is_read(dataplane: _native.Dataplane) -> None:
    port, calls = dataplane.open(listener_spec()), []
    port.on_completions(lambda: calls.append(1))
    assert port.submit([("m", None, 0, b"not JSON", None)]) == 1
    assert select.select([dataplane], [], [], HANG_SECONDS)[0]
    dataplane.dispatch()
    dataplane.dispatch()
    assert len(calls) == 2
    assert len(port.completions()) == 1
    dataplane.dispatch()
    assert len(calls) == 2
    assert not select.select([dataplane], [], [], 0)[0], "an event loop would spin"


def test_a_callback_that_was_taken_back_is_called_no_more(dataplane: _native.Dataplane) -> None:
    """Also if it is taken back while others are called."""
    ports = [dataplane.open(listener_spec(Name=name, Id=n)) for n, name in enumerate("abc")]
    readers = [port.reader(0) for port in ports]
    called_back: list[int] = []

    def callback(number: int) -> None:
        called_back.append(number)
        for reader in readers:
            reader.on_ready(None)

    for number, (port, reader) in enumerate(zip(ports, readers, strict=True)):
        port.stop()
        reader.on_ready(lambda number=number: callback(number))  # type: ignore[misc]
    dataplane.dispatch()
    dataplane.dispatch()
    assert len(called_back) == 1
    assert not select.select([dataplane], [], [], 0)[0]
    readers[2].on_ready(lambda: callback(2))
    dataplane.dispatch()
    assert len(called_back) == 2, "what was ready before is told"


def test_a_callback_that_raises_keeps_no_other_from_its_call(dataplane: _native.Dataplane) -> None:
    ports = [dataplane.open(listener_spec(Name=name, Id=n)) for n, name in enumerate("abc")]
    calls: list[int] = []

    def callback(number: int) -> None:
        calls.append(number)
        raise ValueError(number)

    for number, port in enumerate(ports):
        port.stop()
        port.reader(0).on_ready(lambda number=number: callback(number))  # type: ignore[misc]
    with pytest.raises(ValueError, match="0"):
        dataplane.dispatch()
    assert calls == [0, 1, 2]


# What it costs


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


WIRE_GUARD = {
    "PrivateKey": _native.generate_private_key(),
    "Peers": [],
    "AllowUnknownPeers": True,
    "UnknownPeerPreSharedKey": None,
    "DecapsulatedDelivery": True,
    "Known": [],
}


@pytest.mark.attack
@pytest.mark.parametrize("wire_guard", [None, WIRE_GUARD], ids=["udp", "wg"])
def test_a_listener_holds_its_socket_and_nothing_after_its_end(
    dataplane: _native.Dataplane, wire_guard: dict[str, Any] | None
) -> None:
    """However many Destinations and watches it has, and also while Python holds what it had of it."""
    spec = {"Destinations": [destination(Name=str(n)) for n in range(5)], "WireGuard": wire_guard}
    before = descriptors()
    ports = [dataplane.open(listener_spec(**spec)) for _ in range(40)]
    held = [[port.reader(n) for n in range(5)] for port in ports]
    watches = [port.events('{"Rate": 1000}') for port in ports]
    for port, readers, watch in zip(ports, held, watches, strict=True):
        for on in (port.on_completions, port.on_peer_changes, watch.on_ready, *(r.on_ready for r in readers)):
            on(int)
    assert descriptors() - before == 40 * LISTENER_DESCRIPTORS
    for port in ports:
        port.close(0)
    assert descriptors() == before
    assert all(reader.closed for readers in held for reader in readers)
    assert [stats(port)["ReceivedPackets"] for port in ports] == [0] * 40, "the last counters stay"
