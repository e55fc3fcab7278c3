"""Makes the virtual environment of `make setup` ready for ROS; run by its own python.

The ROS 2 wheels hold absolute paths of the machine that built them, and a colcon overlay normally
needs a sourced setup.bash. Both are mended here, so that `.venv/bin/python` alone runs everything.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

#: Imported at every start of the interpreter, before ros_wheels_bootstrapper (the .pth files are
#: read in alphabetical order), which then starts it again because libraries are found at start only.
HOOK = """\
import os
import sys

OVERLAY = {overlay!r}


def prepend(name, value):
    parts = [part for part in os.environ.get(name, "").split(os.pathsep) if part]
    if value not in parts:
        os.environ[name] = os.pathsep.join([value, *parts])
        return True
    return False


prepend("AMENT_PREFIX_PATH", sys.prefix)
prepend("AMENT_PREFIX_PATH", OVERLAY)
if prepend("LD_LIBRARY_PATH", os.path.join(OVERLAY, "lib")):
    os.environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
"""


def mend_cmake_files(prefix: Path) -> int:
    """Replace the build machine's include directories by ours; returns the number of files."""
    python = r"/opt/python/[^/;\"]+"
    patterns = {
        re.compile(python + r"/include/python3\.\d+"): sysconfig.get_path("include"),
        re.compile(python + r"/lib/python3\.\d+/site-packages/numpy/_core/include"): np.get_include(),
    }
    count = 0
    for path in sorted(prefix.glob("share/**/*.cmake")):
        text = mended = path.read_text(encoding="utf-8")
        for pattern, directory in patterns.items():
            mended = pattern.sub(directory.replace("\\", r"\\"), mended)
        if mended != text:
            path.write_text(mended, encoding="utf-8")
            count += 1
    return count


def install_overlay_hook(overlay: Path) -> None:
    """Make the interpreter find the colcon overlay `overlay` without sourcing anything."""
    site = Path(sysconfig.get_path("purelib"))
    packages = overlay / site.relative_to(sys.prefix)
    (site / "fassst_ros_overlay.py").write_text(HOOK.format(overlay=str(overlay)), encoding="utf-8")
    (site / "fassst_ros_overlay.pth").write_text(f"import fassst_ros_overlay\n{packages}\n", encoding="utf-8")


if __name__ == "__main__":
    print(f"mended {mend_cmake_files(Path(sys.prefix))} CMake files of the ROS 2 wheels")
    install_overlay_hook(Path(sys.argv[1]).resolve())
