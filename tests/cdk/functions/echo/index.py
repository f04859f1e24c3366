import os

from answers.shout import loud


def handler(event, context):
    """Every packet comes back in capitals, behind the greeting of the stack."""
    greeting = os.environ["GREETING"]
    return {
        "Replies": [{"Tag": one["Tag"], "Data": loud(greeting, one["Data"])} for one in event["Messages"]]
    }
