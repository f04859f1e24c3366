"""Classes that other packages bring, by name: entry points of a group, with ours among them.

Ours are known without an installed distribution too: a source tree has no entry points.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from sluicegate.faults import failure

T = TypeVar("T")


class NotLoadable(Exception):
    """The class behind a name cannot be had: `cause` names the entry point, `fix` the next step."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}: {fix}")
        self.cause = cause
        self.fix = fix


class Registry(Generic[T]):
    """Subclasses of `base` by the names of their entry points in `group`; `built_in` has ours as `module:Class`.

    Names are compared in lower case. The entry points are read at the first look.
    """

    def __init__(self, group: str, base: type[T], built_in: Mapping[str, str]) -> None:
        self.group = group
        self._base = base
        self._built_in = built_in

    def names(self) -> list[str]:
        """The names as their packages spell them, sorted."""
        return sorted(entry.name for entry in self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._entries

    def load(self, name: str) -> type[T]:
        """The class of a known name. Raises `KeyError` for another name, and `NotLoadable`."""
        what = f"the {self._base.__name__} for {name!r}"
        if others := self._clashes.get(name.lower()):
            cause = f"{what} is provided more than once: {' and '.join(others)}"
            raise NotLoadable(cause, "uninstall all of these packages but one")
        try:
            found = self._entries[name.lower()].load()
        except (Exception, SystemExit) as error:  # its code runs, and may raise whatever it likes
            cause = f"{what} cannot be loaded from {self.origin(name)} ({failure(error)})"
            raise NotLoadable(
                cause, "correct the entry point, or reinstall the package that provides it"
            ) from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise NotLoadable(
                f"{what}, {self.origin(name)}, is not a subclass of {self._base.__name__}",
                "correct the entry point of the package that provides it",
            )
        return found

    def origin(self, name: str) -> str:
        """Where the class of a known name comes from, for people: `module:Class of the package NAME`."""
        return _origin(self._entries[name.lower()])

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {name: entries[0] for name, entries in self._found.items()}

    @cached_property
    def _clashes(self) -> dict[str, list[str]]:
        """Names for which there are several classes, with where each comes from. Nobody may replace one unseen."""
        return {
            name: [_origin(one) for one in found] for name, found in self._found.items() if len(found) > 1
        }

    @cached_property
    def _found(self) -> dict[str, list[EntryPoint]]:
        """Each name with its entry points, as far as they name different classes."""
        found: dict[str, list[EntryPoint]] = {}
        ours = [EntryPoint(key, value, self.group) for key, value in self._built_in.items()]
        for entry in [*ours, *entry_points(group=self.group)]:
            same = found.setdefault(entry.name.lower(), [])
            if all(entry.value != one.value for one in same):
                same.append(entry)
        return found


def _origin(entry: EntryPoint) -> str:
    return f"{entry.value} of the package {entry.dist.name}" if entry.dist else entry.value
