"""Sends one datagram from the gateway's port: python publish.py TOPIC_ARN ADDRESS PORT TEXT"""

import base64
import json
import sys

import boto3

topic_arn, address, port, text = sys.argv[1:]
sns = boto3.client("sns", region_name=topic_arn.split(":")[3])
sns.publish(
    TopicArn=topic_arn,
    Message=json.dumps(
        {
            "Data": base64.b64encode(text.encode()).decode(),
            "Remote": {"IP": address, "Port": int(port)},
        }
    ),
)
