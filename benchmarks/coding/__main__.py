"""`python -m benchmarks.coding`: do the coding jobs, and print a table of how they went."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from benchmarks.coding.course import Course, Result
from benchmarks.coding.job import load_jobs
from benchmarks.coding.model import CHARS_A_TOKEN, DOLLARS_A_MILLION

HEADERS = (
    "job",
    "language",
    "solved",
    "diff",
    "asked",
    "cut",
    "calls",
    "failed",
    "tokens",
    "cost",
    "seconds",
)
_TEXT_COLUMNS = 4
RECORDED = (
    f"The model is a script that repeats recorded calls: tokens are estimated at {CHARS_A_TOKEN} characters "
    f"each, cost at ${DOLLARS_A_MILLION[0]} and ${DOLLARS_A_MILLION[1]} a million read and written."
)


def tokens_of(result: Result) -> int:
    """The tokens that models read and wrote for a job."""
    return result.task.usage.prompt_tokens + result.task.usage.completion_tokens


def cells_of(result: Result) -> tuple[str, ...]:
    task = result.task
    return (
        result.job.name,
        result.job.language,
        "yes" if result.is_solved else "NO",
        result.digest,
        str(result.asked),
        str(result.cut),
        str(result.calls.total()),
        str(result.failed_calls),
        f"{tokens_of(result):,}",
        "unknown" if task.cost_usd is None else f"${task.cost_usd:.4f}",
        f"{(task.duration_ms or 0) / 1000:.1f}",
    )


def table_of(results: Sequence[Result]) -> str:
    """A line for each job, and one for all of them."""
    costs = [result.task.cost_usd for result in results]
    total = sum((cost for cost in costs if cost is not None), Decimal())
    summary = (
        f"{len(results)} jobs",
        "",
        f"{sum(result.is_solved for result in results)}",
        "",
        f"{sum(result.asked for result in results)}",
        f"{sum(result.cut for result in results)}",
        f"{sum(result.calls.total() for result in results)}",
        f"{sum(result.failed_calls for result in results)}",
        f"{sum(map(tokens_of, results)):,}",
        "unknown" if None in costs else f"${total:.4f}",
        f"{sum((result.task.duration_ms or 0) / 1000 for result in results):.1f}",
    )
    lines = [HEADERS, *map(cells_of, results), summary]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coding", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="JOB", help="some of the jobs")
    parser.add_argument("--model", default="", help="a model by name, such as anthropic/claude-sonnet-4-6")
    parser.add_argument(
        "--kill",
        choices=("never", "between", "within"),
        default="never",
        help="kill -9 before every answer of the recorded model, or within every step",
    )
    parser.add_argument("--folder", type=Path, help="a new folder that is kept, with data and repositories")
    options = parser.parse_args(arguments)
    if options.model and options.kill != "never":
        parser.error("--kill takes the recorded model")
    return options


async def run(options: argparse.Namespace) -> int:
    jobs = load_jobs(options.only)
    with tempfile.TemporaryDirectory(prefix="coding-", ignore_cleanup_errors=True) as scratch:
        folder = options.folder or Path(scratch)
        course = Course(folder, jobs, model=options.model)
        results = await course.run(options.kill)
    print(table_of(results))
    for result in results:
        if not result.is_solved:
            print(f"\n{result.job.name}: {result.answer}\n{result.proof[-2_000:]}")
    if not options.model:
        print(f"\n{RECORDED}")
    if course.kills:
        repeated = f"{course.repeated} of the model's answers were given again"
        print(f"The mesh was killed {course.kills} times; {repeated}.")
    return 0 if all(result.is_solved for result in results) and not course.repeated else 1


def main() -> None:
    try:
        sys.exit(asyncio.run(run(parse(sys.argv[1:]))))
    except LookupError as error:
        sys.exit(f"coding: {error}")


if __name__ == "__main__":
    main()
