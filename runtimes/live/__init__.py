"""Cameras and streams that run unattended."""
