"""Draw docs/img/demo.webp: ``lcr-edge run`` on three rendered gestures as one stream, its classes as bars.

    python docs/make_demo_animation.py

Renders the gestures, joins them into one video, exports the packaged network and runs it, all with the commands that
anybody would use, in a temporary folder. Every number in the picture is one that ``lcr-edge run --json -`` printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib
from PIL import Image, ImageDraw, ImageFont

GESTURES = (("Rolling Hand Forward", 1), ("Thumb Up", 2), ("Swiping Down", 3))
BUNDLE = "lcr_nano-onnx-fp32"
FPS = 24
OUT = Path(__file__).parent / "img" / "demo.webp"

VIDEO, WIDTH, HEIGHT, MARGIN, TOP = 240, 760, 288, 24, 4
PAPER, INK, GREY, RAIL, BLUE, AMBER = "#ffffff", "#1f2328", "#59636e", "#eaeef2", "#0969da", "#9a6700"


def lcr_edge(*arguments: str, cwd: Path) -> str:
    """Run one command of ours; returns its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "lcr_edge", *arguments], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def join(clips: list[Path], joined: Path) -> list[Any]:
    """One video of several, and its frames, BGR uint8 [H, W, 3]."""
    frames = []
    for clip in clips:
        capture = cv2.VideoCapture(str(clip))
        while (read := capture.read())[0]:
            frames.append(read[1])
        capture.release()
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(joined), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, so that the picture is the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def picture(frame: Any, step: dict[str, Any], gesture: str) -> Image.Image:
    """One image: the frame on the left, what is played and the classes with their probabilities on the right."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    image.paste(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).resize((VIDEO, VIDEO)), (MARGIN, MARGIN))
    left, right = MARGIN + VIDEO + 28, WIDTH - MARGIN
    draw.text((left, MARGIN - 2), f"{step['time_s']:.2f} s   played: {gesture}", GREY, font(15))
    draw.text((left, MARGIN + 22), f"one stream, state never reset, {len(GESTURES)} gestures", GREY, font(13))
    for place, entry in enumerate(step["top"][:TOP]):
        y, share = MARGIN + 58 + place * 46, entry["probability"]
        right_one = entry["label"] == gesture
        draw.text((left, y), entry["label"], INK, font(14, bold=right_one))
        draw.text((right, y), f"{share:.2f}", INK, font(14), anchor="ra")
        draw.rectangle((left, y + 22, right, y + 32), RAIL)
        draw.rectangle((left, y + 22, left + round((right - left) * share), y + 32), BLUE if right_one else AMBER)
    draw.rectangle((0, 0, WIDTH - 1, HEIGHT - 1), outline="#d1d9e0")
    return image


def main() -> None:
    """Render, export, run, draw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = []
        for gesture, seed in GESTURES:
            clips.append(folder / f"{seed}.mp4")
            lcr_edge("render", clips[-1].name, "--label", gesture, "--seed", str(seed), cwd=folder)
        frames = join(clips, folder / "stream.mp4")
        lcr_edge("export", "--target", "onnx", "--out", ".", cwd=folder)
        printed = lcr_edge("run", BUNDLE, "--source", "stream.mp4", "--top", str(TOP), "--json", "-", cwd=folder)
    steps = [line for line in map(json.loads, printed.splitlines()) if "top" in line]
    length = len(frames) // len(GESTURES)
    images = [picture(frames[step["frame"]], step, GESTURES[step["frame"] // length][0]) for step in steps]
    pause = 1000 * (steps[1]["frame"] - steps[0]["frame"]) // FPS
    images[0].save(OUT, save_all=True, append_images=images[1:], duration=pause, loop=0, quality=60, method=6)
    print(f"wrote {OUT}: {len(images)} steps, {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
