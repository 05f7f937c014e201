"""`python -m mcsjd_core`: the command line."""

import sys

from . import early_interrupt
from .cli import main

if __name__ == "__main__":
    early_interrupt.leave()
    sys.exit(main())
