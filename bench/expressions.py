"""Expressions: ingress to a `file:` Destination while 10 and 100 expressions are asked of each packet.

Each is the filter of a Destination, and all but one leave the packet out. The baseline is the same gateway with the one
Destination, without a filter.
"""

from collections.abc import Iterator

from .ingress import DESTINATION, gateway_load
from .plan import Plan
from .results import Row, compare

GOAL = 0.7
# The route of two versions of MAVLink, by which no packet of the generator passes; and one by which all pass.
LEFT_OUT = "([0] == 0xFE ? u16le[3:5] : u16le[5:7]) == 0xFFFE && [0:4] == 0x01020304"
PASSES = "u8[0] >= 0"


def run(plan: Plan) -> Iterator[Row]:
    size = plan.sizes[0]
    for count, goal in ((10, GOAL), (100, None)):
        asked, plain = [], []
        for _ in range(plan.rounds):
            asked.append(gateway_load(_destinations(count), size, plan.seconds))
            plain.append(gateway_load(DESTINATION, size, plan.seconds))
        yield compare(f"{count} expressions, {size} B", asked, "without expressions", plain, goal)


def _destinations(count: int) -> str:
    kept = f"      - {{ name: file, filter_expression: '{PASSES}', destination_arn: 'file:out.ndjson' }}\n"
    return kept + "".join(
        f"      - {{ name: other-{n}, filter_expression: '{LEFT_OUT}', destination_arn: 'file:other.ndjson' }}\n"
        for n in range(count - 1)
    )
