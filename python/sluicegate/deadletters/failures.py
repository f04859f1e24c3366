"""The failed entries of one message, in little memory."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import overload

_FAILURE_BYTES = 20  # what a failure takes in the arrays
_CAUSE_BYTES = 256  # what a cause takes beside its detail's text


@dataclass(slots=True)
class Failure:
    """An entry that was not sent; `index` None: the whole body. `reason` is one of contract section 4.5.

    `remote_index`: it is one of the entry's `Remotes`, by its place among them.
    """

    index: int | None
    reason: str
    detail: str
    remote_index: int | None = None


class Failures(Sequence[Failure]):
    """Immutable; from `(index, reason, detail)`, and the places in the entries' `Remotes` where any has one.

    A body can hold 10,000 entries that fail alike, which as objects of their own would take a hundred times as much as
    the body.

    `lost` becomes true when the place of their dead letters had no room for them.
    """

    __slots__ = ("_causes", "_indices", "_remotes", "_which", "lost")

    def __init__(
        self,
        failures: Sequence[tuple[int | None, str, str]] = (),
        remote_indexes: Sequence[int | None] = (),
    ) -> None:
        self.lost = False
        self._remotes: array[int] | None = None
        if remote_indexes:
            self._remotes = array("q", [-1 if place is None else place for place in remote_indexes])
        self._indices: array[int] | tuple[int, ...]  # -1: None
        self._which: array[int] | tuple[int, ...]
        if len(failures) == 1:  # as most are: without arrays it costs half
            ((index, reason, detail),) = failures
            self._indices, self._which = (-1 if index is None else index,), (0,)
            self._causes = [(reason, detail)]
            return
        known: dict[tuple[str, str], int] = {}
        indices, which = array("q"), array("I")
        for index, reason, detail in failures:
            indices.append(-1 if index is None else index)
            which.append(known.setdefault((reason, detail), len(known)))
        self._indices, self._which, self._causes = indices, which, list(known)

    @property
    def held_bytes(self) -> int:
        """About what this takes in memory."""
        return len(self) * _FAILURE_BYTES + sum(_CAUSE_BYTES + len(detail) for _, detail in self._causes)

    def reasons(self) -> dict[str, int]:
        """How many there are for each."""
        if len(self._causes) == 1:
            return {self._causes[0][0]: len(self._indices)}
        return Counter(self._causes[which][0] for which in self._which)

    def alike(self, start: int) -> Iterator[list[Failure]]:
        """Those from the place `start` on, together where reason and detail are the same, in the order of the first."""
        places: dict[int, list[int]] = {}
        for place in range(start, len(self)):
            places.setdefault(self._which[place], []).append(place)
        for some in places.values():
            yield [self[place] for place in some]

    def split(self) -> "tuple[Failures, list[list[Failure]]]":
        """Those that are of no `Remotes`, and the others: together where entry and reason are the same."""
        if self._remotes is None:
            return self, []
        alone: list[tuple[int | None, str, str]] = []
        shared: dict[tuple[int | None, str], list[Failure]] = {}
        for failure in self:
            if failure.remote_index is None:
                alone.append((failure.index, failure.reason, failure.detail))
            else:
                shared.setdefault((failure.index, failure.reason), []).append(failure)
        return Failures(alone), list(shared.values())

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> Failure: ...
    @overload
    def __getitem__(self, place: slice) -> list[Failure]: ...
    def __getitem__(self, place: int | slice) -> Failure | list[Failure]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        remote = -1 if self._remotes is None else self._remotes[place]
        return self._failure(self._indices[place], self._which[place], remote)

    def __iter__(self) -> Iterator[Failure]:
        return map(self._failure, self._indices, self._which, self._remotes or repeat(-1))

    def _failure(self, index: int, which: int, remote: int) -> Failure:
        reason, detail = self._causes[which]
        return Failure(None if index < 0 else index, reason, detail, None if remote < 0 else remote)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
