"""For authors of Python handlers: the packets of an event, and replies to them.

    from sluicegate.handlers import packets

    def handler(event, context):
        for packet in packets(event):
            yield packet.reply(packet.data)

A handler needs none of this: an event is a plain dict, and so is an answer. This module knows the formatters, so that
`data` is always bytes. It imports nothing but the standard library; copied into a function's code it works on AWS too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict


class Reply(TypedDict):
    """One ResponsePacket (contract section 3): a plain dict, which any JSON encoder writes.

    >>> Reply(Tag="t1", Data="aGk=")
    {'Tag': 't1', 'Data': 'aGk='}
    """

    Tag: str
    Data: str
    GeneratedAt: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Request:
    """One packet of an event (contract section 2).

    - `tag`: the address to answer to. It may be kept and answered later, for an hour.
    - `remote`: the client, `(address, port)`.
    - `peer_key`: the WireGuard peer's public key, or None.
    - `formatter`: how `text` is to be read: `base64`, `hex`, `utf8`, `ascii` or `coap`.
    - `text`: the payload as the event has it.
    - `packet`: all of the event's fields, as they came.

        >>> event = {"Messages": [{"Tag": "t1", "Formatter": "hex", "Data": "CAFE", "Remote": {"Port": 5}}]}
        >>> (packet,) = packets(event)
        >>> packet.data, packet.reply(b"\\x01")
        (b'\\xca\\xfe', {'Tag': 't1', 'Data': '01'})
    """

    tag: str
    remote: tuple[str, int]
    peer_key: str | None
    formatter: str
    text: str
    packet: Mapping[str, Any] = field(repr=False)

    @property
    def data(self) -> bytes:
        """The payload. Of a CoAP message, its JSON text in UTF-8: use `coap` there."""
        match self.formatter:
            case "base64":
                return base64.b64decode(self.text)
            case "hex":
                return bytes.fromhex(self.text)
        return self.text.encode()

    @property
    def coap(self) -> dict[str, Any]:
        """The CoAP message, where `formatter` is `coap`. Raises `ValueError` elsewhere."""
        if self.formatter != "coap":
            raise ValueError(f"the formatter is {self.formatter}, not coap: set formatter on the Destination")
        message: dict[str, Any] = json.loads(self.text)
        return message

    def reply(self, data: bytes | str | Mapping[str, Any]) -> Reply:
        """A reply to this packet with this payload, written in its formatter.

        A text is sent in UTF-8, a mapping as a CoAP message. Raises `ValueError` for what the formatter cannot write:
        bytes that are no UTF-8 in `utf8`, others than ASCII in `ascii`, anything but a mapping in `coap`.
        """
        return {"Tag": self.tag, "Data": self._written(data)}

    def _written(self, data: bytes | str | Mapping[str, Any]) -> str:
        if isinstance(data, Mapping) != (self.formatter == "coap"):
            wanted = "a mapping" if self.formatter == "coap" else "bytes or text"
            raise ValueError(f"a reply in the formatter {self.formatter} is {wanted}")
        if isinstance(data, Mapping):
            return json.dumps(data)
        raw = data.encode() if isinstance(data, str) else data
        match self.formatter:
            case "base64":
                return base64.b64encode(raw).decode("ascii")
            case "hex":
                return raw.hex().upper()
        return str(raw, "ascii" if self.formatter == "ascii" else "utf-8")


def packets(event: Mapping[str, Any]) -> list[Request]:
    """The packets of a handler's event, in the order of their arrival. Raises `ValueError` for another event.

    >>> packets({"Messages": []})
    []
    """
    try:
        return [_request(packet) for packet in event["Messages"]]
    except (KeyError, TypeError) as error:
        raise ValueError('the event is no batch of packets, {"Messages": [...]}') from error


def _request(packet: Mapping[str, Any]) -> Request:
    remote = packet.get("Remote") or {}
    return Request(
        tag=packet["Tag"],
        remote=(remote.get("IpAddress", ""), remote.get("Port", 0)),
        peer_key=remote.get("PeerKey") or None,
        formatter=packet.get("Formatter", "base64"),
        text=packet["Data"],
        packet=packet,
    )
