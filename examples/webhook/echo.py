"""Answers each packet with its text and the address it came from: a Lambda function, a web hook, a NATS responder."""


def handler(event, context):
    replies = []
    for packet in event["Messages"]:
        remote = packet["Remote"]
        text = f"{packet['Data']} from {remote['IpAddress']} port {remote['Port']}"
        replies.append({"Tag": packet["Tag"], "Data": text})
    return {"Replies": replies}
