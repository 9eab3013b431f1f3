"""Tools for authors' tests: the clock moved by hand and the scripted model."""

import asyncio
import subprocess
import sys
from datetime import timedelta

import pytest

from meshwright.models.errors import ModelRefused, ModelUnavailable
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.testing import ManualClock, ScriptedModel, ScriptEnded, tool_call


def request(text: str = "What now?", user: str = "greeter") -> ModelRequest:
    return ModelRequest(messages=(ChatMessage(role="user", content=text),), user=user)


async def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock()
    before = clock.now()
    await asyncio.sleep(0)
    assert clock.now() == before
    await clock.advance(90)
    assert clock.now() == before + timedelta(seconds=90)


async def test_sleepers_wake_in_their_order_each_at_its_own_time() -> None:
    clock = ManualClock()
    began = clock.now()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep_until(began + timedelta(seconds=seconds))
        woken.append((name, (clock.now() - began).total_seconds()))

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in (("c", 30), ("a", 10), ("b", 20), ("d", 40)):
            tasks.create_task(sleep(name, seconds))
        await clock.advance(30)
        assert woken == [("a", 10), ("b", 20), ("c", 30)]
        await clock.advance(10)
    assert woken[-1] == ("d", 40)


async def test_what_repeats_by_the_clock_repeats_within_one_advance() -> None:
    clock = ManualClock()
    beats: list[float] = []

    async def beat() -> None:
        while True:
            await clock.sleep_until(clock.now() + timedelta(seconds=30))
            beats.append(clock.now().timestamp())

    task = asyncio.create_task(beat())
    await clock.advance(120)
    task.cancel()
    assert len(beats) == 4


async def test_time_stands_still_while_one_works_whom_a_sleeper_has_woken() -> None:
    clock, seconds = ManualClock(), list[float]()
    began, is_due = clock.now(), asyncio.Event()

    async def wake() -> None:
        while True:
            await clock.sleep_until(clock.now() + timedelta(seconds=1))
            is_due.set()

    async def work() -> None:
        while True:
            await is_due.wait()
            is_due.clear()
            for _ in range(50):
                await asyncio.sleep(0)
            seconds.append((clock.now() - began).total_seconds())

    tasks = [asyncio.create_task(wake()), asyncio.create_task(work())]
    await clock.advance(5)
    for task in tasks:
        task.cancel()
    assert seconds == [1, 2, 3, 4, 5]


async def test_a_time_that_has_passed_is_not_waited_for() -> None:
    clock = ManualClock()
    await clock.sleep_until(clock.now() - timedelta(days=1))
    await clock.sleep_until(clock.now())


async def test_a_cancelled_sleeper_is_passed_over() -> None:
    clock = ManualClock()
    began = clock.now()
    task = asyncio.create_task(clock.sleep_until(began + timedelta(seconds=10)))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(20)
    assert clock.now() == began + timedelta(seconds=20)


async def test_a_scripted_model_says_its_replies_in_order_and_keeps_the_requests() -> None:
    model = ScriptedModel("one", "two")
    first, second = await model.complete(request("a")), await model.complete(request("b"))
    assert (first.content, second.content) == ("one", "two")
    assert [each.messages[-1].content for each in model.requests] == ["a", "b"]
    assert model.unsaid == 0


async def test_a_scripted_tool_call_is_what_a_model_would_write() -> None:
    model = ScriptedModel(tool_call("fetch_page", url="https://example.org", depth=2))
    reply = await model.complete(request())
    [call] = reply.tool_calls
    assert (call.name, call.arguments) == ("fetch_page", '{"url": "https://example.org", "depth": 2}')
    assert reply.finish_reason == "tool_calls"


async def test_each_scripted_tool_call_has_an_id_of_its_own() -> None:
    model = ScriptedModel([tool_call("a"), tool_call("b")], tool_call("a"))
    replies = [await model.complete(request()) for _ in range(2)]
    ids = [call.id for reply in replies for call in reply.tool_calls]
    assert len(set(ids)) == 3
    assert all(ids)


async def test_a_script_may_raise_and_may_make_its_replies() -> None:
    whole = ModelReply(content="whole", model="big")
    model = ScriptedModel(
        ModelUnavailable("down"), lambda asked: ModelReply(content=asked.user, model="m"), whole
    )
    with pytest.raises(ModelUnavailable, match="down"):
        await model.complete(request())
    assert (await model.complete(request(user="me"))).content == "me"
    assert await model.complete(request()) == whole


async def test_replies_to_one_agent_are_kept_for_it() -> None:
    model = ScriptedModel("for anybody")
    model.replies("one for the researcher", "two for the researcher", to="researcher")
    assert (await model.complete(request())).content == "for anybody"
    assert (await model.complete(request(user="researcher"))).content == "one for the researcher"
    assert (await model.complete(request(user="researcher"))).content == "two for the researcher"


async def test_the_context_service_does_not_use_up_the_script() -> None:
    model = ScriptedModel("for the agent")
    with pytest.raises(ModelRefused):
        await model.complete(request(user="context-service"))
    assert (await model.complete(request())).content == "for the agent"
    model.replies("compressed", to="context-service")
    assert (await model.complete(request(user="context-service"))).content == "compressed"
    assert model.ended is None


async def test_a_script_that_runs_dry_says_who_asked_for_what() -> None:
    model = ScriptedModel("only one")
    await model.complete(request())
    with pytest.raises(ScriptEnded, match=r"call 2, by greeter: user: And then\?.*model.replies"):
        await model.complete(request("And then?"))
    assert model.ended is not None


def test_the_plugin_costs_pytest_no_heavy_import() -> None:
    code = "import sys, meshwright.testing.plugin; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
