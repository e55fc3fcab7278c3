"""What Python and the C library are told so that frames pass quickly."""

from __future__ import annotations

import ctypes
import sys

#: How long a thread may keep the interpreter while another one waits for it, in seconds. Python's 5 ms are a
#: tenth of a frame's way: the executor's thread would hold up the worker each time that they meet.
SWITCH_INTERVAL = 0.0005
#: Blocks up to this size [bytes] come from the heap, which keeps up to KEPT of freed memory. glibc allows no
#: more; a 4K image in colour is 25 MB.
LARGEST, KEPT = 32 << 20, 128 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def tune_process() -> None:
    """Let frames be copied into memory that the process has already, and threads change quickly.

    rclpy copies every frame into new memory. By default glibc takes blocks of that size from the kernel and
    gives them back each time, and the first touch of each page costs more than the copy: a 2048x1024 colour
    image then takes 10 ms instead of 3. Other C libraries are left as they are.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
