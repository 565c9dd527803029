"""``python -m lcr_edge`` is ``lcr-edge``."""

from __future__ import annotations

import sys

from lcr_edge.cli import main

sys.exit(main())
