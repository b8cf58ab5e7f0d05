"""`python -m ups`: the command without the search."""

import sys

from ups.cli import main

sys.exit(main())
