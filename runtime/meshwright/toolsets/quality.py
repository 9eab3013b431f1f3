"""Tools for judging the code of a task's tree: its tests, how reliable they are, and what they cover."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from pydantic import Field

from meshwright.agents.sandbox.port import BoxLimits
from meshwright.agents.tools.tool import ToolContext, tool
from meshwright.agents.trees.tree import Tree
from meshwright.core.errors import ToolFailed
from meshwright.toolsets.code import (
    MAX_FILE_BYTES,
    PROGRAM_TIMEOUT,
    EditingTools,
    ReadingTools,
    command_for,
    run_command,
)
from meshwright.toolsets.reports import grouped

_COVERAGE = ".meshwright-coverage.json"
_MAX_FILES = 40
_SECONDS = 300.0
_MEASURE = f"""
python3 -c 'import coverage' 2>/dev/null || exit 42
if python3 -c 'import pytest' 2>/dev/null
then python3 -B -m coverage run -m pytest -q -p no:cacheprovider "$@"
else python3 -B -m coverage run -m unittest "$@"
fi
status=$?
python3 -B -m coverage json -q -o {_COVERAGE} && exit $status
"""
_NOT_INSTALLED = 42

_Path = Annotated[str, Field(max_length=1_000)]


class QualityTools(ReadingTools):
    """Runs and judges the tests of the tree of a task, and changes nothing."""

    name = "quality"

    @tool(idempotent=True, effect="run", origin="workspace", exclusive=True, timeout=PROGRAM_TIMEOUT)
    async def flaky(
        self,
        test: Annotated[str, Field(min_length=1, max_length=1_000)],
        context: ToolContext,
        times: Annotated[int, Field(ge=2, le=20)] = 5,
    ) -> dict[str, Any]:
        """Run the same tests several times, each from the same files, and count how often they fail.

        Args:
            test: a file or folder of tests
            times: how often
        """
        tree = await context.tree()
        command = await command_for(tree, test)

        async def work() -> dict[str, Any]:
            results = [await tree.tried(lambda: run_command(tree, command)) for _ in range(times)]
            failed = [result for result in results if not result["passed"]]
            names = {failure["name"] for result in failed for failure in result["failed"]}
            outputs = [result["output_id"] for result in failed]
            is_flaky = 0 < len(failed) < times
            return {
                "flaky": is_flaky,
                "runs": times,
                "failed": len(failed),
                "tests": sorted(names),
                "outputs": outputs,
            }

        return await tree.once(context.step_id, work)

    @tool(idempotent=True, effect="run", origin="workspace", exclusive=True, timeout=PROGRAM_TIMEOUT)
    async def coverage(self, context: ToolContext, path: _Path = "") -> dict[str, Any]:
        """Measure which lines of Python files the tests run, by the package coverage; the least first.

        Args:
            path: only the tests of this file or folder
        """
        tree = await context.tree()
        only = [tree.files.locate(path).as_posix()] if path else []

        async def work() -> dict[str, Any]:
            argv = ("bash", "-c", _MEASURE, "coverage", *only)
            finished = await tree.run(argv, BoxLimits(seconds=_SECONDS))
            if finished.status == _NOT_INSTALLED:
                raise ToolFailed(
                    "the Python of the sandbox has no package coverage",
                    remedy="Install it in an environment that [trees.NAME] lists under read",
                )
            report = await asyncio.to_thread(_read, tree)
            if report is None:
                raise ToolFailed(f"nothing was measured: {finished.output[-1_000:]}")
            return {"passed": finished.status == 0, **report}

        return await tree.once(context.step_id, lambda: tree.tried(work))

    @tool(idempotent=True, effect="read", origin="workspace")
    async def analyse_output(
        self, output_id: Annotated[str, Field(max_length=64)], context: ToolContext
    ) -> Any:
        """Group the failures in the output of tests by the line of the project that each names last.

        Args:
            output_id: as the result of run_tests has it
        """
        tree = await context.tree()
        groups = await asyncio.to_thread(lambda: grouped(tree.output(output_id)))
        return groups or "the output names no failure with a line of the project"


class QaTools(QualityTools, EditingTools):
    """Judges the tests of the tree of a task, and writes tests, but no other files."""

    name = "qa"
    writes = (
        "tests/**",
        "test/**",
        "test_*.py",
        "*_test.py",
        "conftest.py",
        "*_test.go",
        "*.test.*",
        "*.spec.*",
    )


def _read(tree: Tree) -> dict[str, Any] | None:
    if not tree.files.has(_COVERAGE):
        return None
    try:
        report = json.loads(tree.files.read(_COVERAGE, 20 * MAX_FILE_BYTES))
        files = [
            (name, file["summary"]["percent_covered"], file["missing_lines"])
            for name, file in report["files"].items()
        ]
        lowest = sorted(files, key=lambda file: file[1])[:_MAX_FILES]
        rows = [
            {"file": name, "percent": round(percent, 1), "missing": _ranges(lines)}
            for name, percent, lines in lowest
        ]
        return {"percent": round(report["totals"]["percent_covered"], 1), "files": rows}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _ranges(lines: list[int]) -> str:
    """Numbers of lines as text: `3-5, 9`."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
