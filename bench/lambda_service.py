"""`python -m bench.lambda_service PORT`: stands in for AWS Lambda behind `asyncio_gateway.py`. Answers every Invoke
with the result of its echo handler; as little else as HTTP needs."""

import asyncio
import json
import sys

from .asyncio_gateway import handler


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"expect: 100-continue" in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            event = json.loads(await reader.readexactly(length))
            result = json.dumps(handler(event, None)).encode()
            kind = b"Content-Type: application/json\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (kind, len(result), result))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 22)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
