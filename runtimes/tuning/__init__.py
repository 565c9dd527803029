"""Event thresholds tuned on labelled streams: ``lcr-edge tune-events``."""
