"""Takes away what was made on AWS for PacketSources that the configuration no longer names (contract section 4.2).

The state remembers each queue from before it was made until after it was deleted, so that neither a crash nor a change
of the configuration while the gateway was down leaves anything behind.
"""

import asyncio
from collections.abc import Sequence

from sluicegate.aws import AwsError
from sluicegate.backoff import Backoff
from sluicegate.sources import sns_queue
from sluicegate.sources.sns import SnsSetting
from sluicegate.sources.sns_subscription import (
    gateway_role,
    next_step,
    no_topic,
    subscriptions,
    unsubscribe,
)
from sluicegate.state import SourceQueue

PAUSES = Backoff(5.0, 300.0)


async def clean_up(setting: SnsSetting, leftovers: Sequence[SourceQueue]) -> None:
    """Unsubscribe and delete these queues, trying until it is done."""
    waiting, failures = list(leftovers), 0
    while waiting:
        waiting = [queue for queue in waiting if not await _remove(setting, queue)]
        if waiting:
            failures += 1
            await asyncio.sleep(PAUSES.pause(failures))


async def _remove(setting: SnsSetting, queue: SourceQueue) -> bool:
    region = queue.arn.split(":")[3]
    role = gateway_role(queue.role, region, queue.source)
    try:
        try:
            for one in await subscriptions(setting.aws, queue.topic_arn, role):
                if one.endpoint == queue.arn:
                    await unsubscribe(setting.aws, one, role)
        except AwsError as error:
            if error.retryable:
                raise
            if not no_topic(error):
                # The role may have gone with the source. Without its queue a subscription does no harm.
                step = f"end the subscription of {queue.arn} to {queue.topic_arn} by hand"
                _tell(setting, "SourceProvisionFailed", queue, Reason=error.code, Detail=f"{error}; {step}")
        await sns_queue.delete(setting.aws, region, queue)
    except AwsError as error:
        detail = f"{error}; {next_step(error, role, own=error.service == 'sqs')}"
        _tell(setting, "SourceProvisionFailed", queue, Reason=error.code, Detail=detail)
        return False
    setting.state.forget_source_queue(queue.arn)
    _tell(setting, "SourceRemoved", queue, Topic=queue.topic_arn, Queue=queue.arn)
    return True


def _tell(setting: SnsSetting, event: str, queue: SourceQueue, **fields: object) -> None:
    setting.events.emit(event, PacketSource=queue.source, **fields)
