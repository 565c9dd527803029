"""The edge map of a frame: Canny with an Otsu threshold, the same on host, in training and inside exported graphs.

``host`` is torch-free (OpenCV, or numpy where it is absent); ``graph`` is the torch module that exporters trace.
"""

from __future__ import annotations

from lcr_edge.edges.host import cv2_edges, host_edges, numpy_edges

__all__ = ["cv2_edges", "host_edges", "numpy_edges"]
