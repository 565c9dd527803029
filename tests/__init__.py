"""Tests. A package by intent: some wheels install a top-level ``tests`` of their own, which must not hide this one."""
