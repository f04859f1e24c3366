"""Publishes one message of 1,000 entries to 100 UDP sockets, and waits for the datagrams. Needs boto3.

The sockets stand for devices. It says at the end how many datagrams came, and from which address.
"""

import base64
import json
import selectors
import socket
import time

import boto3

ENDPOINT = "http://127.0.0.1:4566"
TOPIC = "arn:aws:sns:us-east-1:000000000000:commands"
DEVICES, EACH = 100, 10


def main() -> None:
    devices = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(DEVICES)]
    selector = selectors.DefaultSelector()
    for device in devices:
        device.bind(("127.0.0.1", 0))
        selector.register(device, selectors.EVENT_READ)
    entries = [
        {
            "Data": base64.b64encode(f"command {number}".encode()).decode(),
            "Remote": {"Address": "127.0.0.1", "Port": device.getsockname()[1]},
            "TtlSeconds": 5,
        }
        for number in range(EACH)
        for device in devices
    ]
    sns = boto3.client(
        "sns",
        endpoint_url=ENDPOINT,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106  the endpoint asks for none on loopback
    )
    answer = sns.publish(TopicArn=TOPIC, Message=json.dumps({"Messages": entries}))
    print(f"published {len(entries)} entries as message {answer['MessageId']}")

    received, senders = 0, set()
    deadline = time.monotonic() + 5
    while received < len(entries) and (left := deadline - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            senders.add(key.fileobj.recvfrom(65_535)[1])
            received += 1
    print(f"received {received} datagrams from {sorted(senders)}")
    if received < len(entries):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
