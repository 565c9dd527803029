"""Options that several commands share: ranges, defaults in the help, and JSON to a file or to stdout."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from lcr_edge.errors import OutputError, UsageError
from lcr_edge.options import Number, add_threads, check_numbers, check_seed, text_stream, write_json

TABLE = (
    Number("least", "help", default=3),
    Number("share", "help", float, 0, 1),
    Number("below", "help", float, 0, 1, below_high=True),
    Number("above", "help", float, 0, above_low=True, field="other"),
    Number("pair", "help", float, 0, 1, default=(0.0, 0.6), metavar=("FIRST", "LAST")),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="x")
    for row in TABLE:
        row.add(parser)
    add_threads(parser, None, engine="torch")
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--least 0", "--least must be at least 1, got 0"),
        ("--share 1.1", "--share must be from 0 to 1, got 1.1"),
        ("--share nan", "--share must be from 0 to 1, got nan"),
        ("--below 1", "--below must be at least 0 and below 1, got 1.0"),
        ("--above 0", "--above must be above 0, got 0.0"),
        ("--above inf", "--above must be above 0, got inf"),
        ("--pair 0 2", "--pair must be from 0 to 1, got 0.0 2.0"),
    ],
)
def test_values_out_of_range_are_named(arguments: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_numbers(TABLE, _parser().parse_args(arguments.split()))
    assert str(raised.value) == message


def test_the_ends_of_a_range_are_in_it() -> None:
    for arguments in ("", "--least 1 --share 0 --below 0 --above 1e-9 --pair 0 1", "--share 1 --pair 1 0"):
        check_numbers(TABLE, _parser().parse_args(arguments.split()))
    args = _parser().parse_args(["--above", "2", "--pair", "0", "1"])
    assert (args.least, args.share, args.other, args.pair) == (3, None, 2.0, [0.0, 1.0])
    check_seed(0)
    check_seed(2**32 - 1)
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match="--seed must be from 0 to 4294967295"):
            check_seed(seed)


def test_help_shows_the_defaults() -> None:
    text = " ".join(_parser().format_help().split())
    for part in ("--least N help (default: 3)", "--pair FIRST LAST help (default: 0.0 0.6)", "torch chooses"):
        assert part in text


def test_json_goes_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "Größe", "values": [1, None]}
    write_json(None, document)
    assert capsys.readouterr() == ("", "")
    assert text_stream(None) is sys.stdout
    assert text_stream("x.json") is sys.stdout
    assert text_stream("-") is sys.stderr
    write_json("-", document)
    assert json.loads(capsys.readouterr().out) == document
    write_json(str(tmp_path / "x.json"), document)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == document
    with pytest.raises(OutputError, match="No such file"):
        write_json(str(tmp_path / "none" / "x.json"), document)
