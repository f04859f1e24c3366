"""Topics on AWS: an SQS queue of ours for each PacketSource, subscribed to its SNS topic (contract section 4.2)."""
