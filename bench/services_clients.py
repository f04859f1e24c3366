"""`python -m bench.services_clients SERVICE HOW URL SECONDS`: delivers packets in batches of 500 for so long.

HOW is `own`, the gateway's Destination with up to eight batches at a time (fewer where it takes fewer), or
`aiobotocore`, what one would write for SQS and Kinesis instead. Prints the packets, the seconds and the processor time
that they took, all without the first batch.
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
_PLACE = f"{REGION}:123456789012"
TARGETS = {
    "lambda": f"arn:aws:lambda:{_PLACE}:function:bench",
    "apigateway": f"arn:aws:execute-api:{_PLACE}:a1b2c3d4e5/live/POST/bench",
    "stepfunctions": f"arn:aws:states:{_PLACE}:stateMachine:bench",
    "sqs": f"arn:aws:sqs:{_PLACE}:bench",
    "sns": f"arn:aws:sns:{_PLACE}:bench",
    "eventbridge": f"arn:aws:events:{_PLACE}:event-bus/bench",
    "kinesis": f"arn:aws:kinesis:{_PLACE}:stream/bench",
    "firehose": f"arn:aws:firehose:{_PLACE}:deliverystream/bench",
    "s3": "arn:aws:s3:::bench/*",
    "cloudwatchlogs": f"arn:aws:logs:{_PLACE}:log-group:bench:*",
    "dynamodb": f"arn:aws:dynamodb:{_PLACE}:table/bench",
    "iot": f"arn:aws:iot:{_PLACE}:topic/bench",
    "location": f"arn:aws:geo:{_PLACE}:tracker/bench",
    "http": "{url}/bench",
    "nats": "{url}/bench",
}
POSITION = {"DeviceIdExpression": "A20C", "LatitudeExpression": "47.5", "LongitudeExpression": "8.5"}
"""What the expressions of a tracker say of each packet."""
Deliver = Callable[[], Awaitable[object]]
Run = Callable[[Deliver, int], Awaitable[None]]


def records() -> list[bytes]:
    from sluicegate.testing import packet_batch

    # 64 bytes of payload in Base64, and Tags as long as the gateway's.
    return packet_batch(*[f"{number:088}" for number in range(BATCH)]).records()


async def own(service: str, url: str, run: Run) -> None:
    from pathlib import Path

    from sluicegate.aws import Aws
    from sluicegate.destinations import create
    from sluicegate.destinations.batch import RecordBatch
    from sluicegate.model import DestinationSpec
    from sluicegate.testing import destination_context

    aws = Aws(REGION, url)
    target = TARGETS[service].format(url=url)
    arguments = dict.fromkeys(POSITION, "[0]") if service == "location" else {}
    spec = DestinationSpec(name="bench", destination_arn=target, arguments=arguments)
    made = create(spec, target, destination_context(Path(), region=REGION, aws=aws))
    await made.provision()
    batch = RecordBatch(records(), {name: [value] * BATCH for name, value in POSITION.items()})
    await run(lambda: made.deliver(batch), min(PARALLEL, made.concurrency))
    await made.close()
    await aws.close()


async def aiobotocore(service: str, url: str, run: Run) -> None:
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

        await run(to_sqs if service == "sqs" else to_kinesis, PARALLEL)


async def main(service: str, how: str, url: str, seconds: float) -> None:
    async def run(deliver: Deliver, parallel: int) -> None:
        await deliver()
        gc.freeze()  # as the gateway does once it runs
        gc.set_threshold(10_000, 20, 20)
        batches = 0

        async def loop() -> None:
            nonlocal batches
            while time.monotonic() - started < seconds:
                await deliver()
                batches += 1

        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(loop() for _ in range(parallel)))
        took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps({"packets": batches * BATCH, **took}), flush=True)

    await (own if how == "own" else aiobotocore)(service, url, run)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
