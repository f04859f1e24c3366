"""The least that a user would write for himself: a UDP server on uvloop with the handler inside.

`python -m bench.uvloop_server PORT`: each datagram is an event of one packet; its reply goes back by address. Nothing
is batched, sealed, counted, limited or restarted, and a handler that hangs stops everything.
"""

import asyncio
import base64
import sys

import uvloop

from .asyncio_gateway import handler, packet


class Server(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, remote: tuple[str, int]) -> None:
        for reply in handler({"Messages": [packet(data, remote)]}, None)["Replies"]:
            host, _, port = reply["Tag"].rpartition(":")
            self.transport.sendto(base64.b64decode(reply["Data"]), (host, int(port)))


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Server, ("127.0.0.1", port))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
