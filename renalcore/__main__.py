"""`python -m renalcore`."""

import sys

from renalcore.cli import main

sys.exit(main())
