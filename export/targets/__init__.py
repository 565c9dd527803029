"""The targets: one row each in the table, and a converter and its int8 form for each engine."""

from __future__ import annotations
