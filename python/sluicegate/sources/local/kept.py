"""The topics that users made at the gateway's own SNS endpoint, in the state."""

from collections.abc import Mapping

from sluicegate.events.log import EventLog
from sluicegate.state import State, StateError


class KeptTopics:
    """Writes topics down. What the state refuses, such as on a full disk, is reported once until a write works again,
    and raised: the client is told each time."""

    def __init__(self, state: State, events: EventLog) -> None:
        self._state = state
        self._events = events
        self._works = True

    def keep(self, arn: str, attributes: Mapping[str, str]) -> None:
        """A topic is new, or has other attributes. Raises `StateError`."""
        try:
            self._state.add_topic(arn, attributes)
        except StateError as error:
            self._report(arn, error)
            raise
        self._works = True

    def remove(self, arn: str) -> None:
        """A topic was deleted. Raises `StateError`."""
        try:
            self._state.remove_topic(arn)
        except StateError as error:
            self._report(arn, error)
            raise
        self._works = True

    def _report(self, arn: str, error: StateError) -> None:
        if self._works:
            self._events.emit("TopicNotKept", Topic=arn, Reason="WriteFailed", Detail=str(error))
        self._works = False
