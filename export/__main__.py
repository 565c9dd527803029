"""``python -m lcr_edge.export``: the same as ``lcr-edge export``."""

from __future__ import annotations

import sys

from lcr_edge.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("lcr_edge.export.command", "python -m lcr_edge.export"))
