"""Which queues of a gateway are left over, and by whom what waits in them is sent (contract section 4.2).

Example: the `topic_arn` of `replies` is another one since the reload. The queue of the topic before is left over: no
PacketSource names it. `replies` empties it. The same holds for a queue of another node or region, and for one whose
PacketSource has another kind of source, or a topic of the gateway's own (`sns:`).

A queue whose PacketSource is not declared any more is emptied by another one of the same Listener and topic: then it
was renamed. Otherwise by the rules of its own, as they were last, for as long as its Listener is there.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sluicegate.localcode import LocalCode
from sluicegate.model import PacketSource
from sluicegate.sources.topic import queue as sns_queue
from sluicegate.state import SourceQueue

DRAINING = "Draining"
"""The state of a PacketSource that is not declared any more and still sends what waits."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A PacketSource that is declared. `topic_arn`: its topic on AWS, None if its messages come from elsewhere."""

    resource: PacketSource
    state: str
    topic_arn: str | None

    @property
    def active(self) -> bool:
        return self.state == "Active"


@dataclass(frozen=True, slots=True)
class Assigned:
    """What becomes of a queue that no Active PacketSource uses.

    `taker`: the PacketSource that sends what waits, None while nobody does; then `why` says why, with the next step.
    `awaits`: the taker's own queue replaces this one, and has to be subscribed before this one is unsubscribed and
    deleted. `held`: a PacketSource that is declared and not Active keeps it. `idle`: it is the very queue of that one.
    """

    queue: SourceQueue
    listener: str | None
    taker: str | None = None
    awaits: bool = False
    held: bool = False
    idle: bool = False
    why: str = ""


def assign(
    queues: Iterable[SourceQueue],
    wanted: Mapping[str, Wanted],
    able: Mapping[str, PacketSource],
    *,
    region: str,
    node: int,
) -> list[Assigned]:
    """What becomes of each queue that is not in use. `able`: see `still_able`."""
    families = {
        (sns_queue.name_stem(node, one.topic_arn, name), region): one
        for name, one in wanted.items()
        if one.topic_arn is not None
    }
    found = []
    for queue in queues:
        user = families.get(sns_queue.family(queue.arn))
        if user is None:
            found.append(_leftover(queue, wanted, able))
        elif not user.active:
            found.append(Assigned(queue, user.resource.listener_name, held=True, idle=True))
    return found


def _leftover(queue: SourceQueue, wanted: Mapping[str, Wanted], able: Mapping[str, PacketSource]) -> Assigned:
    named = wanted.get(queue.source)
    if named is not None:
        listener = named.resource.listener_name
        if named.active:
            return Assigned(queue, listener, queue.source, awaits=named.topic_arn is not None)
        why = f"PacketSource {queue.source} is {named.state}: make it Active"
        return Assigned(queue, listener, held=True, why=why)
    before = able.get(queue.source)
    if before is None:
        why = "the PacketSource is gone, or its Listener, or it was not Active: declare it again"
        return Assigned(queue, None, why=why)
    for name, one in wanted.items():
        same = (one.topic_arn, one.resource.listener_name) == (queue.topic_arn, before.listener_name)
        if same and one.active:
            return Assigned(queue, before.listener_name, name, awaits=True)
    return Assigned(queue, before.listener_name, queue.source)


def still_able(
    queues: Iterable[SourceQueue],
    documents: Mapping[str, str],
    wanted: Collection[str],
    listeners: Collection[str],
) -> dict[str, PacketSource]:
    """The PacketSources that are not declared any more, have a queue, and were Active on a Listener that is there: they
    can still send."""
    found = {}
    for name in dict.fromkeys(queue.source for queue in queues):
        source = _restored(documents[name]) if name in documents and name not in wanted else None
        if source is not None and source.listener_name in listeners:
            found[name] = source
    return found


def document_of(source: PacketSource) -> str:
    """A PacketSource as the state keeps it."""
    document: dict[str, Any] = {"Document": source.dump()}
    if source.bounds is not None:
        document["Bounds"] = [list(source.bounds.folders), list(source.bounds.kept)]
    return json.dumps(document)


def _restored(text: str) -> PacketSource | None:
    """The PacketSource of `document_of`; None if this version cannot read it."""
    document = json.loads(text)
    try:
        source = PacketSource.model_validate(document["Document"])
    except ValidationError:
        return None
    if "Bounds" in document:
        folders, kept = document["Bounds"]
        source.within(LocalCode(tuple(folders), tuple(kept)))
    return source
