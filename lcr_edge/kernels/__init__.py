"""Compute kernels, each with its readable reference."""
