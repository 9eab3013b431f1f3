"""Tasks are named by any end or beginning of their id that no other has."""

import asyncio
from pathlib import Path

from tests.support.running_mesh import mesh, mesh_up


async def test_a_task_is_found_by_the_end_of_its_id(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data) as running:
        one, other = [await running.submit("Say hello.") for _ in range(2)]
        for task_id in (one, other):
            await running.story(task_id)
        shown, events, *both = await asyncio.gather(
            mesh("task", one[-8:], "--url", running.url),
            mesh("events", "--task", one[-8:], "--data", str(data)),
            mesh("task", "01", "--url", running.url),
            mesh("cancel", "01", "--url", running.url),
        )
        assert shown.status == 0 and one in shown.out, shown
        assert events.status == 0 and "task.succeeded" in events.out
        for refused in both:
            assert refused.status == 1 and "fits several ids" in refused.err, refused
            assert one in refused.err and other in refused.err
        found = await running.get("/tasks", task_id=one[-8:])
        assert [task["task_id"] for task in found.body["items"]] == [one]
    shown = await mesh("task", one[-8:], "--data", str(data))
    assert shown.status == 0 and one in shown.out
    for nothing in (["task", "NOPE"], ["events", "--task", "NOPE"]):
        missing = await mesh(*nothing, "--data", str(data))
        assert missing.status == 1 and "NOPE" in missing.err
