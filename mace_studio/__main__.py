"""`python -m mace_studio`: the same as the command `mace-studio`."""

import sys

from mace_studio.cli import main

sys.exit(main())
