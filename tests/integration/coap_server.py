"""A handler that speaks CoAP by the formatter: `/hello`, `/store…` in blocks (RFC 7959), `/separate`, and `/slow`,
whose answer waits until there is a file `answer` beside this one."""

import json
import time
from base64 import b64decode, b64encode
from itertools import count
from pathlib import Path
from random import randrange

CON, NON, ACK, RST = range(4)
BLOCK2, BLOCK1 = 23, 27
HERE = Path(__file__).parent
ids = count(randrange(1 << 15))


def handler(event, context):
    return {
        "Replies": [
            {"Tag": packet["Tag"], "Data": json.dumps(made)}
            for packet in event["Messages"]
            for made in answers(json.loads(packet["Data"]))
        ]
    }


def answers(message):
    path = message.get("Path")
    if path == "/hello":
        yield response(message, "2.05", payload=b"hello")
    elif path == "/slow":
        while not (HERE / "answer").exists():
            time.sleep(0.01)
        yield response(message, "2.05", payload=b"hello")
    elif path == "/separate":
        yield {"Type": ACK, "Code": "0.00", "MessageId": message["MessageId"], "Token": ""}
        made = response(message, "2.05", payload=b"later")
        yield {**made, "Type": CON, "MessageId": next(ids)}
    elif path in ("/store", "/other"):
        yield (put if message["Method"] == "PUT" else get)(message, HERE / path[1:])
    elif path is not None:
        yield response(message, "4.04")


def put(message, file):
    number, more, size = block(message, BLOCK1)
    before = file.read_bytes() if number else b""
    if len(before) != number << size + 4:
        return response(message, "4.08")
    file.write_bytes(before + b64decode(message.get("Payload", "")))
    return response(message, "2.31" if more else "2.04", [option(BLOCK1, number, more, size)])


def get(message, file):
    stored = file.read_bytes()
    number, _, size = block(message, BLOCK2)
    start, step = number << size + 4, 1 << size + 4
    more = len(stored) > start + step
    # Unsorted: the gateway sorts them.
    options = [option(BLOCK2, number, more, size), {"Number": 12, "Value": "Kg=="}]
    return response(message, "2.05", options, stored[start : start + step])


def response(request, code, options=(), payload=b""):
    kind, message_id = (ACK, request["MessageId"]) if request["Type"] == CON else (NON, next(ids))
    return {
        "Type": kind,
        "Code": code,
        "MessageId": message_id,
        "Token": request["Token"],
        "Options": list(options),
        "Payload": b64encode(payload).decode(),
    }


def block(message, wanted):
    for one in message["Options"]:
        if one["Number"] == wanted:
            value = int.from_bytes(b64decode(one["Value"]), "big")
            return value >> 4, bool(value & 8), value & 7
    return 0, False, 6


def option(wanted, number, more, size):
    value = number << 4 | more << 3 | size
    text = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return {"Number": wanted, "Value": b64encode(text).decode()}
