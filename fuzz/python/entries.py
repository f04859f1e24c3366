"""What events say of failed entries: any body gives fields that are bounded and can be written as JSON."""

import itertools

import orjson

from sluicegate.deadletters.failures import Failures
from sluicegate.deadletters.letter import LETTER_BYTES, FailedMessage
from sluicegate.events import EventLog, MemorySink
from sluicegate.events.entries import Entries

INDEXES = (None, -1, 0, 1, 2, 1_000_000)
KNOWN = {"Id", "Tag", "Remote", "Bytes"}
TEXT_LIMIT = 256


def check(data: bytes) -> None:
    """Any bytes as the body of a message or an answer."""
    entries = Entries(data)
    for index, place in itertools.product(INDEXES, (None, -1, 0, 1, 1_000_000)):
        fields = entries.fields(index, place)
        if not fields.keys() <= KNOWN or None in fields.values():
            raise AssertionError(f"fields that no event has: {fields}")
        remote = fields.get("Remote")
        texts = list(remote.values()) if isinstance(remote, dict) else [remote]
        for value in (*texts, fields.get("Id"), fields.get("Tag")):
            if isinstance(value, str) and len(value) > TEXT_LIMIT:
                raise AssertionError(f"{len(value)} characters in an event")
        size = fields.get("Bytes", 0)
        if not isinstance(size, int) or not 0 <= size <= 3 * len(data):
            raise AssertionError(f"{size} bytes in a body of {len(data)}")
        _check_event(index, fields)
        _check_letters(data, index, place)


def _check_letters(data: bytes, index: int | None, remote: int | None) -> None:
    failures = Failures([(index, "Expired", "late")], [] if remote is None else [remote])
    message = FailedMessage("replies", "decoder", "m1", "2026-06-09T10:00:00.123Z", data, failures)
    for letter in message.letters():
        if len(letter.text(LETTER_BYTES).encode()) > LETTER_BYTES:
            raise AssertionError("a letter is longer than its place takes")


def _check_event(index: int | None, fields: dict[str, object]) -> None:
    sink = MemorySink()
    log = EventLog(sink, node=1, region="us-east-1", clock=lambda: 1_780_000_000.0)
    log.emit("SourceFailed", Listener="decoder", Index=index, **fields)
    (line,) = sink.lines
    shown = orjson.loads(line)
    for name, value in fields.items():
        if name != "Remote" and shown[name] != value:
            raise AssertionError(f"{name} is {value!r} and shown as {shown[name]!r}")
