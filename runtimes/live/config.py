"""``lcr-edge run --config FILE``: the options of a run in a TOML file, and the line of every mistake in it.

The keys are the long names of the options without their dashes, and ``bundle``. An option that may be repeated is a
list, an option without a value is ``true``, ``[source]`` may be a table of name = "address", and ``[enters]`` is a
table of label = probability. What the command line says counts instead. Files and folders are relative to the file.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lcr_edge.errors import LcrError, MissingExtraError, UsageError, VideoError
from lcr_edge.video import may_be_live, name_of

_MOST_BYTES = 64_000
_BUNDLE, _SOURCE, _NAMES, _ENTERS = "bundle", "source", "source-name", "enters"
# Names and secrets belong to the addresses that stand beside them; and a film is played in one way.
_BELONG = (
    (_SOURCE, _NAMES),
    ("webhook", "webhook-token-file"),
    ("mqtt", "mqtt-password-file"),
    ("loop", "as-camera"),
    ("as-camera", "loop"),
)
_MAY_BE_EMPTY = "mqtt-discovery"
_NOT_IN_FILE = ("help", "config", "check")
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "a table"),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--check``. To be called last: the file may set what the parser has by then, or gets later."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with these options, named without dashes; what stands on the command line counts instead",
    )
    parser.add_argument(
        "--check", action="store_true", help="check options, config file and bundle, then end; opens no camera"
    )
    parser.set_defaults(parser=parser)


class ConfigFile:
    """A TOML file that was read. content: its keys and values. Raises UsageError, with the line; MissingExtraError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._text = _read(path)
        # What the command line leaves to the file, by key; set by merged().
        self.used: dict[str, Any] = {}
        name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
        try:
            toml: Any = importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError("tomli", "service", "Reading --config on Python before 3.11") from error
        try:
            self.content: dict[str, Any] = toml.loads(self._text)
        except (ValueError, RecursionError) as error:
            raise UsageError(self._syntax(error)) from None
        self._loads = toml.loads

    def error(self, what: str, *keys: str) -> UsageError:
        """An error about a key, or about an entry of its table."""
        return UsageError(f"{self._place(*keys)}: {what}")

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Errors of the body that are about a value of this file name its line."""
        try:
            yield
        except LcrError as error:
            text = str(error)
            keys = self._meant(text)
            if keys and not text.startswith(f"{self.path}:"):
                error.args = (f"{self._place(*keys)}: {text.replace(f'--{keys[0]} ', f'{keys[0]} ')}",)
            raise

    def _meant(self, text: str) -> tuple[str, ...]:
        """The key that a message is about, found by the option that it names, by a label, or by a value."""
        for name in (*re.findall(r"--([a-z][a-z-]*)", text), *re.findall(r"^([a-z-]+) (?:is|must)\b", text)):
            if name in self.used:
                return (name,)
        named: list[tuple[int, tuple[str, ...]]] = [(0, ())]
        for key, value in self.used.items():
            if isinstance(value, dict):
                for inner, one in value.items():
                    if text.startswith(f"{inner} is ") or repr(inner) in text:
                        return key, inner
                    named.append((_mentioned(one, text) or _mentioned(inner, text), (key, inner)))
            else:
                named += [(_mentioned(one, text), (key,)) for one in (value if isinstance(value, list) else [value])]
        return max(named, key=lambda pair: pair[0])[1]  # the longest: a folder is a part of other names

    def _place(self, *keys: str) -> str:
        line = self._line(keys) or (self._line(keys[:1]) if len(keys) > 1 else None)
        return f"{self.path}:{line}" if line else self.path

    def _line(self, keys: tuple[str, ...]) -> int | None:
        """Where a key is set: the line that names it, the statements before it not having it, those up to it having."""
        if not keys:
            return None
        mention = re.compile(rf"(?:^|[\s.,{{\[])[\"']?{re.escape(keys[-1])}[\"']?\s*[=.\]]")
        lines = self._text.split("\n")  # not splitlines: TOML knows no other ends
        for number, line in enumerate(lines):
            # What does not parse ends within a string or a list of several lines.
            if mention.search(line) and self._has(lines[:number], keys) is False:
                ends = range(number + 1, len(lines) + 1)
                if next((has for end in ends if (has := self._has(lines[:end], keys)) is not None), False):
                    return number + 1
        return None

    def _has(self, lines: list[str], keys: tuple[str, ...]) -> bool | None:
        """Whether these lines set the key; None where they are not whole."""
        try:
            found: Any = self._loads("\n".join(lines) + "\n")
        except (ValueError, RecursionError):
            return None
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return False
            found = found[key]
        return True

    def _syntax(self, error: Exception) -> str:
        if isinstance(error, RecursionError):
            return f"{self.path}: lists or tables are nested too deeply"
        found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        if found is None:
            return f"{self.path}: not TOML: {error}"
        line = int(found[1]) if found[1] else self._text.rstrip("\n").count("\n") + 1
        what = str(error)[: found.start()]
        if what.startswith(("Cannot overwrite", "Cannot declare")):
            return f"{self.path}:{line}: this key or table is there twice; keep one of them"
        hint = "; a string needs quotes" if what == "Invalid value" else ""
        return f"{self.path}:{line}: not TOML: {what[:1].lower()}{what[1:]}{hint}"


def merged(args: argparse.Namespace) -> tuple[argparse.Namespace, ConfigFile | None]:
    """The arguments of a run with those of its config file, and the file, if there is one. Raises UsageError."""
    if args.config is None:
        return args, None
    config = ConfigFile(args.config)
    actions = {_name(action): action for action in args.parser._actions}
    # With None as the value of all of them, the parser gives no default: what is not None then was typed.
    unset = argparse.Namespace(**dict.fromkeys(action.dest for action in actions.values()))
    typed = args.parser.parse_args(args.words, unset)
    known = sorted(set(actions) - set(_NOT_IN_FILE))
    values: dict[str, Any] = {}
    for key, value in config.content.items():
        if key not in known:
            near = difflib.get_close_matches(key.lower().replace("_", "-"), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "the keys are the options of: lcr-edge run --help"
            raise config.error(f"unknown key {key!r}; {hint}", key)
        values.update(_values(config, actions, key, value))
    given = {dest for dest, value in vars(typed).items() if value is not None}
    for owner, owned in _BELONG:
        if _dest(actions, owner) in given:
            values.pop(owned, None)
    for name, value in values.items():
        if _dest(actions, name) not in given:
            setattr(args, _dest(actions, name), value)
            if name in config.content:
                config.used[name] = config.content[name]
    return args, config


def located(config: ConfigFile | None) -> contextlib.AbstractContextManager[None]:
    """:meth:`ConfigFile.located`, or nothing without a file."""
    return contextlib.nullcontext() if config is None else config.located()


def _read(path: str) -> str:
    try:
        # Not to wait for a pipe that nobody writes to.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UsageError(f"--config {path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}; give a file")
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        folder = isinstance(error, IsADirectoryError)
        reason = "it is a folder" if folder else getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read --config {path}: {reason}; give a TOML file") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"--config {path} is longer than {_MOST_BYTES} bytes; is it a config file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8; save the file with that encoding") from None


def _mentioned(value: Any, text: str) -> int:
    """How long the part of a message is that is this value, or the source that it stands for; 0 where none is."""
    if not isinstance(value, str):
        return 0
    return max(
        len(word) if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) else 0 for word in (value, name_of(value))
    )


def _name(action: argparse.Action) -> str:
    return next((text[2:] for text in action.option_strings if text.startswith("--")), action.dest)


def _dest(actions: Mapping[str, argparse.Action], name: str) -> str:
    return actions[name].dest


def _values(
    config: ConfigFile, actions: Mapping[str, argparse.Action], key: str, value: Any
) -> Iterator[tuple[str, Any]]:
    """What a key sets: pairs of an option and its value, of the type that the command line would give it."""
    action = actions[key]
    if key == _SOURCE and isinstance(value, dict):
        if _NAMES in config.content:
            raise config.error(f"the table [{_SOURCE}] names the sources already; leave {_NAMES} out", _NAMES)
        if not value:
            raise config.error("the table has no source", key)
        yield key, [_one(config, action, address, key, name) for name, address in value.items()]
        yield _NAMES, list(value)
    elif key == _ENTERS:
        if not isinstance(value, dict):
            raise config.error(f"must be a table, [{key}], of label = probability", key)
        pairs = []
        for label, number in value.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise config.error(f"{label!r} must be a number, not {_kind(number)}", key, label)
            pairs.append((label, _float(config, number, key, label)))
        yield key, pairs
    elif action.nargs == 0:
        if not isinstance(value, bool):
            raise config.error(f"{key} must be true or false, not {_kind(value)}", key)
        yield key, value
    elif isinstance(action, argparse._AppendAction) or isinstance(action.nargs, int):
        several = isinstance(action.nargs, int)
        if not isinstance(value, list):
            what = f"a list of {action.nargs}" if several else "a list, also for one value"
            table = " or a table" if key == _SOURCE else ""
            raise config.error(f"{key} must be {what}{table}, not {_kind(value)}", key)
        if several and len(value) != action.nargs:
            raise config.error(f"{key} must be a list of {action.nargs}, has {len(value)}", key)
        yield key, [_one(config, action, one, key) for one in value]
    else:
        yield key, _one(config, action, value, key)


def _one(config: ConfigFile, action: argparse.Action, value: Any, *keys: str) -> Any:
    kind, name = action.type, keys[-1]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _float(config, value, *keys)
    wanted: type = int if kind is int else float if kind is float else str
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise config.error(f"{name} must be {_kind(wanted())}, not {_kind(value)}", *keys)
    if isinstance(value, str):
        if (not value and name != _MAY_BE_EMPTY) or _CONTROL.search(value):
            raise config.error(f"{name} is {'empty' if not value else 'a string with control characters'}", *keys)
        try:
            value = _from_folder(Path(config.path).parent, action, value)
        except VideoError as error:  # a pipeline that names none
            raise config.error(str(error), *keys) from None
    if action.choices is not None and value not in action.choices:
        raise config.error(f"{name} must be one of {', '.join(map(str, action.choices))}", *keys)
    if callable(kind) and wanted is str:
        try:
            value = kind(value)
        except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
            raise config.error(f"{name}: {error}", *keys) from error
    return value


def _from_folder(folder: Path, action: argparse.Action, value: str) -> str:
    """A value, beginning at the config file's folder if its option takes files or folders and it is one."""
    kinds = set(str(action.metavar or "").split("|"))
    if action.dest == _BUNDLE:
        kinds = {"DIR"}
    if not kinds & {"FILE", "DIR"} and action.type is not Path:
        return value
    other = ("URL" in kinds and "://" in value) or ("CAMERA" in kinds and may_be_live(value))
    return value if other or ("-" in kinds and value == "-") else str(folder / value)


def _float(config: ConfigFile, value: float, *keys: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise config.error(f"{keys[-1]} is too large a number", *keys) from None


def _kind(value: Any) -> str:
    # In this order: a bool is an int too.
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a date or time")
