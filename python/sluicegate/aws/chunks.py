"""Many items in requests that take so many at a time."""

from collections.abc import Iterable, Iterator


def chunks(sizes: Iterable[int], count: int, size: int) -> Iterator[tuple[int, int]]:
    """The first index of each chunk, and the one behind its last: `count` items at most, and `size` bytes together,
    unless a single item is larger.

    >>> list(chunks([3, 3, 9, 1, 1, 1], count=2, size=6))
    [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    start = index = total = 0
    for index, one in enumerate(sizes, 1):
        if index - start > count or (total and total + one > size):
            yield start, index - 1
            start, total = index - 1, 0
        total += one
    if start < index:
        yield start, index
