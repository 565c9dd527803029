"""The precisions of one network side by side: size, decisions and speed."""

from __future__ import annotations
