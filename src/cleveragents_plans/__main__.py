"""Run the command line: ``python -m cleveragents_plans``."""

import sys

from cleveragents_plans.cli import main

sys.exit(main())
