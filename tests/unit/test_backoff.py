"""Pauses grow to their bound, and what failed together does not come back together."""

import pytest

from sluicegate.backoff import Backoff


@pytest.mark.parametrize(("chance", "part"), [(0.0, 0.5), (1.0, 1.0)])
def test_pauses_double_up_to_the_longest(chance: float, part: float) -> None:
    pauses = Backoff(0.1, 10.0, lambda: chance)
    expected = [0.1, 0.2, 0.4, 6.4, 10.0, 10.0]
    assert [pauses.pause(n) for n in (1, 2, 3, 7, 8, 10_000)] == pytest.approx(
        [part * one for one in expected]
    )


def test_pauses_differ() -> None:
    assert len({Backoff().pause(3) for _ in range(10)}) > 1
