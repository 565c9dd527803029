"""Rendered gestures: a person, a room and an articulated hand, drawn from random numbers."""

from __future__ import annotations
