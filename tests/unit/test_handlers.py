"""`sluicegate.handlers`: what authors of handlers import, and what it costs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from typing import Any

import pytest

from sluicegate import handlers
from sluicegate.handlers import Request, packets


def request(formatter: str, data: str = "") -> Request:
    (found,) = packets({"Messages": [{"Tag": "t", "Formatter": formatter, "Data": data}]})
    return found


def test_the_examples_run() -> None:
    failed, attempted = doctest.testmod(handlers)
    assert attempted
    assert failed == 0


@pytest.mark.parametrize(
    ("formatter", "written", "data"),
    [
        ("base64", "w6k=", "é".encode()),
        ("hex", "C3A9", "é".encode()),
        ("utf8", "é", "é".encode()),
        ("ascii", "e", b"e"),
        ("base64", "", b""),
    ],
)
def test_payloads_are_bytes_in_every_formatter(formatter: str, written: str, data: bytes) -> None:
    packet = request(formatter, written)
    assert packet.data == data
    assert packet.reply(data) == packet.reply(data.decode()) == {"Tag": "t", "Data": written}


def test_a_coap_message_is_a_mapping() -> None:
    packet = request("coap", '{"MessageId": 7}')
    assert packet.coap == {"MessageId": 7}
    assert packet.reply({"MessageId": 7}) == {"Tag": "t", "Data": '{"MessageId": 7}'}
    with pytest.raises(ValueError, match="is a mapping"):
        packet.reply(b"")
    with pytest.raises(ValueError, match="not coap"):
        _ = request("hex").coap


@pytest.mark.parametrize(("formatter", "data"), [("utf8", b"\xff"), ("ascii", "é"), ("base64", {})])
def test_what_a_formatter_cannot_write_is_refused(formatter: str, data: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        request(formatter).reply(data)


@pytest.mark.parametrize("event", [{}, {"Records": []}, None, {"Messages": [{}]}])
def test_another_event_is_refused_with_what_is_meant(event: Any) -> None:
    with pytest.raises(ValueError, match='"Messages"'):
        packets(event)


def test_a_peer_and_its_address_are_found() -> None:
    remote = {"IpAddress": "198.51.100.7", "Port": 40001, "PeerKey": "k="}
    (packet,) = packets({"Messages": [{"Tag": "t", "Data": "", "Remote": remote, "IngressRegion": "eu"}]})
    assert (packet.remote, packet.peer_key) == (("198.51.100.7", 40001), "k=")
    assert packet.packet["IngressRegion"] == "eu"


def test_it_brings_nothing_else_of_the_gateway() -> None:
    code = (
        "import sys, sluicegate.handlers; print(sorted(m for m in sys.modules if m.startswith('sluicegate')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['sluicegate', 'sluicegate.handlers']"
