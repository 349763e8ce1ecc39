"""python -m genac: the command line."""

import sys

from genac.cli import main

sys.exit(main())
