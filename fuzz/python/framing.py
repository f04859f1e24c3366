"""The framing of streamed replies: however a stream is cut, the same documents, each of them an answer."""

import json
from collections.abc import Sequence

import orjson

from sluicegate.destinations.framing import DEPTH_LIMIT, Found, Framing, Malformed

_SPACE = " \t\r\n\0"
_DECODER = json.JSONDecoder()


def check(data: bytes) -> None:
    """Any bytes as a stream."""
    found = _read([data])
    cuts = sorted({byte * len(data) // 256 for byte in data[:16]})
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    if not found == _read(pieces) == _read([data[i : i + 1] for i in range(len(data))]):
        raise AssertionError("the cuts change what is found")
    places = [one.offset for one in found if isinstance(one, Malformed)]
    if places != sorted(set(places)) or not all(0 <= place < len(data) for place in places):
        raise AssertionError(f"places {places} in {len(data)} bytes")
    answers = [orjson.loads(one) for one in found if isinstance(one, bytes)]
    if not all(isinstance(one, dict) for one in answers):
        raise AssertionError("an answer that is no object")
    expected = _documents(data)
    if expected is not None and (places or answers != expected):
        raise AssertionError(f"found {found} where {expected} is written")


def _read(pieces: Sequence[bytes]) -> list[Found]:
    framing = Framing()
    found = [one for piece in pieces for one in framing.feed(piece)]
    return found + framing.end()


def _documents(data: bytes) -> list[object] | None:
    """What another parser reads; None where that does not read it as objects and nulls to its end."""
    try:
        text = data.decode()
        documents: list[object] = []
        index, first = 0, True
        while text[index:].strip(_SPACE):
            index += len(text[index:]) - len(text[index:].lstrip(_SPACE))
            value, end = _DECODER.raw_decode(text, index)
            if value is not None:
                value = orjson.loads(text[index:end])  # which reads numbers and escapes as the gateway does
                if not isinstance(value, dict) or text[index:end].count("{") + text.count("[") > DEPTH_LIMIT:
                    return None
                if "Replies" in value or not ("Tag" in value or "Data" in value):
                    documents += [] if first and "statusCode" in value and "Replies" not in value else [value]
                else:
                    documents.append({"Replies": [value]})
                first = False
            index = end
    except (ValueError, RecursionError):
        return None
    return documents
