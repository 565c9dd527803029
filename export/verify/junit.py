"""A verification as JUnit XML, for continuous integration: one test case for each check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from lcr_edge.export.verify.report import MODES, Report
from lcr_edge.runtimes.checks import Check

# What XML 1.0 cannot hold, escaped or not: control characters, halves of surrogate pairs.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> bytes:
    """A document with a test suite for each part of the verification, as UTF-8.

    A case has the check's name, and the bundle as its class. A missed promise is a failure with the sentence as its
    message; so is each sentence about what is broken. A promise that could not be judged is skipped. The checks of a
    part are made together, so its seconds are divided evenly among its cases.
    """
    root = ElementTree.Element("testsuites")
    for part, (checks, broken) in report.parts.items():
        _add_suite(root, f"{report.bundle} {part}", report.bundle, checks, broken, report.seconds.get(part, 0.0))
    return _written(root)


def junit_of_error(bundle: str, sentence: str) -> bytes:
    """A document with one failure, for a verification that ended before there was a report."""
    root = ElementTree.Element("testsuites")
    _add_suite(root, f"{bundle} {MODES}", bundle, (), (sentence,), 0.0)
    return _written(root)


def _add_suite(
    root: ElementTree.Element,
    name: str,
    bundle: str,
    checks: Sequence[Check],
    broken: Sequence[str],
    seconds: float,
) -> None:
    count = len(checks) + len(broken)
    suite = ElementTree.SubElement(root, "testsuite", name=_text(name), tests=str(count), errors="0")
    share = f"{seconds / max(count, 1):.3f}"
    for sentence in broken:
        case = ElementTree.SubElement(suite, "testcase", name=_text(sentence), classname=_text(bundle), time=share)
        ElementTree.SubElement(case, "failure", message=_text(sentence), type="broken")
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", name=_text(check.name), classname=_text(bundle), time=share)
        if check.met is None:
            ElementTree.SubElement(case, "skipped", message=_text(check.remark))
        elif not check.met:
            failure = ElementTree.SubElement(case, "failure", message=_text(check.sentence), type="promise")
            failure.text = _text(check.line())
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{seconds:.3f}")


def _written(root: ElementTree.Element) -> bytes:
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _text(value: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value)
