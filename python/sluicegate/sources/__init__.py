"""Where messages come in (contract section 4.2)."""

from sluicegate.sources.base import Sender, Source
from sluicegate.sources.local.topics import LocalTopicSource, Throttled, TopicNotFound, Topics

__all__ = ["LocalTopicSource", "Sender", "Source", "Throttled", "TopicNotFound", "Topics"]
