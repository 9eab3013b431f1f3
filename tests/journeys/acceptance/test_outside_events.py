"""A task waits for an event from outside, through a kill -9 before it and right after it."""

from pathlib import Path

from tests.support.running_mesh import mesh_up

ACTOR = """
from meshwright import Agent, Capability, Run


class Shipper(Agent):
    agent_id = "shipper"
    capabilities = (Capability("shipping"),)

    async def run(self, run: Run) -> str:
        paid = await run.wait_event("app.orders", {"payload.order": 7})
        return f"shipped for {paid['payload']['dollars']} dollars"
"""


async def test_an_event_answers_the_task_that_waits_for_it_through_kills(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/shipper.py").write_text(ACTOR)
    data, actors = tmp_path / "data", {"MESH_AGENTS__DIR": str(tmp_path / "actors")}
    paid = {"topic": "app.orders", "event_type": "order.paid", "payload": {"order": 7, "dollars": 12}}
    async with mesh_up(data, **actors) as first:
        task_id = await first.submit("Ship 7", agent_id="shipper", capability="shipping")
        await first.until(lambda event: event["event_type"] == "task.waiting")
        for wrong, field in (
            ({**paid, "topic": "tasks.shipper"}, "topic"),
            ({**paid, "topic": "app"}, "topic"),
            ({**paid, "event_type": "order paid"}, "event_type"),
            ({**paid, "payload": 7}, "payload"),
        ):
            refused = await first.post("/events", wrong)
            assert (refused.status, refused.body["field"]) == (422, field), refused.body
        other = await first.post("/events", {**paid, "payload": {"order": 6}})
        assert other.status == 202
        await first.kill()
    async with mesh_up(data, **actors) as second:
        done, again = [
            await second.client.publish(*paid.values(), idempotency_key="order-7") for _ in range(2)
        ]
        assert done == again and done.startswith("app/default/")
        await second.kill()
    async with mesh_up(data, **actors) as third:
        assert (await third.outcome(task_id))["result"]["text"] == "shipped for 12 dollars"
        events = [event async for event in third.client.follow(task_id)]
        found = await third.client.events(topic="app.orders")
    assert [event.event_type for event in events].count("wait.ended") == 1
    assert [event.payload["order"] for event in found] == [6, 7]
