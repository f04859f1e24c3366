"""What a user would write instead of the gateway's doors: aiohttp on uvloop, and a socket.

`python -m bench.aiohttp_gateway`: takes the REST API's POST of messages and SNS's Publish, sends each entry as a
datagram and answers in their shapes. It judges nothing, keeps no account, and knows nobody. Prints its URL.
"""

import asyncio
import base64
import gc
import json
import signal
import socket
import uuid

import orjson
import uvloop
from aiohttp import web

OUT = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
OUT.setblocking(False)


def send(body: str | bytes) -> int:
    message = orjson.loads(body)
    entries = message.get("Messages", [message])
    for entry in entries:
        remote = entry["Remote"]
        OUT.sendto(base64.b64decode(entry["Data"]), (remote["Address"], remote["Port"]))
    return len(entries)


async def rest(request: web.Request) -> web.Response:
    sent = send(await request.read())
    answer = {"MessageId": str(uuid.uuid4()), "Entries": sent, "Sent": sent, "Failures": []}
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


async def sns(request: web.Request) -> web.Response:
    form = await request.post()
    if form["Action"] != "Publish":
        raise web.HTTPBadRequest
    send(str(form["Message"]))
    answer = (
        '<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<PublishResult><MessageId>{uuid.uuid4()}</MessageId></PublishResult>"
        f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></PublishResponse>"
    )
    return web.Response(body=answer.encode(), content_type="text/xml")


async def main() -> None:
    app = web.Application(client_max_size=1 << 20)
    app.add_routes([web.post("/v1/packet-sources/{name}/messages", rest), web.post("/", sns)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gc.freeze()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(main())
