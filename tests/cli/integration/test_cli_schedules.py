"""`mesh schedules`: make one, look at it, pause, resume, run and delete it, and what a mistake is told."""

import json
from pathlib import Path

from tests.support.running_mesh import mesh, mesh_up

WRONG = [
    (("--every", "15x"), "'15x' is no duration, such as 90s, 15m, 1h30m or 1d"),
    (("--at", "tomorrow"), "at: must be a time, like 2026-12-01T09:00"),
]


async def test_a_schedule_by_the_command_line(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    create = ("schedules", "create", "digest", "--agent", "digest-agent")
    async with mesh_up(tmp_path / "data"):
        for options, told in WRONG:
            refused = await mesh(*create, *options, *data)
            assert refused.status > 0 and told in refused.err, (options, refused)
        weekdays = ("--cron", "0 7 * * 1-5", "--zone", "Europe/Berlin", "--overlap", "queue")
        made = await mesh(*create, *weekdays, *data)
        assert (made.status, made.err) == (0, "")
        assert "0 7 * * 1-5 (Europe/Berlin)" in made.out and " 07:00:00+0" in made.out
        changed = await mesh(*create, "--every", "1h30m", "--replace", *data)
        assert "every 90m" in changed.out
        once = ("--at", "2036-12-01T09:00", "--zone", "America/New_York", "--replace")
        assert "at 2036-12-01 09:00:00-05:00 (America/New_York)" in (await mesh(*create, *once, *data)).out
        assert "every 90m" in (await mesh(*create, "--every", "1h30m", "--replace", *data)).out
        ran = await mesh("schedules", "run", "digest", *data)
        assert ran.status == 0 and ran.out.startswith("started: task ")
        assert (await mesh("schedules", "pause", "digest", *data)).out == "paused: digest\n"
        [listed] = json.loads((await mesh("schedules", "list", "--json", *data)).out)
        assert (listed["status"], listed["last_run"]["status"]) == ("paused", "started")
        assert (listed["runs"], listed["tasks"]) == (0, 1)
        shown = await mesh("schedules", "show", "digest", *data)
        assert "paused" in shown.out and ran.out.split()[-1] in shown.out
        assert "resumed: digest; next 2" in (await mesh("schedules", "resume", "digest", *data)).out
        assert (await mesh("schedules", "delete", "digest", *data)).out == "deleted: digest\n"
