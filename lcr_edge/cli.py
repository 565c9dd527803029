"""The ``lcr-edge`` command: one table of subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from lcr_edge import __version__
from lcr_edge.errors import LcrError, MissingExtraError

# Every module has add_arguments(parser) and run(args) -> exit code.
COMMANDS: dict[str, tuple[str, str]] = {
    "export": ("lcr_edge.export.command", "write a verified step bundle for onnx, openvino or tflite"),
    "verify": ("lcr_edge.export.verify.command", "measure a bundle against the float PyTorch cell"),
    "sensitivity": (
        "lcr_edge.export.int8.sensitivity",
        "what quantising each layer alone, or narrower states, costs on a stream",
    ),
    "selftest": ("lcr_edge.runtimes.selftest", "check a bundle against its golden clip, on a device without torch"),
    "run": ("lcr_edge.runtimes.run", "step a bundle on a video file, a camera or a stream"),
    "bench": ("lcr_edge.runtimes.bench", "time the steps of bundles against each other"),
    "compare": (
        "lcr_edge.export.compare.command",
        "size, decisions and speed of all precisions and engines in one table",
    ),
    "inspect": ("lcr_edge.inspect", "parameters, FLOPs and state bytes of a config or a bundle"),
    "doctor": ("lcr_edge.doctor", "what this machine has: GPU, WKV kernel, engines, compilers"),
    "render": ("lcr_edge.data.rendered.command", "write a rendered gesture clip as a video file"),
    "train": ("lcr_edge.training.command", "train a network on videos or on rendered gestures"),
    "evaluate": ("lcr_edge.evaluate", "accuracy of a checkpoint on clips, and on an endless stream of them"),
}

# The extra that brings a package, for the message when an import fails.
EXTRA_OF_PACKAGE = {
    "torch": "train",
    "safetensors": "train",
    "tqdm": "train",
    "matplotlib": "train",
    "cv2": "video",
    "onnx": "export",
}


def run_command(module: ModuleType | str, prog: str, argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` with the module's arguments, run it, and turn our errors into one line and an exit code."""
    try:
        if isinstance(module, str):
            module = importlib.import_module(module)
        parser = argparse.ArgumentParser(prog=prog, description=(module.__doc__ or "").split("\n\n")[0])
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(argv)))
    except LcrError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRA_OF_PACKAGE:
            raise
        return _fail(MissingExtraError(package, EXTRA_OF_PACKAGE[package], prog))
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130


def _fail(error: LcrError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lcr-edge`` and ``python -m lcr_edge``; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="lcr-edge",
        description="Export LCR as a single-step recurrent cell, prove its parity, run it on edge devices.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:11} {text}" for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"lcr-edge {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; try: COMMAND --help")
    chosen = parser.parse_args(arguments[:1] if arguments[:1] and not arguments[0].startswith("-") else arguments)
    return run_command(COMMANDS[chosen.command][0], f"lcr-edge {chosen.command}", arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
