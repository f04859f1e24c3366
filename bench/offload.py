"""GSO: a burst to one remote leaves as runs (UDP_SEGMENT), next to the same number of datagrams to many remotes.

The sink takes runs whole, as a network card with the offload would; "cut up here" is the same where the sender's kernel
has to cut each run into datagrams itself.
"""

from collections.abc import Iterator

from .egress import by_loop, submitted
from .plan import Plan
from .results import Row, compare

SIZE = 1200
GOAL = 3.0


def run(plan: Plan) -> Iterator[Row]:
    count = plan.packets * 2
    one, cut, many, loop, loop_cut = [], [], [], [], []
    for _ in range(plan.rounds):
        one.append(submitted(1, SIZE, count, offload=True))
        many.append(submitted(1_000, SIZE, count // 2))
        loop.append(by_loop("segment", 1, SIZE, count, offload=True))
        cut.append(submitted(1, SIZE, count))
        loop_cut.append(by_loop("segment", 1, SIZE, count))
    yield compare(f"GSO, one remote, {SIZE} B", one, "own rate to 1,000 remotes", many, GOAL)
    yield compare(f"GSO, one remote, {SIZE} B", one, "C UDP_SEGMENT", loop)
    yield compare("GSO, one remote, cut up here", cut, "own rate to 1,000 remotes", many)
    yield compare("GSO, one remote, cut up here", cut, "C UDP_SEGMENT, cut up here", loop_cut)
