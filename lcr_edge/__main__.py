"""``python -m lcr_edge`` is ``lcr-edge``."""

import sys

from lcr_edge.cli import main

sys.exit(main())
