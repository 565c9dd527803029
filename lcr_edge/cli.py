"""The ``lcr-edge`` command: one table of subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import IO, Any, Callable, TextIO, cast

from lcr_edge import __version__
from lcr_edge.errors import LcrError, MissingExtraError, OutputError
from lcr_edge.progress import load_torch

# Every module has add_arguments(parser) and run(args) -> exit code.
COMMANDS: dict[str, tuple[str, str]] = {
    "export": ("lcr_edge.export.command", "write a verified step bundle for onnx, openvino or tflite"),
    "verify": ("lcr_edge.export.verify.command", "measure a bundle against the float PyTorch cell"),
    "sensitivity": (
        "lcr_edge.export.int8.sensitivity",
        "show what int8 in each layer, or narrower states, costs on a stream",
    ),
    "selftest": ("lcr_edge.runtimes.selftest", "check a bundle against its golden clip, on a device without torch"),
    "run": ("lcr_edge.runtimes.run", "step a bundle on a video file, a camera or a stream"),
    "tune-events": (
        "lcr_edge.runtimes.tuning.command",
        "find the event thresholds of run on labelled streams",
    ),
    "bench": ("lcr_edge.runtimes.bench", "time the steps of bundles against each other"),
    "compare": (
        "lcr_edge.export.compare.command",
        "tabulate size, decisions and speed of all precisions and engines",
    ),
    "inspect": ("lcr_edge.runtimes.inspect", "show parameters, FLOPs and state bytes of a config or a bundle"),
    "doctor": ("lcr_edge.runtimes.doctor", "show what this machine has, or whether a bundle will work on it"),
    "pack": (
        "lcr_edge.export.pack",
        "put a bundle and all that it needs into an archive, for a device without network",
    ),
    "render": ("lcr_edge.data.rendered.command", "write a rendered gesture as a video file"),
    "record": (
        "lcr_edge.data.record.command",
        "record labelled clips of your own to train on, from a camera or a file",
    ),
    "train": ("lcr_edge.training.command", "train a network on recorded or rendered clips"),
    "evaluate": ("lcr_edge.evaluate.command", "measure accuracy on clips, and on an endless stream of them"),
}

# The extra to which a package belongs, for the message when an import fails.
EXTRA_OF_PACKAGE = {
    "torch": "train",
    "safetensors": "train",
    "tqdm": "train",
    "matplotlib": "train",
    "cv2": "video",
    "onnx": "export",
}


# This one cannot even say what its options are without torch; of several processes the first one tells.
_LOADS_TORCH = COMMANDS["train"][0]
_CLOSED_PIPE = 141  # the exit code of a program that the signal of a closed pipe ends


def run_command(module: ModuleType | str, prog: str, argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` with the module's arguments and run it; returns the exit code.

    Errors of ours become one line on stderr. So does a stdout that cannot be written to; a reader that has gone away
    (``| head``) ends the command without a word.
    """
    return _with_stdout(lambda: _run(module, prog, argv))


def _run(module: ModuleType | str, prog: str, argv: Sequence[str] | None) -> int:
    try:
        if isinstance(module, str):
            if module == _LOADS_TORCH and os.environ.get("RANK", "0") == "0":
                load_torch()
            module = importlib.import_module(module)
        description = (module.__doc__ or "").split("\n\n")[0].replace("``", "")
        parser = argparse.ArgumentParser(prog=prog, description=description)
        module.add_arguments(parser)
        words = list(sys.argv[1:] if argv is None else argv)
        args = parser.parse_args(words)
        args.words = words  # as they were typed, for a command that tells how to go on
        return int(module.run(args))
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


class _StdoutError(Exception):
    """stdout took no more. Not an LcrError and not an OSError, so that nobody on the way takes it for one of theirs."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Watched:
    """stdout, whose errors can be told from those of files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._write(text)
        except OSError as error:
            raise _StdoutError(error) from error

    def _write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:  # a name that is not UTF-8, or that this terminal has no characters for
            encoding = self._stream.encoding
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _StdoutError(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _with_stdout(command: Callable[[], int]) -> int:
    """Run it and flush stdout, here, where an error can still be told."""
    stream = sys.stdout
    if stream is None:
        return command()
    watched = cast("IO[str]", _Watched(stream))
    try:
        with contextlib.redirect_stdout(watched):
            try:
                return command()
            finally:
                watched.flush()
    except _StdoutError as caught:
        # Python flushes once more when it ends: let that go nowhere.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        if isinstance(caught.error, BrokenPipeError):
            return _CLOSED_PIPE
        reason = caught.error.strerror or caught.error
        return _fail(OutputError(f"cannot write to stdout: {reason}; send it somewhere else"))


def _fail(error: LcrError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lcr-edge`` and ``python -m lcr_edge``; returns the exit code."""
    return _with_stdout(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(arguments: list[str]) -> int:
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
