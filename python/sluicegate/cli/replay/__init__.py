"""`sluicegate replay`: dead letters of a file or a queue are sent again."""

from sluicegate.cli.replay.command import command

__all__ = ["command"]
