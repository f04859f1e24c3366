"""Answers `GET /time` over CoAP, and keeps who observes it (RFC 7641) in a table that `notify.py` reads.

The gateway neither acknowledges nor remembers anything here: each answer is made below.
"""

import json
import os
import random
import sqlite3
import time
from base64 import b64decode, b64encode
from contextlib import closing
from pathlib import Path

CON, NON, ACK, RST = range(4)
GET = 1
OBSERVE, CONTENT_FORMAT = 6, 12
REGISTER, CANCEL = 0, 1
TABLE = Path(os.environ.get("OBSERVERS", Path(__file__).parents[1] / "observers.db"))
SCHEMA = """
CREATE TABLE IF NOT EXISTS observers (
    who TEXT NOT NULL, token TEXT NOT NULL, remote TEXT NOT NULL, inner TEXT,
    message_id INTEGER, -- of the last notification: a reset names it, and no token
    PRIMARY KEY (who, token)
)
"""


def handler(event, context):
    """`Data` of each packet is the text of a CoAP message, in and out."""
    with closing(table()) as db, db:
        answers = [(packet, answer(db, packet, json.loads(packet["Data"]))) for packet in event["Messages"]]
    return {"Replies": [{"Tag": packet["Tag"], "Data": json.dumps(made)} for packet, made in answers if made]}


def answer(db, packet, message):
    """The answer to one message, if it gets one."""
    who = sender(packet)
    if message["Type"] == RST:
        known = (who, message["MessageId"])
        db.execute("DELETE FROM observers WHERE who = ? AND message_id = ?", known)
    if "Path" not in message:
        return None  # an acknowledgement, a reset, or a response: no request
    if message["Path"] != "/time":
        return response(message, "4.04")
    if message["Code"] != GET:
        return response(message, "4.05")
    wish = next((number(o["Value"]) for o in message["Options"] if o["Number"] == OBSERVE), None)
    if wish == CANCEL:
        db.execute("DELETE FROM observers WHERE who = ? AND token = ?", (who, message["Token"]))
    if wish != REGISTER:
        return response(message, "2.05", content())
    inner = json.dumps(packet["Inner"]) if "Inner" in packet else None
    row = (who, message["Token"], json.dumps(packet["Remote"]), inner)
    db.execute("INSERT OR REPLACE INTO observers (who, token, remote, inner) VALUES (?, ?, ?, ?)", row)
    return response(message, "2.05", content(observed=True))


def response(request, code, more=None):
    """A piggybacked response to a confirmable request, and one of its own to another."""
    kind, message_id = (ACK, request["MessageId"]) if request["Type"] == CON else (NON, fresh_id())
    return {"Type": kind, "Code": code, "MessageId": message_id, "Token": request["Token"], **(more or {})}


def content(observed=False):
    """The time as text. Whoever observes it gets a number that grows: 24 bits of hundredths of a second."""
    options = [{"Number": CONTENT_FORMAT, "Value": option(0)}]
    if observed:
        options.append({"Number": OBSERVE, "Value": option(time.time_ns() // 10**7 & 0xFFFFFF)})
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"Options": options, "Payload": b64encode(text.encode()).decode()}


def sender(packet):
    """Who sent it: a peer and its inner address behind a tunnel, else an address."""
    remote, inner = packet["Remote"], packet.get("Inner")
    if inner:
        return f"{remote['PeerKey']} {inner['SourceAddress']} {inner['SourcePort']}"
    return remote.get("PeerKey") or f"{remote['IpAddress']} {remote['Port']}"


def table():
    """The observers. Handler and notifier may use it at the same time."""
    db = sqlite3.connect(TABLE, timeout=10)
    db.execute(SCHEMA)
    return db


def fresh_id():
    """A Message ID. A server that sends much counts them for each remote instead (RFC 7252 section 4.4)."""
    return random.randrange(65_536)  # noqa: S311  no secret


def number(value):
    """An option's value as a number (RFC 7252 section 3.2)."""
    return int.from_bytes(b64decode(value), "big")


def option(value):
    """A number as an option's value: as few bytes as it needs, none for 0."""
    return b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()
