"""`python -m fassst_ros`: the same as the command `fassst`."""

import sys

from fassst_ros.cli import main

sys.exit(main())
