"""Measures a bundle against the float PyTorch cell, and shows what was found."""

from __future__ import annotations
