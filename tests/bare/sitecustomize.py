"""Without rich, for the programs that tests start: structlog would load it, and users do not have it.

It comes with a library of tests, and takes a tenth of what a gateway's start costs.
"""

import sys

sys.modules["rich"] = None  # type: ignore[assignment]  # an import fails, as where it is not installed
