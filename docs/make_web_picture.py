"""Photograph docs/img/web.png: the page of ``lcr-edge run --web`` on two cameras, in headless Chromium.

    python docs/make_web_picture.py [--bundle DIR] [--width PIXELS] [--dark] ...

One camera shows rendered gestures, the other a film; both are real network cameras on this machine. It takes
two minutes. The fonts are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.browser import browser  # noqa: E402
from tests.data.network_camera import network_camera  # noqa: E402

GESTURES = (("Rolling Hand Forward", 1), ("Thumb Up", 2), ("Swiping Down", 3), ("No gesture", 4))
FPS = 24


def gestures(folder: Path) -> list[bytes]:
    """JPEG pictures of rendered gestures, one after another."""
    pictures = []
    for label, seed in GESTURES:
        clip = folder / f"{seed}.mp4"
        call = ["render", str(clip), "--label", label, "--seed", str(seed), "--size", "448"]
        subprocess.run([sys.executable, "-m", "lcr_edge", *call], check=True, stdout=subprocess.DEVNULL)
        capture = cv2.VideoCapture(str(clip))
        while (read := capture.read())[0]:
            pictures.append(cv2.imencode(".jpg", read[1])[1].tobytes())
        capture.release()
    return pictures


async def photograph(url: str, args: argparse.Namespace) -> None:
    async with browser() as new_tab:
        tab = await new_tab()
        await tab.look_as(args.width, args.height, dark=args.dark)
        await tab.open(url)
        await tab.until("document.querySelectorAll('#top li').length === 5")
        await asyncio.sleep(args.seconds)
        await tab.until("document.querySelector('#events .lasts') !== null")  # something is being seen
        await asyncio.sleep(0.6)
        await tab.screenshot(args.out)
        assert tab.problems == []
    # A palette keeps the file small.
    Image.open(args.out).convert("RGB").quantize(args.colours, dither=Image.Dither.NONE).save(args.out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", help="of lcr_nano (default: it is exported)")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--colours", type=int, default=192)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / "web.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = args.bundle
        if bundle is None:
            call = ["export", "--target", "onnx", "--out", str(folder)]
            subprocess.run([sys.executable, "-m", "lcr_edge", *call], check=True)
            bundle = str(folder / "lcr_nano-onnx-fp32")
        with network_camera(FPS, pictures=gestures(folder)) as one, network_camera(25.0) as two:
            call = ["run", bundle, "--source", one, "--source", two, "--web", "0", "--events"]
            with subprocess.Popen(
                [sys.executable, "-m", "lcr_edge", *call], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as process:
                try:
                    assert process.stderr is not None
                    line = process.stderr.readline()
                    while line and not line.startswith("page: "):
                        line = process.stderr.readline()
                    asyncio.run(photograph(line.split()[1], args))
                finally:
                    process.terminate()


if __name__ == "__main__":
    main()
