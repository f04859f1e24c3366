"""`python -m bench.canned_services`: an SQS and a Kinesis that take everything, so that their client is the limit.

Prints its URL, and serves until it is stopped.
"""

import asyncio
import json
from typing import Any

import uvloop

from .canned_aws import control_answer
from .canned_sqs import Client

_RECORD = json.dumps({"SequenceNumber": "4" * 56, "ShardId": "shardId-000000000000"}).encode()


class Sink(Client):
    """One connection."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # nothing waits here

    def connection_lost(self, error: Exception | None) -> None: ...

    def _request(self, head: bytes, body: bytes) -> None:
        if b"amazonsqs.sendmessagebatch" in head:
            count = body.count(b'"MessageBody"')
            self.answer(_SENT[count])
        elif b".putrecords" in head:
            count = body.count(b'"PartitionKey"')
            self.answer(b'{"FailedRecordCount":0,"Records":[%b]}' % b",".join([_RECORD] * count))
        else:
            content_type, answer = control_answer(head, body, self._transport.get_extra_info("sockname"))
            self.answer(answer, content_type)


_SENT = [
    json.dumps(
        {
            "Failed": [],
            "Successful": [
                {"Id": str(place), "MessageId": "5" * 36, "MD5OfMessageBody": "0" * 32}
                for place in range(count)
            ],
        }
    ).encode()
    for count in range(11)
]


async def main() -> None:
    server: Any = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
