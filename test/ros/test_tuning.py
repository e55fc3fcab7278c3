"""What the node's process is told: seen from outside, in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from fassst_ros.ros.tuning import tune_process

image = np.ones((1024, 2048, 3), np.uint8)

def faults(copies):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(copies):
        kept = image.copy(), image.copy()
        del kept
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / copies

tune_process()
faults(3)
print(faults(20), sys.getswitchinterval())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="mallopt is glibc's")
def test_frames_are_copied_into_memory_that_is_there_already() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    faults, interval = map(float, done.stdout.split())
    assert faults < 100  # a frame has 1536 pages
    assert interval < 0.005
