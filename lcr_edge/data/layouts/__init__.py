"""How data sets lie on disk: one module per layout lists the clips of a split."""

from __future__ import annotations
