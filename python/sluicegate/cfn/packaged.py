"""The provider packaged for CloudFormation: two templates, each whole in itself.

`deploy/cloudformation` has them as files, written by `python -m sluicegate.cfn.packaged DIRECTORY`; a test keeps them
what this would write.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from sluicegate.cfn import provider

LAMBDA_HEAD = """\
# The provider of Sluicegate's custom resources as a Lambda function, which calls the gateway's REST API.
# Written by `python -m sluicegate.cfn.packaged`; the code below is python/sluicegate/cfn/provider.py.
AWSTemplateFormatVersion: "2010-09-09"
Description: Sluicegate, custom resources by a Lambda function

Parameters:
  GatewayUrl:
    Type: String
    Description: The gateway's API as the function reaches it, for example https://gateway.example.com
    AllowedPattern: "https?://.+"
  SubnetIds:
    Type: CommaDelimitedList
    Default: ""
    Description: Subnets of the VPC where the gateway is; empty for a gateway on the internet
  SecurityGroupIds:
    Type: CommaDelimitedList
    Default: ""
    Description: Security groups of the function in that VPC
  ResponseHosts:
    Type: String
    Default: ""
    Description: HOST:PORT of emulators of AWS, with commas, which take answers as CloudFormation's bucket does
    AllowedPattern: "([A-Za-z0-9.-]+(:[0-9]+)?(,[A-Za-z0-9.-]+(:[0-9]+)?)*)?"

Conditions:
  InVpc: !Not [!Equals [!Join ["", !Ref SubnetIds], ""]]

Resources:
  ProviderRole:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal: { Service: lambda.amazonaws.com }
            Action: sts:AssumeRole
      ManagedPolicyArns:
        - !Sub "arn:${AWS::Partition}:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
        - !If
          - InVpc
          - !Sub "arn:${AWS::Partition}:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"
          - !Ref AWS::NoValue

  Provider:
    Type: AWS::Lambda::Function
    Properties:
      Description: Custom resources of a Sluicegate gateway
      Runtime: python3.12
      Handler: index.lambda_handler
      # More than the provider takes at most: it answers CloudFormation before Lambda would end it.
      Timeout: 30
      MemorySize: 128
      Role: !GetAtt ProviderRole.Arn
      Environment:
        Variables:
          SLUICEGATE_API: !Ref GatewayUrl
          SLUICEGATE_RESPONSE_HOSTS: !Ref ResponseHosts
      VpcConfig: !If
        - InVpc
        - SubnetIds: !Ref SubnetIds
          SecurityGroupIds: !Ref SecurityGroupIds
        - !Ref AWS::NoValue
      Code:
        ZipFile: |
"""

LAMBDA_TAIL = """
Outputs:
  ServiceToken:
    Description: The ServiceToken of the custom resources
    Value: !GetAtt Provider.Arn
"""

TOPIC = """\
# The provider of Sluicegate's custom resources as an SNS topic. The gateway reads the requests from the queue, so that
# nothing needs a way into the network where it runs.
# Written by `python -m sluicegate.cfn.packaged`.
AWSTemplateFormatVersion: "2010-09-09"
Description: Sluicegate, custom resources by an SNS topic

Parameters:
  GatewayRole:
    Type: String
    Default: ""
    Description: The name of the role that the gateway runs with, which may then read the queue

Conditions:
  GrantsRole: !Not [!Equals [!Ref GatewayRole, ""]]

Resources:
  Requests:
    Type: AWS::SNS::Topic

  Queue:
    Type: AWS::SQS::Queue
    Properties:
      # CloudFormation gives up after an hour, and so does the queue.
      MessageRetentionPeriod: 3600
      VisibilityTimeout: 60
      ReceiveMessageWaitTimeSeconds: 20

  QueuePolicy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Queue]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal: { Service: sns.amazonaws.com }
            Action: sqs:SendMessage
            Resource: !GetAtt Queue.Arn
            Condition: { ArnEquals: { "aws:SourceArn": !Ref Requests } }

  Subscription:
    Type: AWS::SNS::Subscription
    DependsOn: QueuePolicy
    Properties:
      TopicArn: !Ref Requests
      Protocol: sqs
      Endpoint: !GetAtt Queue.Arn

  ReadPolicy:
    Type: AWS::IAM::Policy
    Condition: GrantsRole
    Properties:
      PolicyName: sluicegate-stack-requests
      Roles: [!Ref GatewayRole]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Action: [sqs:ReceiveMessage, sqs:DeleteMessage]
            Resource: !GetAtt Queue.Arn

Outputs:
  ServiceToken:
    Description: The ServiceToken of the custom resources
    Value: !Ref Requests
  QueueUrl:
    Description: The queue that the gateway reads
    Value: !Ref Queue
"""


def lambda_template() -> str:
    """The provider as a Lambda function, its code inside."""
    code = Path(provider.__file__).read_text()
    indented = "".join(
        f"          {line}" if line.strip() else line for line in code.splitlines(keepends=True)
    )
    return LAMBDA_HEAD + indented + LAMBDA_TAIL


FORMS: dict[str, Callable[[], str]] = {"lambda": lambda_template, "topic": lambda: TOPIC}
"""Name → the template's text."""


def write(directory: Path) -> None:
    """Both templates as files."""
    for name, make in FORMS.items():
        (directory / f"{name}.yaml").write_text(make())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
