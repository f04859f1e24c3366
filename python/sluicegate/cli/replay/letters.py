"""Dead letters as `replay` sees them, wherever they come from: what they hold, which are asked for, sending them."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import orjson

from sluicegate.cli.client import call
from sluicegate.cli.credentials import Api
from sluicegate.events.entries import writable

BATCH = 100  # letters in one request
BATCH_BYTES = 200_000
"""Less than the API takes. One larger letter goes alone."""

BATCH_PACKETS = 10_000
"""As many as a message may ask for."""

Disposition = Literal["Replayed", "Expired", "NotAsked", "OtherRegion", "Unusable"]


@dataclass(slots=True)
class Letter:
    """`entries` of one message as contract section 4.1 has them, None for what could not be sent. `regions` are those
    that the message asks for by `EgressRegion`."""

    raw: bytes
    """As it was found, one line."""
    source: str = ""
    reason: str = ""
    entries: list[Any] | None = None
    regions: frozenset[str] | None = None

    @property
    def packets(self) -> int:
        """How many it asks for: each of an entry's `Remotes` counts."""
        return sum(map(_packets, self.entries or ()))

    def only(self, places: Sequence[int], remotes: Collection[int] = ()) -> bytes:
        """As it was found, with these entries alone where it is shared by several; these `remotes`, if any, where it
        is of one that has them."""
        document = orjson.loads(self.raw)
        entry = document.get("Entry")
        if remotes and isinstance(entry, dict) and isinstance(entry.get("Remotes"), list):
            entry["Remotes"] = [entry["Remotes"][place] for place in sorted(remotes)]
            if "RemoteIndexes" in document:
                document["RemoteIndexes"] = [document["RemoteIndexes"][place] for place in sorted(remotes)]
            return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        if len(places) == len(self.entries or ()) or "Entries" not in document:
            return self.raw
        for name in ("Indexes", "Entries"):
            document[name] = [document[name][place] for place in places]
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asks for. Empty means every reason, every PacketSource."""

    reasons: Sequence[str] = ()
    sources: Sequence[str] = ()
    ignore_expiry: bool = False

    def asks_for(self, letter: Letter) -> bool:
        return (not self.reasons or letter.reason in self.reasons) and (
            not self.sources or letter.source in self.sources
        )

    def disposition(self, letter: Letter, region: str | None = None) -> Disposition:
        """What to do with a letter, by the name under which it is counted. `region` is the gateway's."""
        if letter.entries is None:
            return "Unusable"
        if not self.asks_for(letter):
            return "NotAsked"
        if letter.regions is not None and region not in letter.regions:
            return "OtherRegion"
        if not self.ignore_expiry and letter.entries and all(map(_expired, letter.entries)):
            return "Expired"
        return "Replayed"


@dataclass(slots=True)
class Sent:
    """How a request went: the letters of which something failed again, by their place in the request."""

    message_id: str
    settled: bool
    """What failed again is where the PacketSource's dead letters go, if they go anywhere."""
    failed: dict[int, list[int]] = field(default_factory=dict)
    """With the places of their entries that failed."""
    remotes: dict[int, set[int]] = field(default_factory=dict)
    """Of a letter of an entry with `Remotes` the places of those that failed."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """`(Reason, Detail)` of each entry that failed again."""


class Counts(Counter[str]):
    """How many letters ended how. `reasons`: for each reason of entries that failed again, their number and the first
    detail."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, tuple[int, str]] = {}

    def add(self, sent: Sent, letters: int) -> None:
        """Count what became of a request with so many letters."""
        self["Failed"] += len(sent.failed)
        self["Replayed"] += letters - len(sent.failed)
        for reason, detail in sent.reasons:
            number, first = self.reasons.get(reason, (0, detail))
            self.reasons[reason] = number + 1, first


class Pace:
    """At most `rate` entries a second."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._begun = time.monotonic()
        self._sent = 0

    @property
    def batch(self) -> int:
        """Letters in one request, so that no burst is longer than a tenth of a second."""
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

    def seconds(self, entries: int) -> float:
        """What to wait before so many more are sent."""
        wait = 0.0
        if self._rate is not None:
            wait = max(0.0, self._begun + self._sent / self._rate - time.monotonic())
        self._sent += entries
        return wait


def parse(raw: bytes) -> Letter:
    """The gateway's own form (contract section 4.5)."""
    try:
        document = orjson.loads(raw)
        source, reason = str(document["PacketSource"]), str(document["Reason"])
        shared = document.get("Entries")
        if shared is None:
            return Letter(raw, source, reason, entries_of(document["Entry"]))
        if len(document["Indexes"]) != len(shared):
            return Letter(raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Letter(raw)
    each = [entries_of(entry) for entry in shared]
    if any(entries is None or len(entries) != 1 for entries in each):
        return Letter(raw, source, reason)
    return Letter(raw, source, reason, [entry for entries in each for entry in entries or ()])


def entries_of(body: object) -> list[Any] | None:
    """The entries of a message or of one entry, also as JSON text; None if it is neither, or nested deeper than a
    request can be."""
    if isinstance(body, str):
        try:
            body = orjson.loads(body)
        except ValueError:
            return None
    if not isinstance(body, dict) or not writable(body):
        return None
    messages = body.get("Messages")
    return messages if isinstance(messages, list) else [body]


def fitting(letters: Sequence[Letter], limit: int) -> int:
    """How many of them, from the first on, go into one request."""
    size = packets = 0
    for count, letter in enumerate(letters[:limit]):
        size += len(letter.raw)
        packets += letter.packets
        if count and (size > BATCH_BYTES or packets > BATCH_PACKETS):
            return count
    return min(len(letters), limit)


def send(api: Api, source: str, letters: Sequence[Letter], ignore_expiry: bool) -> Sent:
    """One request to the gateway. Raises `CliError`."""
    entries: list[Any] = []
    owners: list[tuple[int, int]] = []
    for place, letter in enumerate(letters):
        for offset, entry in enumerate(letter.entries or ()):
            kept = entry
            if ignore_expiry and isinstance(entry, dict):
                kept = {name: value for name, value in entry.items() if name != "ExpiresAt"}
            entries.append(kept)
            owners.append((place, offset))
    # An entry alone goes as the message that it was: it may be as large as a message may be.
    body = entries[0] if len(entries) == 1 and isinstance(entries[0], dict) else {"Messages": entries}
    answer = call(api, "POST", f"/v1/packet-sources/{quote(source, safe='')}/messages", body)
    sent = Sent(answer["MessageId"], bool(answer.get("Settled", True)))
    for failure in answer["Failures"]:
        index = failure["Index"]
        for place, offset in owners if index is None else [owners[index]]:
            places = sent.failed.setdefault(place, [])
            if offset not in places:
                places.append(offset)
            if index is not None and "RemoteIndex" in failure:
                sent.remotes.setdefault(place, set()).add(failure["RemoteIndex"])
        sent.reasons.append((failure["Reason"], failure["Detail"]))
    return sent


def keeping(sources: Sequence[dict[str, Any]]) -> set[str]:
    """The PacketSources, as the API shows them, whose entries the gateway keeps if they fail again."""
    return {source["Name"] for source in sources if source.get("DeadLetterQueueArn") is not None}


def _packets(entry: Any) -> int:
    remotes = entry.get("Remotes") if isinstance(entry, dict) else None
    return len(remotes) or 1 if isinstance(remotes, list) else 1


def _expired(entry: Any) -> bool:
    try:
        return datetime.fromisoformat(entry["ExpiresAt"]) <= datetime.now(UTC)
    except (KeyError, TypeError, ValueError):
        return False
