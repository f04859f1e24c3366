def loud(greeting, data):
    return f"{greeting} {data.upper()}"


def handler(event, context):
    return {"Replies": [{"Tag": one["Tag"], "Data": loud("", one["Data"])} for one in event["Messages"]]}
