"""Acknowledges each request at once, and sends each result as soon as there is one.

A reply leaves when it is yielded, while the handler goes on. The requests of a batch are worked on side by side.
"""

import asyncio

from sluicegate.handlers import packets


async def handler(event, context):
    requests = packets(event)
    for request in requests:
        yield request.reply("accepted")
    for result in asyncio.as_completed(map(measure, requests)):
        yield await result


async def measure(request):
    await asyncio.sleep(0.2)  # in place of what takes its time
    return request.reply(f"{len(request.data)} bytes")
