"""`python -m mace_studio`: the command line."""

import sys

from mace_studio.cli import main

sys.exit(main())
