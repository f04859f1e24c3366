"""Answers each packet with its text and the address it came from. Runs on AWS Lambda as it is."""


def handler(event, context):
    replies = []
    for packet in event["Messages"]:
        remote = packet["Remote"]
        text = f"{packet['Data']} from {remote['IpAddress']} port {remote['Port']}"
        replies.append({"Tag": packet["Tag"], "Data": text})
    return {"Replies": replies}
