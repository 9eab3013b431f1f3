"""The jobs of `make coding` by the coder as it is shipped: each done once, however often it is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.coding.course import Course, Kill, Result
from benchmarks.coding.job import load_jobs
from benchmarks.coding.program_course import PROGRAMS, ProgramCourse, installed
from benchmarks.coding.programs import is_good

pytestmark = pytest.mark.needs("git")
HOURS = 3_600 * 3


def check(course: Course, results: Sequence[Result]) -> None:
    """Every job is solved by the calls that were recorded, none of them and no answer of the model twice."""
    for result in results:
        job = result.job
        assert result.is_solved, f"{job.name}: {result.answer}\n{result.proof}"
        assert result.calls == Counter(call.tool for call in job.calls), job.name
        assert result.asked == len(job.calls) + 1, job.name
    assert course.repeated == 0


async def test_a_coder_solves_jobs_as_it_is_shipped(tmp_path: Path) -> None:
    course = Course(tmp_path, load_jobs(["cents", "last_page"]))
    check(course, await course.run())


@pytest.fixture(scope="module")
async def diffs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The change of each job in a mesh that is not killed."""
    course = Course(tmp_path_factory.mktemp("calm"), load_jobs())
    return {result.job.name: result.diff for result in await course.run()}


@pytest.mark.needs("go", "npm")
@pytest.mark.soak("twenty jobs in three languages, with a kill at each of their steps, take minutes")
@pytest.mark.timeout(HOURS)
@pytest.mark.parametrize("kill", ["between", "within"])
async def test_jobs_end_the_same_with_a_kill_at_each_step(
    tmp_path: Path, diffs: dict[str, str], kill: Kill
) -> None:
    course = Course(tmp_path, load_jobs())
    results = await course.run(kill)
    check(course, results)
    assert {result.job.name: result.diff for result in results} == diffs
    assert course.kills > max(len(result.job.calls) for result in results)


@pytest.mark.needs("bwrap", "node")
@pytest.mark.soak("programs of 1.2 GB, which make harness installs; CI has an agent that is a fake")
@pytest.mark.timeout(HOURS)
@pytest.mark.parametrize("headless", [False, True], ids=["adapter", "headless"])
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_does_a_job_through_kills_of_the_mesh_and_of_itself(
    tmp_path: Path, program: str, headless: bool
) -> None:
    try:
        installed()
    except LookupError as missing:
        pytest.skip(str(missing))
    jobs = load_jobs(["cents"])
    folders = [tmp_path / name for name in ("recorded", "program")]
    for folder in folders:
        folder.mkdir()
    [recorded] = await Course(folders[0], jobs).run()
    course = ProgramCourse(folders[1], jobs, program, headless=headless)
    [result] = [result async for result in course.done(kill=True)]
    tally = course.tallies["cents"]
    assert is_good(result, tally, recorded.diff), f"{tally}: {result.answer}\n{result.proof}"
    assert len(tally.kills) == 4
    kinds = {"between", "within", "program"} if headless else {"between", "within", "program", "asked"}
    assert {place.what for place in tally.kills} == kinds
    assert tally.sessions["resumed"] >= len(tally.kills)
    assert not any(tally.provider_repeats for tally in course.tallies.values())
