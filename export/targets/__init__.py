"""The targets: one row each in the table, and for each engine a converter and its int8 form."""

from __future__ import annotations
