"""What all tests need of the process that they run in."""

import signal

# A shell starts background jobs with SIGINT ignored, which all programs that a test starts would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
