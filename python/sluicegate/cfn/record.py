"""What an `apply` made, in a file beside the template: the next one changes it, `--delete` removes it.

A file and not the gateway: it stands beside the inline code that was written with it, a person can read it, and it
works with every gateway. Of a resource's properties it keeps a hash, because they may hold secrets.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "stack.json"


class RecordError(Exception):
    """The record cannot be used: the message has the cause and the next step."""


@dataclasses.dataclass(frozen=True)
class Made:
    """One resource. `id` None: it was about to be made under `key`, and it is not known whether it was."""

    kind: str
    id: str | None
    identity: Mapping[str, Any]
    digest: str
    version: str | None = None
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    key: str | None = None


class Record:
    """The resources of one stack by logical id, in the order in which they were made; written with every change."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / FILE
        self.name = name
        self.made: dict[str, Made] = {}
        self.leaving: list[Made] = []
        """Replaced ones that are not deleted yet."""
        self._read()

    def put(self, logical_id: str, made: Made) -> None:
        """Keep `made`, in place of what had the same logical id."""
        self.made[logical_id] = made
        self._write()

    def forget(self, logical_id: str) -> None:
        """Forget a resource that was deleted."""
        self.made.pop(logical_id, None)
        self._write()

    def leave(self, logical_id: str) -> None:
        """Another one takes its place: to be deleted at the end."""
        self.leaving.append(self.made.pop(logical_id))
        self._write()

    def left(self, made: Made) -> None:
        """A replaced one is deleted."""
        self.leaving.remove(made)
        self._write()

    def remove(self) -> None:
        """The whole stack is no more."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            document = json.loads(self.path.read_text())
            self.made = {name: Made(**one) for name, one in document["Resources"].items()}
            self.leaving = [Made(**one) for one in document["Leaving"]]
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(f"{self.path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecordError(
                f"{self.path} is damaged: restore it, or delete the stack's resources by hand and then the file"
            ) from None

    def _write(self) -> None:
        document = {
            "Stack": self.name,
            "Resources": {name: vars(one) for name, one in self.made.items()},
            "Leaving": [vars(one) for one in self.leaving],
        }
        new = self.path.with_name(FILE + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            new.replace(self.path)
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be written: {error.strerror}; name another directory with --directory"
            ) from None


def digest(document: Mapping[str, Any]) -> str:
    """A digest of a document: equal documents have equal digests."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
