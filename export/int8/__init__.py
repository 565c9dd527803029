"""What int8 costs: layers by name, trials on the real engine, sensitivity."""

from __future__ import annotations
