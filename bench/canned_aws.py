"""The answers of SQS, SNS and STS that a gateway wants before it polls a queue; always the same."""

import json
import re
from urllib.parse import parse_qs

from .gateway import TOPIC

ACCOUNT = "000000000000"
REGION = "us-east-1"
KEYS = ("local", "local")
"""Access key and secret: anything does."""


def control_answer(head: bytes, body: bytes, address: tuple[str, int]) -> tuple[bytes, bytes]:
    """Content type and body of the answer to any other operation than the hot ones."""
    found = re.search(rb"x-amz-target: *[a-z0-9_]*\.([a-z]+)", head)
    url = f"http://{address[0]}:{address[1]}/{ACCOUNT}/bench"
    if found:
        answers: dict[bytes, object] = {
            b"createqueue": {"QueueUrl": url},
            b"getqueueurl": {"QueueUrl": url},
            b"getqueueattributes": {"Attributes": {"QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:bench"}},
            b"listqueues": {},
        }
        return b"application/x-amz-json-1.0", json.dumps(answers.get(found[1], {})).encode()
    action = parse_qs(body.decode()).get("Action", ["?"])[0]
    return (
        b"text/xml",
        f"<{action}Response><{action}Result>{_XML.get(action, '')}</{action}Result></{action}Response>".encode(),
    )


_XML = {
    "GetCallerIdentity": f"<Account>{ACCOUNT}</Account><Arn>arn:aws:iam::{ACCOUNT}:root</Arn><UserId>bench</UserId>",
    "Subscribe": f"<SubscriptionArn>{TOPIC}:aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee</SubscriptionArn>",
    "ListSubscriptionsByTopic": "<Subscriptions/>",
}
