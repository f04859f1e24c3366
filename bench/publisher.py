"""`python -m bench.publisher ENDPOINT SINK_PORT REMOTES SIZE COUNT [single]`: a boto3 client that publishes messages of
up to 256 KiB, or of a single entry, one after the other, until COUNT entries are out. Prints how it went."""

import json
import resource
import sys
import time
from typing import Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]

from .feeder import prepare
from .gateway import TOPIC


def client(endpoint: str) -> Any:
    """A boto3 client for the gateway's SNS endpoint, as its users make one."""
    return boto3.client(
        "sns",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
        config=Config(retries={"max_attempts": 20, "mode": "standard"}),
    )


def main() -> None:
    endpoint = sys.argv[1]
    port, remotes, size, count = map(int, sys.argv[2:6])
    bodies = prepare(port, remotes, size, count)
    if len(sys.argv) > 6:
        bodies = [part for number in range(count) for part in prepare(port, remotes, size, 1)]
    sns = client(endpoint)
    sns.list_topics()  # the connection, and what boto3 reads at first use
    print("ready", flush=True)
    start, published = time.monotonic(), 0
    for body, entries in bodies:
        sns.publish(TopicArn=TOPIC, Message=body.decode())
        published += entries
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {"entries": published, "publishes": len(bodies), "seconds": time.monotonic() - start}
    print(json.dumps({**result, "cpu_seconds": usage.ru_utime + usage.ru_stime}))


if __name__ == "__main__":
    main()
