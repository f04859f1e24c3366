"""The failed entries of one message, in little memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

_CAUSE_BYTES = 256  # what a cause takes beside its detail's text


@dataclass(slots=True)
class Failure:
    """An entry that was not sent; `index` None: the whole body. `reason` is one of contract section 4.5."""

    index: int | None
    reason: str
    detail: str


class Failures(Sequence[Failure]):
    """Immutable; from `(index, reason, detail)`. A body of 256 KiB can hold 131,000 entries that fail alike, which as
    objects of their own would take a hundred times as much as the body."""

    __slots__ = ("_causes", "_indices", "_which")

    def __init__(self, failures: Iterable[tuple[int | None, str, str]] = ()) -> None:
        known: dict[tuple[str, str], int] = {}
        self._indices = array("q")  # -1: None
        self._which = array("I")
        for index, reason, detail in failures:
            self._indices.append(-1 if index is None else index)
            self._which.append(known.setdefault((reason, detail), len(known)))
        self._causes = list(known)

    @property
    def held_bytes(self) -> int:
        """About what this takes in memory."""
        own = len(self) * (self._indices.itemsize + self._which.itemsize)
        return own + sum(_CAUSE_BYTES + len(detail) for _, detail in self._causes)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> Failure: ...
    @overload
    def __getitem__(self, place: slice) -> list[Failure]: ...
    def __getitem__(self, place: int | slice) -> Failure | list[Failure]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        index = self._indices[place]
        return Failure(None if index < 0 else index, *self._causes[self._which[place]])

    def __iter__(self) -> Iterator[Failure]:
        for index, which in zip(self._indices, self._which, strict=True):
            yield Failure(None if index < 0 else index, *self._causes[which])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
