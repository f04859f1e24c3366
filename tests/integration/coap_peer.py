"""aiocoap as the client of one server, as a program: `coap_peer.py URI STEP…`. Prints what came of each step."""

import asyncio
import json
import sys
from typing import Any

import aiocoap  # type: ignore[import-untyped]

CON, NON = aiocoap.Reliable, aiocoap.Unreliable
BODY = bytes(range(256)) * 12


async def get(client: Any, uri: str, path: str, tuning: Any = CON) -> Any:
    request = aiocoap.Message(code=aiocoap.GET, uri=uri + path, transport_tuning=tuning)
    answer = await client.request(request).response
    return {"Code": answer.code.dotted, "Payload": answer.payload.hex()}


async def put(client: Any, uri: str) -> Any:
    """More than one block: by Block1."""
    request = aiocoap.Message(code=aiocoap.PUT, uri=uri + "/other", payload=BODY)
    answer = await client.request(request).response
    return {"Code": answer.code.dotted, "Payload": answer.payload.hex()}


async def observe(client: Any, uri: str) -> Any:
    """Prints each notification; gives up after the second, so that the next one is answered by a reset."""
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri + "/time", observe=0))
    first = await request.response
    print(json.dumps({"Registered": first.opt.observe is not None}), flush=True)
    seen = 0
    async for note in request.observation:
        seen += 1
        print(json.dumps({"Notified": note.payload.decode()}), flush=True)
        if seen == 2:
            break
    request.observation.cancel()
    print(json.dumps({"Cancelled": True}), flush=True)
    await asyncio.Event().wait()  # until the test ends this program: the reset is still to come


async def main(uri: str, *steps: str) -> None:
    client = await aiocoap.Context.create_client_context()
    known = {
        "con": lambda: get(client, uri, "/hello"),
        "non": lambda: get(client, uri, "/hello", NON),
        "block1": lambda: put(client, uri),
        "block2": lambda: get(client, uri, "/other"),
        "slow": lambda: get(client, uri, "/slow"),
        "separate": lambda: get(client, uri, "/separate"),
        "observe": lambda: observe(client, uri),
    }
    for step in steps:
        print(json.dumps({"Step": step, "Answer": await known[step]()}), flush=True)
    await client.shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
