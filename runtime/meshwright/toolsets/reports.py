"""Runs of tests: the command of a project, and which tests failed and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any, NamedTuple
from xml.etree import ElementTree

REPORT = ".meshwright-tests.xml"
"""The file of the tree to which a run writes its report, which is removed afterwards."""
_MAX_FAILED = 20
_MAX_MESSAGE_CHARS = 1_500
_MAX_REPORT_CHARS = 5_000_000
_UNITTEST = re.compile(
    r"^(?:FAIL|ERROR): (\S+) \(([^)]*)\)\n-{70}\n(.{0,4000}?)(?=\n={70}\n|\n-{70}\n)",
    re.MULTILINE | re.DOTALL,
)
_PLACE = re.compile(
    r'(?:File "|(?<![\w./-]))([\w./-]+\.(?:py|js|mjs|cjs|ts|tsx|go|rs|rb))(?:", line |:)(\d+)'
)
_FOREIGN = re.compile(r"^/|node_modules/|site-packages/")  # files of a project are named from its root on
_TAP = re.compile(r"^\s*not ok \d+ (?:- )?(.+)$", re.M)
_NO_TEST = re.compile(r"^Ran 0 tests in \S+\s+OK$", re.M)
_GO_FAILS = re.compile(r"^\s*--- FAIL: (\S+)", re.M)


class Failure(NamedTuple):
    """A test that failed, with the last place of the project that its message names."""

    name: str
    message: str
    file: str
    line: int


class SuiteCommand(NamedTuple):
    """The command that runs the tests, and how its output, with the report that it wrote, is read.

    `render` makes text of output that is none.
    """

    argv: tuple[str, ...]
    parse: Callable[[str, str], list[Failure] | None]
    render: Callable[[str], str] = str


def suite_command(
    names: Sequence[str], read_file: Callable[[str], str], command: Sequence[str], path: str
) -> SuiteCommand | None:
    """The command for a project with files of these names at its root; None where it cannot be told.

    `command` is that of the settings, `path` the tests to run, and `read_file` returns the text of a file.
    """
    only = [path] if path else []
    if command:
        return _as_configured(tuple(command), only)
    if "go.mod" in names:
        packages = _go_folder(path) if path else "./..."
        return SuiteCommand(("go", "test", "-json", packages), _read_go, _shown_of_go)
    if "package.json" in names:
        script = _script(read_file("package.json"))
        if script.startswith("node --test") or not script:
            kind = ("--test-reporter=junit", f"--test-reporter-destination={REPORT}")
            return SuiteCommand(("node", "--test", *kind, *only), _read_junit)
        return SuiteCommand(("npm", "test", "--silent", *(["--", *only] if only else [])), _read_text)
    if "Cargo.toml" in names:
        return SuiteCommand(("cargo", "test", "--offline", *only), _read_text)
    if any(name.endswith((".py", ".toml", ".cfg")) or name in ("tests", "test") for name in names):
        return _python_command(only)
    return None


def _as_configured(words: tuple[str, ...], only: Sequence[str]) -> SuiteCommand:
    if any(PurePath(word).name in ("pytest", "py.test") for word in words):
        argv = (*words, "-p", "no:cacheprovider", f"--junitxml={REPORT}", *only)
        return SuiteCommand(argv, _read_junit)
    return SuiteCommand((*words, *only), _read_text)


def _python_command(only: Sequence[str]) -> SuiteCommand:
    pytest = f'python3 -B -m pytest -q -p no:cacheprovider --junitxml={REPORT} "$@"'
    plain = 'python3 -B -m unittest -v "$@"'
    script = f"if python3 -c 'import pytest' 2>/dev/null; then {pytest}; else {plain}; fi"
    return SuiteCommand(("bash", "-c", script, "tests", *only), _read_junit_or_text)


def _script(text: str) -> str:
    try:
        return str(json.loads(text)["scripts"]["test"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _go_folder(path: str) -> str:
    folder = PurePath(path).parent if path.endswith(".go") else PurePath(path)
    return f"./{folder.as_posix()}"


def suite_result(command: SuiteCommand, status: int | None, output: str, report: str) -> dict[str, Any]:
    """The result of a run: whether the tests passed, those that failed, and the end of the output.

    Tests that end well, where a report was to be written and is not there, have not passed, nor has a run of
    `unittest` without any test: Python before 3.12 ends it with status 0.
    """
    failed = command.parse(output, report)
    has_passed = status == 0 and not failed and failed is not None
    failures = [failure._asdict() for failure in (failed or ())[:_MAX_FAILED]]
    more = {"more_failed": len(failed) - len(failures)} if failed and len(failed) > len(failures) else {}
    return {"passed": has_passed, "status": status, "failed": failures, **more}


def _read_junit(output: str, report: str) -> list[Failure] | None:
    if not report or len(report) > _MAX_REPORT_CHARS or "<!DOCTYPE" in report or "<!ENTITY" in report:
        return None
    try:
        root = ElementTree.fromstring(report)
    except ElementTree.ParseError:
        return None
    failures: list[Failure] = []
    for case in root.iter("testcase"):
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        for fault in (child for child in case if child.tag in ("failure", "error")):
            failures.append(_failure(name, "\n".join(filter(None, (fault.get("message"), fault.text)))))
    return failures


def _read_junit_or_text(output: str, report: str) -> list[Failure] | None:
    return _read_junit(output, report) if report else _read_text(output, report)


def _read_text(output: str, report: str) -> list[Failure] | None:
    if _NO_TEST.search(output):
        return None
    failures = [
        _failure(place if place.endswith(f".{name}") else f"{place}.{name}", text)
        for name, place, text in _UNITTEST.findall(f"{output}\n")
    ]
    names = (*_TAP.findall(output), *_GO_FAILS.findall(output))
    return failures or [_failure(name, "") for name in names]


def _read_go(output: str, report: str) -> list[Failure] | None:
    texts: dict[str, list[str]] = {}
    failed: list[str] = []
    for event in (line for line in _output_lines(output) if isinstance(line, dict)):
        name = ".".join(str(event[key]) for key in ("Package", "Test") if key in event)
        if event.get("Action") == "output":
            texts.setdefault(name, []).append(str(event.get("Output", "")))
        elif event.get("Action") == "fail":
            failed.append(name)
    tests = [name for name in failed if not any(other.startswith(f"{name}.") for other in failed)]
    return [_failure(name, "".join(texts.get(name, ()))) for name in tests]


def _shown_of_go(output: str) -> str:
    lines = (event.get("Output", "") if isinstance(event, dict) else event for event in _output_lines(output))
    return "".join(map(str, lines))


def _output_lines(output: str) -> Iterator[dict[str, Any] | str]:
    """The lines of an output: events as data, others as they are."""
    for line in output.splitlines(keepends=True):
        event: Any = None
        if line.startswith("{"):
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
        yield event if isinstance(event, dict) else line


def _failure(name: str, message: str) -> Failure:
    places = [(file, int(line)) for file, line in _PLACE.findall(message) if not _FOREIGN.search(file)]
    file, line = places[-1] if places else ("", 0)
    message = message.strip()
    cut = message if len(message) <= _MAX_MESSAGE_CHARS else f"...{message[-_MAX_MESSAGE_CHARS:]}"
    return Failure(name, cut, file, line)


def grouped(output: str) -> list[dict[str, Any]]:
    """The failures that an output tells of, grouped by the place of the project that each names last."""
    blocks = re.split(r"\n(?=Traceback |={5,}|_{5,} |--- FAIL|not ok |FAIL: |ERROR: |panic: )", output)
    groups: dict[str, dict[str, Any]] = {}
    for block in blocks:
        failure = _failure("", block)
        if failure.file:
            place = f"{failure.file}:{failure.line}"
            last = [line.strip() for line in block.strip().splitlines() if line.strip()][-1][:300]
            group = groups.setdefault(place, {"place": place, "count": 0, "example": last})
            group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])
