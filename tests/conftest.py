"""What holds for all tests."""

import signal

# A shell starts background jobs with SIGINT ignored, and everything that they start inherits that: then no test could
# stop a program as a user does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
