"""For the tests of packages that extend a gateway: contract suites, and stand-ins for what surrounds a Destination.

The suites need pytest, which a gateway does not install.

    from sluicegate.testing import DestinationContract

    class TestSyslog(DestinationContract):
        kind = SyslogDestination
        ...
"""

import pytest

pytest.register_assert_rewrite("sluicegate.testing.destination")

from sluicegate.testing.destination import DestinationContract  # noqa: E402
from sluicegate.testing.stand_ins import destination_context, packet, packet_batch  # noqa: E402

__all__ = ["DestinationContract", "destination_context", "packet", "packet_batch"]
