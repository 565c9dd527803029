"""The accuracy cost of int8: layers by name, trials on the real engine, sensitivity."""

from __future__ import annotations
