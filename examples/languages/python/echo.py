"""Sends each packet back. Runs on AWS Lambda as it is."""


def handler(event, context):
    return {"Replies": [{"Tag": packet["Tag"], "Data": packet["Data"]} for packet in event["Messages"]]}
