"""`python -m edgec` is the command `edgec`."""

import sys

from edgec.cli import main

sys.exit(main())
