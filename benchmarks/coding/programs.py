"""The coding jobs by the real programs of coding agents, with a scripted model: `make harness` installs them.

python -m benchmarks.coding.programs codex             # codex-acp; `claude` is claude-code-acp
python -m benchmarks.coding.programs codex --kill      # four kill -9 in each job, at places by a seed
python -m benchmarks.coding.programs codex --headless  # `codex exec`; `claude` is `claude -p`
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.coding.course import Course, Result
from benchmarks.coding.job import CodingJob, load_jobs
from benchmarks.coding.program_course import PROGRAMS, ProgramCourse, Tally

COLUMNS = {
    "job": 18,
    "solved": 6,
    "diff": 9,
    "kills": 5,
    "permissions": 11,
    "again": 5,
    "doubts": 6,
    "resumed": 7,
    "begun again": 11,
    "calls": 5,
    "cut": 3,
    "ledger": 7,
    "seconds": 7,
}
"""The columns, with their widths."""


def cells_of(result: Result, tally: Tally, diff: str) -> tuple[str, ...]:
    """The cells of a job; `diff` is that of api-coder."""
    return (
        result.job.name,
        "yes" if result.is_solved else "NO",
        "same" if result.diff == diff else "DIFFERENT",
        str(len(tally.kills)),
        str(tally.permissions.total()),
        str(tally.asked_again),
        str(tally.doubts),
        str(tally.sessions["resumed"]),
        str(tally.sessions["restarted"]),
        str(tally.provider_answers),
        str(result.cut),
        _books_of(tally),
        f"{(result.task.duration_ms or 0) / 1000:.0f}",
    )


def _books_of(tally: Tally) -> str:
    """The tokens of the ledger: "same" as of the provider, "by cut" with calls cut off, or the difference."""
    difference = tally.ledger_tokens - tally.provider_tokens
    if -tally.cut_tokens <= difference < 0:
        return "by cut"
    return f"{difference:+d}" if difference else "same"


def line_of(cells: Sequence[str]) -> str:
    """A line of the table: texts to the left, numbers to the right."""
    pairs = zip(cells, COLUMNS.values(), strict=True)
    return "  ".join(
        cell.rjust(width) if cell.isdecimal() else cell.ljust(width) for cell, width in pairs
    ).rstrip()


def is_good(result: Result, tally: Tally, diff: str) -> bool:
    """Whether a job went as it has to, however often it was killed."""
    return (
        result.is_solved
        and result.diff == diff
        and not tally.asked_again
        and tally.ledger_tokens <= tally.provider_tokens <= tally.ledger_tokens + tally.cut_tokens
    )


def summary(good: int, jobs: Sequence[CodingJob], course: ProgramCourse) -> str:
    asked = sum(tally.permissions.total() for tally in course.tallies.values())
    again = sum(tally.asked_again for tally in course.tallies.values())
    doubts = sum(tally.doubts for tally in course.tallies.values())
    kills = sum(len(tally.kills) for tally in course.tallies.values())
    return (
        f"{good} of {len(jobs)} jobs are solved, with the diff of api-coder and the provider's tokens booked."
        f"\n{kills} kills; {asked} permissions, {again} asked again; {doubts} doubts;"
        f" {_repeats(course)} requests were answered twice."
    )


def _repeats(course: ProgramCourse) -> int:
    return sum(tally.provider_repeats for tally in course.tallies.values())


async def run(options: argparse.Namespace) -> int:
    jobs, good = load_jobs(options.only), 0
    with tempfile.TemporaryDirectory(prefix="coding-", ignore_cleanup_errors=True) as scratch:
        folder = options.folder or Path(scratch)
        for name in ("recorded", "program"):
            (folder / name).mkdir(parents=True)
        course = ProgramCourse(
            folder / "program", jobs, options.program, options.seed, headless=options.headless
        )
        diffs = {result.job.name: result.diff for result in await Course(folder / "recorded", jobs).run()}
        print(line_of([*COLUMNS]), flush=True)
        async for result in course.done(kill=options.kill):
            name = result.job.name
            tally, diff = course.tallies[name], diffs[name]
            print(line_of(cells_of(result, tally, diff)), flush=True)
            good += is_good(result, tally, diff)
            if not result.is_solved:
                print(f"  {result.answer}\n{result.proof[-2_000:]}", flush=True)
    print(summary(good, jobs, course))
    return 0 if good == len(jobs) and not _repeats(course) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coding.programs", description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--only", action="append", default=[], metavar="JOB", help="some of the jobs")
    parser.add_argument("--kill", action="store_true", help="kill the mesh and the program in each job")
    parser.add_argument(
        "--headless", action="store_true", help="call the program itself, without its adapter"
    )
    parser.add_argument("--seed", type=int, default=0, help="by which places are chosen for kills")
    parser.add_argument("--folder", type=Path, help="a new folder that is kept, with data and repositories")
    return parser.parse_args(arguments)


def main() -> None:
    try:
        sys.exit(asyncio.run(run(parse(sys.argv[1:]))))
    except LookupError as error:
        sys.exit(f"coding: {error}")


if __name__ == "__main__":
    main()
