"""Compute kernels, each beside its readable reference."""
