"""The handler as a responder of NATS: `python responder.py nats://127.0.0.1:4222 echo`."""

import asyncio
import json
import sys

import nats
from echo import handler


async def main(url, subject):
    client = await nats.connect(url)

    async def answer(message):
        await message.respond(json.dumps(handler(json.loads(message.data), None)).encode())

    await client.subscribe(subject, queue="echo", cb=answer)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
