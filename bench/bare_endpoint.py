"""`python -m bench.bare_endpoint`: the least that lets boto3 publish a datagram, next to the gateway's endpoint.

One connection at a time: reads a Publish, sends the datagram, answers. It judges nothing and survives nothing; what is
left of the latency is boto3's own time, the kernel's, and about 0.02 ms of parsing in Python. Prints its URL.
"""

import base64
import json
import socket
from urllib.parse import parse_qs

RESULT = (
    b"<PublishResponse><PublishResult><MessageId>55555555-6666-4777-8888-999999999999</MessageId></PublishResult>"
    b"</PublishResponse>"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(RESULT), RESULT)


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            serve(connection, out)


def serve(connection: socket.socket, out: socket.socket) -> None:
    data = b""
    while received := connection.recv(65536):
        data += received
        head, _, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if length and len(body) >= int(length):
            entry = json.loads(parse_qs(body.decode())["Message"][0])
            out.sendto(base64.b64decode(entry["Data"]), (entry["Remote"]["Address"], entry["Remote"]["Port"]))
            connection.sendall(ANSWER)
            data = b""


if __name__ == "__main__":
    main()
