"""Sends the time to everybody who observes it, once: `notify.py [--confirmable] [--endpoint URL]`. Needs boto3.

Each notification is an entry of one message to the topic of the PacketSource `notifications`; its `Remote` and `Inner`
are those that came in with the registration. Whoever has no use for one answers with a reset, and `clock.py` forgets
them.
"""

import argparse
import json
from contextlib import closing

import boto3
from handlers.clock import CON, NON, content, fresh_id, table

TOPIC = "arn:aws:sns:us-east-1:000000000000:notifications"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--confirmable", action="store_true", help="ask for an acknowledgement of each")
    options.add_argument("--endpoint", default="http://127.0.0.1:4566")
    chosen = options.parse_args()
    entries = []
    with closing(table()) as db, db:
        for who, token, remote, inner in db.execute(
            "SELECT who, token, remote, inner FROM observers"
        ).fetchall():
            message_id = fresh_id()
            note = {
                "Type": CON if chosen.confirmable else NON,
                "Code": "2.05",
                "MessageId": message_id,
                "Token": token,
            }
            db.execute(
                "UPDATE observers SET message_id = ? WHERE who = ? AND token = ?", (message_id, who, token)
            )
            entry = {"Formatter": "coap", "Data": json.dumps(note | content(observed=True)), "TtlSeconds": 10}
            entry["Remote"] = json.loads(remote)
            if inner:
                entry["Inner"] = json.loads(inner)
            entries.append(entry)
    if entries:
        sns = boto3.client(
            "sns",
            endpoint_url=chosen.endpoint,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106  the endpoint asks for none on loopback
        )
        sns.publish(TopicArn=TOPIC, Message=json.dumps({"Messages": entries}))
    print(f"notified {len(entries)}")


if __name__ == "__main__":
    main()
