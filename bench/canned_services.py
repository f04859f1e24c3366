"""`python -m bench.canned_services`: services of AWS and a web hook that take everything.

They cost little, so that their client is the limit. Prints its URL, serves until SIGTERM, and then prints the number of
its requests.
"""

import asyncio
import json
import re
import signal
from functools import cache
from typing import Any, NamedTuple

import uvloop

from .canned_aws import control_answer
from .canned_sqs import Client

_RECORD = json.dumps({"SequenceNumber": "4" * 56, "ShardId": "shardId-000000000000"}).encode()
_MESSAGE = b'{"Id":"%d","MessageId":"' + b"5" * 36 + b'","MD5OfMessageBody":"' + b"0" * 32 + b'"}'


class Results(NamedTuple):
    """An answer with a result for each entry of a request. `entry` is what each has once in the request's body."""

    entry: bytes
    start: bytes
    result: bytes
    """May have `%d`, the place of the entry."""
    end: bytes
    separator: bytes = b","


ANSWERS: dict[bytes, bytes | Results] = {
    b"sendmessagebatch": Results(b'"MessageBody"', b'{"Failed":[],"Successful":[', _MESSAGE, b"]}"),
    b"publishbatch": Results(
        b".Id=",
        b"<PublishBatchResponse><PublishBatchResult><Failed/><Successful>",
        b"<member><MessageId>" + b"5" * 36 + b"</MessageId><Id>%d</Id></member>",
        b"</Successful></PublishBatchResult></PublishBatchResponse>",
        b"",
    ),
    b"putrecords": Results(b'"PartitionKey"', b'{"FailedRecordCount":0,"Records":[', _RECORD, b"]}"),
    b"putrecordbatch": Results(
        b'"Data"', b'{"FailedPutCount":0,"RequestResponses":[', b'{"RecordId":"' + b"6" * 56 + b'"}', b"]}"
    ),
    b"putevents": Results(
        b'"DetailType"', b'{"FailedEntryCount":0,"Entries":[', b'{"EventId":"' + b"7" * 36 + b'"}', b"]}"
    ),
    b"describestatemachine": b'{"type":"EXPRESS"}',
    b"startsyncexecution": b'{"status":"SUCCEEDED","output":"{}"}',
    b"describetable": json.dumps(
        {
            "Table": {
                "AttributeDefinitions": [{"AttributeName": "route", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "route", "KeyType": "HASH"}],
            }
        }
    ).encode(),
}
"""By operation, in lower case."""
REST = b'{"Errors":[]}'
"""To all that names its operation by path: trackers, functions, buckets, topics, APIs, web hooks."""
_OPERATION = re.compile(rb"x-amz-target: *[a-z0-9_]*\.([a-z]+)")


class Sink(Client):
    """One connection."""

    requests = 0
    """Of all connections."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # nothing waits here

    def connection_lost(self, error: Exception | None) -> None: ...

    def _request(self, head: bytes, body: bytes) -> None:
        Sink.requests += 1
        if found := _OPERATION.search(head):
            operation = found[1]
        elif body.startswith(b"Action="):
            operation = body[7 : body.index(b"&")].lower()
        else:
            return self.answer(REST, b"application/json")
        known = ANSWERS.get(operation)
        if isinstance(known, bytes):
            self.answer(known)
        elif known:
            self.answer(_results(known, body.count(known.entry)))
        else:
            content_type, answer = control_answer(head, body, self._transport.get_extra_info("sockname"))
            self.answer(answer, content_type)


@cache
def _results(known: Results, count: int) -> bytes:
    each = [known.result % place if b"%d" in known.result else known.result for place in range(count)]
    return known.start + known.separator.join(each) + known.end


async def main() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server: Any = await loop.create_server(Sink, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stopped.wait()
    print(json.dumps({"requests": Sink.requests}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
