"""`python -m bench.services_clients SERVICE HOW URL PACKETS`: delivers packets in batches of 500, eight at a time.

SERVICE is `sqs` or `kinesis`; HOW is `own`, the gateway's Destination, or `aiobotocore`, what one would write instead.
Prints the seconds and the processor time that it took, without the first batch.
"""

import asyncio
import gc
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import uvloop

from .canned_aws import ACCOUNT, REGION
from .sqs_baselines import OPTIONS

BATCH = 500
PARALLEL = 8
PUT = {"sqs": 10, "kinesis": 500}
"""Packets in a request."""
TARGETS = {
    "sqs": f"arn:aws:sqs:{REGION}:123456789012:bench",
    "kinesis": f"arn:aws:kinesis:{REGION}:123456789012:stream/bench",
}
Deliver = Callable[[], Awaitable[object]]


def records() -> list[bytes]:
    from sluicegate.testing import packet_batch

    # 64 bytes of payload in Base64, and Tags as long as the gateway's.
    return packet_batch(*[f"{number:088}" for number in range(BATCH)]).records()


async def own(service: str, url: str, run: Callable[[Deliver], Awaitable[None]]) -> None:
    from pathlib import Path

    from sluicegate.aws import Aws
    from sluicegate.destinations import create
    from sluicegate.destinations.batch import RecordBatch
    from sluicegate.model import DestinationSpec
    from sluicegate.testing import destination_context

    aws = Aws(REGION, url)
    spec = DestinationSpec(name="bench", destination_arn=TARGETS[service])
    made = create(spec, TARGETS[service], destination_context(Path(), region=REGION, aws=aws))
    batch = RecordBatch(records())
    await run(lambda: made.deliver(batch))
    await aws.close()


async def aiobotocore(service: str, url: str, run: Callable[[Deliver], Awaitable[None]]) -> None:
    from aiobotocore.session import get_session

    batch = records()
    async with get_session().create_client(service, endpoint_url=url, **OPTIONS) as client:

        async def send(part: list[bytes]) -> None:
            entries = [{"Id": str(place), "MessageBody": one.decode()} for place, one in enumerate(part)]
            await client.send_message_batch(QueueUrl=f"{url}/{ACCOUNT}/bench", Entries=entries)

        async def to_sqs() -> None:
            await asyncio.gather(*(send(batch[start : start + 10]) for start in range(0, BATCH, 10)))

        async def to_kinesis() -> None:
            entries = [{"Data": one, "PartitionKey": uuid.uuid4().hex} for one in batch]
            await client.put_records(StreamName="bench", Records=entries)

        await run(to_sqs if service == "sqs" else to_kinesis)


async def main(service: str, how: str, url: str, packets: int) -> None:
    async def run(deliver: Deliver) -> None:
        await deliver()
        gc.freeze()  # as the gateway does once it runs
        gc.set_threshold(10_000, 20, 20)
        left = packets // BATCH

        async def loop() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await deliver()

        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(loop() for _ in range(PARALLEL)))
        took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(took), flush=True)

    await (own if how == "own" else aiobotocore)(service, url, run)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
