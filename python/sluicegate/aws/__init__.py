"""AWS: any operation through botocore; the frequent ones (SQS, PutLogEvents, PutMetricData) are signed here.

aws = Aws("us-east-1")
await aws.call("sns", "Subscribe", {...}, role=Role(arn, session_name(region, account, "src-replies")))
messages = await aws.queue(url).receive()
"""

from sluicegate.aws.client import Aws
from sluicegate.aws.credentials import Role, session_name
from sluicegate.aws.errors import AwsError
from sluicegate.aws.logs import LogStream
from sluicegate.aws.queue import Queue, QueueMessage

__all__ = ["Aws", "AwsError", "LogStream", "Queue", "QueueMessage", "Role", "session_name"]
