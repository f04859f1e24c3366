"""Shorter waits of topic sources, for a gateway with this folder in PYTHONPATH: what it does stays the same.

A poll that a stopped gateway leaves behind may still take messages, which come back when their visibility ends. That
is up to 50 s of a test, and a queue is quiet for another minute before it goes.
"""

import sys

from sluicegate.sources.topic import carrier as carrier
from sluicegate.sources.topic import leftovers as leftovers
from sluicegate.sources.topic import quiet as quiet

_SHORTER = {
    "LONG_POLL_SECONDS": 2,
    "VISIBILITY_SECONDS": 4,
    "EXTEND_EVERY_SECONDS": 0.5,
    "QUIET_SECONDS": 5.0,
    "WATCH_SECONDS": 3.0,
}

for _name, _module in list(sys.modules.items()):
    if _name.startswith("sluicegate.sources.topic."):
        for _constant in _SHORTER.keys() & vars(_module).keys():
            setattr(_module, _constant, _SHORTER[_constant])
