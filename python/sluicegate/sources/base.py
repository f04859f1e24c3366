"""What a source of messages is, for every way in: local topics here, queues and streams beside it.

A Source carries one PacketSource's messages to the Egress of its Listener and nothing else: parsing, policy
and sending are native, outcomes and events are `egress.py`'s. Life cycle, in this order and each once:

    provision   create or check what the source needs outside the process; take no message
    run         take messages until cancelled; acknowledge a message only after its outcome
    drain       let end what was taken
    close       undo what must not outlive the process, and nothing that a restart would miss

`provision` may raise, and then nothing of the new configuration starts. `run` never raises for what a message
holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sluicegate.egress.message import Message, Outcome


class Sender(Protocol):
    """Where a Source hands its messages: `sluicegate.egress.egress.Egress`, or a stand-in in tests."""

    @property
    def full(self) -> bool:
        """True while `try_submit` would take nothing."""

    @property
    def congested(self) -> bool:
        """True while its dead letters wait beyond their bound: fetch nothing more, submit nothing more. `settle`
        returns when they are kept."""

    def try_submit(self, messages: Sequence[Message], ended: Callable[[Outcome], None] | None = None) -> int:
        """Take messages without waiting; how many, from the first on. `ended` gets the outcome of each."""

    def submit_later(self, message: Message) -> None:
        """Take a message that must not be refused any more."""

    async def send(self, message: Message, *, room_seconds: float | None = None) -> Outcome:
        """Take a message, waiting for room, and return once each of its entries has ended."""

    def settled(self, source: int) -> bool:
        """True if `settle` would return at once."""

    async def settle(self, source: int) -> None:
        """Return once every failure reported so far for this PacketSource is kept where its dead letters go: then
        a message may be acknowledged. `EgressClosed` when the gateway stops first."""

    def give_back(self, source: int, message_ids: Iterable[str]) -> None:
        """These messages have not ended and come again: their failures become no dead letters."""


class Source(ABC):
    """One PacketSource's way in. `name` is the PacketSource's name, `index` its place in the Listener's
    spec."""

    subscription: str = "Subscribed"
    """`Subscribed`, `Pending` while that is not known yet, `Failed` when it was refused; both are tried again."""
    subscription_problem: str = ""
    """What is in the way, with the next step."""

    def __init__(self, name: str, index: int, sender: Sender) -> None:
        self.name = name
        self.index = index
        self.sender = sender

    @abstractmethod
    async def provision(self) -> None:
        """Make what this source needs. Raises with cause and next step; idempotent."""

    @abstractmethod
    async def run(self) -> None:
        """Take messages until cancelled."""

    async def drain(self, seconds: float) -> None:  # noqa: B027 most sources have nothing of their own to end
        """After `run`: wait for at most so long until what was taken has ended and is acknowledged."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of what was provisioned for this process only. Safe to call twice."""
