"""Entry of `python -m lab`; `scripts/lab` is the same for a checkout."""

import sys

from lab.cli import main

sys.exit(main(sys.argv[1:]))
