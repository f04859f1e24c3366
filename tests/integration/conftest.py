"""Fixtures around `harness.py`: what they start, they stop."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from harness import HOST, Gateway, Netns, Place


class StartGateway(Protocol):
    def __call__(
        self,
        text: str,
        handlers: Mapping[str, str] | None = None,
        *,
        place: Place = HOST,
        start: bool = True,
    ) -> Gateway: ...


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Makes gateways, each in a directory of its own; `start=False` only writes the files."""
    made: list[Gateway] = []

    def make(
        text: str, handlers: Mapping[str, str] | None = None, *, place: Place = HOST, start: bool = True
    ) -> Gateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        one = Gateway(directory, text, handlers, place)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A network namespace of the test's own."""
    missing = Netns.missing()
    if missing:
        pytest.skip(missing)
    made = Netns()
    yield made
    made.close()
