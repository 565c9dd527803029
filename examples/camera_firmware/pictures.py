#!/usr/bin/env python3
"""Write the frames of a video file to stdout as lcr_camera reads them, each with its time.

    examples/camera_firmware/pictures.py clip.mp4 | lcr_camera model.bin -

Frames and times are those that lcr-edge run sees, so both find the same events.
"""

from __future__ import annotations

import sys

from lcr_edge.errors import LcrError
from lcr_edge.video import TimedFrame, VideoSource


def picture(timed: TimedFrame) -> bytes:
    """A frame as PPM; its time is a comment of the header."""
    height, width = timed.frame.shape[:2]
    return f"P6\n# time_s {timed.time_s!r}\n{width} {height}\n255\n".encode() + timed.frame.tobytes()


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(f"usage: {sys.argv[0]} VIDEO > PICTURES", file=sys.stderr)
        return 2
    try:
        with VideoSource(sys.argv[1]) as source:
            for timed in source:
                sys.stdout.buffer.write(picture(timed))
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # whoever reads has enough
        sys.stderr.close()
        return 1
    except LcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
