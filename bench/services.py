"""Delivery to SQS and Kinesis: the gateway's Destinations next to aiobotocore, one core each, the service on the other.

Both deliver the same packets in batches of 500, eight at a time, to a service that takes everything at once
(`canned_services.py`); `services_clients.py` has both.
"""

import collections
from collections.abc import Iterator

from .plan import Plan
from .processes import LOAD_CORE, TESTED_CORE, Process, module
from .results import Row, Sample, compare
from .services_clients import BATCH, PUT
from .sqs import credentials

PART = {"sqs": 20, "kinesis": 3}
"""Of `Plan.packets`: a request has ten of them, or 500."""
GOAL = 2.5


def run(plan: Plan) -> Iterator[Row]:
    with credentials():
        for service, size in PUT.items():
            samples: dict[str, list[Sample]] = collections.defaultdict(list)
            packets = max(1, plan.packets // PART[service] // BATCH) * BATCH
            for _ in range(plan.rounds):
                for how in ("own", "aiobotocore"):
                    samples[how].append(_sample(service, how, packets))
            name = f"delivery to {service}, {1000 // size} requests for 1,000 packets"
            yield compare(name, samples["own"], "aiobotocore", samples["aiobotocore"], GOAL)


def _sample(service: str, how: str, packets: int) -> Sample:
    with Process(module("canned_services"), LOAD_CORE) as canned:
        command = module("services_clients", service, how, canned.line(), packets)
        with Process(command, TESTED_CORE) as client:
            seen = client.result()
    return Sample(packets / seen["seconds"], 0, seen["cpu_seconds"] / packets * 1e6)
