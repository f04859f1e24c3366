"""For the tests of packages that extend a gateway: contract suites, and stand-ins for what surrounds an extension.

The suites need pytest, which a gateway does not install.

    from sluicegate.testing import DestinationContract, MessageSourceContract

    class TestSyslog(DestinationContract):
        kind = SyslogDestination
        ...

    class TestRedisStream(MessageSourceContract):
        def make(self, context):
            ...
"""

import pytest

pytest.register_assert_rewrite("sluicegate.testing.destination", "sluicegate.testing.source")

from sluicegate.testing.destination import DestinationContract  # noqa: E402
from sluicegate.testing.sender import MemorySender  # noqa: E402
from sluicegate.testing.source import MessageSourceContract  # noqa: E402
from sluicegate.testing.stand_ins import destination_context, packet, packet_batch  # noqa: E402

__all__ = [
    "DestinationContract",
    "MemorySender",
    "MessageSourceContract",
    "destination_context",
    "packet",
    "packet_batch",
]
