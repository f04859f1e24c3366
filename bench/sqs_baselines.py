"""What one would write instead of the gateway's SNS source: receive, send, delete.

`python -m bench.sqs_baselines HOW URL`: `boto3` in threads, `aiobotocore` on uvloop, or `own`: the gateway's client
of SQS without the gateway. They read the entry out of the envelope and send it; they judge nothing and account for
nothing. Eight loops side by side each: in trials no other number was clearly better.
"""

import asyncio
import base64
import json
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any

from .canned_aws import ACCOUNT, KEYS, REGION

LOOPS = 8
OPTIONS = dict(zip(("aws_access_key_id", "aws_secret_access_key"), KEYS, strict=True)) | {
    "region_name": REGION
}


class Sender:
    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, bodies: Iterable[str]) -> None:
        for body in bodies:
            entry = json.loads(json.loads(body)["Message"])
            remote = entry["Remote"]
            self._socket.sendto(base64.b64decode(entry["Data"]), (remote["Address"], remote["Port"]))


def by_boto3(url: str) -> None:
    import boto3  # type: ignore[import-untyped]

    sender, queue = Sender(), f"{url}/{ACCOUNT}/bench"
    sqs = boto3.client("sqs", endpoint_url=url, **OPTIONS)

    def loop() -> None:
        while True:
            answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            messages = answer.get("Messages", [])
            sender.send(message["Body"] for message in messages)
            sqs.delete_message_batch(QueueUrl=queue, Entries=_entries(messages))

    threads = [threading.Thread(target=loop) for _ in range(LOOPS)]
    for thread in threads:
        thread.start()


async def by_aiobotocore(url: str) -> None:
    from aiobotocore.session import get_session

    sender, queue = Sender(), f"{url}/{ACCOUNT}/bench"
    async with get_session().create_client("sqs", endpoint_url=url, **OPTIONS) as sqs:

        async def loop() -> None:
            while True:
                answer = await sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
                messages = answer.get("Messages", [])
                sender.send(message["Body"] for message in messages)
                await sqs.delete_message_batch(QueueUrl=queue, Entries=_entries(messages))

        await asyncio.gather(*(loop() for _ in range(LOOPS)))


async def by_own_client(url: str) -> None:
    from sluicegate.aws import Aws

    sender, queue = Sender(), Aws(REGION, url).queue(f"{url}/{ACCOUNT}/bench")

    async def loop() -> None:
        while True:
            messages = await queue.receive()
            sender.send(message.body for message in messages)
            await queue.delete([message.receipt for message in messages])

    await asyncio.gather(*(loop() for _ in range(LOOPS)))


def _entries(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
        for index, message in enumerate(messages)
    ]


def main() -> None:
    import uvloop

    how, url = sys.argv[1:]
    if how == "boto3":
        by_boto3(url)
    else:
        uvloop.run((by_aiobotocore if how == "aiobotocore" else by_own_client)(url))


if __name__ == "__main__":
    main()
