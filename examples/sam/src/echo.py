def handler(event, context):
    return {"Replies": [{"Tag": message["Tag"], "Data": message["Data"]} for message in event["Messages"]]}
