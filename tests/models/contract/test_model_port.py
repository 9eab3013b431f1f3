"""Every model keeps the same contract: one suite, run on each adapter."""

import asyncio
import json

import pytest

from meshwright.models.port import CallContext, ChatMessage, ModelRequest
from tests.support.fake_provider import Fault, tool_call, tool_calls
from tests.support.model_adapters import ADAPTERS, KEY, LOOK, PROMPT, SCHEMA, Adapter, request

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


async def test_a_reply_says_what_answered_and_what_it_took(adapter: Adapter) -> None:
    reply = await adapter.model.complete(request())
    assert reply.content and reply.model
    assert reply.finish_reason == "stop"
    assert reply.usage.prompt_tokens > 0 and reply.usage.completion_tokens > 0
    assert reply.cost_usd is None or reply.cost_usd >= 0


async def test_the_name_says_which_adapter_it_is_and_holds_no_key(adapter: Adapter) -> None:
    assert adapter.model.name.split()[0] in ADAPTERS
    assert KEY not in adapter.model.name


async def test_a_tool_that_is_offered_can_be_called(adapter: Adapter) -> None:
    adapter.fake.replies.append(tool_call("fridge_content", '{"fridge": "mine"}'))
    reply = await adapter.model.complete(request(tools=(LOOK,)))
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.tool_calls
    assert call.name == "fridge_content" and call.id
    assert json.loads(call.arguments).keys() == {"fridge"}


async def test_the_result_of_a_tool_is_taken_up(adapter: Adapter) -> None:
    adapter.fake.replies.append(tool_call("fridge_content", '{"fridge": "mine"}'))
    first = await adapter.model.complete(request(tools=(LOOK,)))
    messages = (
        ChatMessage(role="user", content=PROMPT),
        ChatMessage(role="assistant", tool_calls=first.tool_calls),
        ChatMessage(
            role="tool", content="There is cheese in the fridge.", tool_call_id=first.tool_calls[0].id
        ),
    )
    reply = await adapter.model.complete(request(messages=messages, tools=(LOOK,)))
    assert "cheese in the fridge" in reply.content and not reply.tool_calls


async def test_a_schema_gets_json_that_fits_it(adapter: Adapter) -> None:
    reply = await adapter.model.complete(request(response_schema=SCHEMA))
    assert json.loads(reply.content).keys() == {"answer"}


async def test_what_was_asked_for_is_left_as_it_was(adapter: Adapter) -> None:
    context = CallContext(task_id="t1", step=1)
    asked = request(tags=("default",), context=context, tools=(LOOK,))
    before = asked.model_dump_json()
    await adapter.model.complete(asked)
    assert asked.model_dump_json() == before
    assert context == CallContext(task_id="t1", step=1)


async def test_calls_run_side_by_side_and_each_gets_its_own_answer(adapter: Adapter) -> None:
    def about(number: int) -> ModelRequest:
        text = (
            f"Which animal is number {number}? Say it.\n"
            + f"Animal number {number} is called Cat{number}. " * 8
        )
        return request(messages=(ChatMessage(role="user", content=text),))

    replies = await asyncio.gather(*(adapter.model.complete(about(number)) for number in range(8)))
    assert [f"Cat{number}" in reply.content for number, reply in enumerate(replies)] == [True] * 8


async def test_it_can_be_closed_twice_and_without_a_call(adapter: Adapter) -> None:
    await adapter.model.close()
    before = await adapter.model.complete(request())
    await adapter.model.close()
    await adapter.model.close()
    assert (await adapter.model.complete(request())).content == before.content


@pytest.mark.parametrize("any_api", ["http", "router", "anthropic"], indirect=True)  # LiteLLM shares its own
async def test_a_close_gives_back_its_connections(any_api: Adapter) -> None:
    await any_api.model.complete(request())
    assert any_api.fake.connections == 1
    await any_api.model.close()
    async with asyncio.timeout(60):
        while any_api.fake.connections:
            await asyncio.sleep(0)
    assert (await any_api.model.complete(request())).content


async def test_arguments_of_a_tool_call_are_passed_on_unchecked(calling: Adapter) -> None:
    calling.fake.replies.append(tool_call("fridge_content", '{"fridge": '))
    reply = await calling.model.complete(request(tools=(LOOK,)))
    assert reply.tool_calls[0].arguments == '{"fridge": '


async def test_the_user_of_a_call_arrives(calling: Adapter) -> None:
    await calling.model.complete(request())
    assert calling.fake.calls[0].body["user"] == "researcher-agent"


async def test_a_stream_comes_in_pieces_and_ends_as_the_whole_answer(adapter: Adapter) -> None:
    whole = await adapter.model.complete(request())
    pieces: list[str] = []
    streamed = await adapter.model.complete(request(), pieces.append)
    assert len(pieces) > 3 and "".join(pieces) == streamed.content
    untimed = {"latency_ms": 0.0}
    assert streamed.model_copy(update=untimed) == whole.model_copy(update=untimed)


async def test_a_stream_is_told_while_it_is_still_written(any_api: Adapter) -> None:
    any_api.fake.faults.append(Fault(kind="stall"))
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    call = asyncio.create_task(
        any_api.model.complete(request(), lambda text: first.done() or first.set_result(text))
    )
    assert await first
    call.cancel()
    await asyncio.wait([call])


async def test_parallel_tool_calls_of_a_stream_are_put_together(any_api: Adapter) -> None:
    calls = [(f"tool_{n}", json.dumps({"fridge": f"number {n}, Zürich"}), f"call_{n}") for n in range(3)]
    any_api.fake.replies.append({"content": "Looking.", **tool_calls(*calls)})
    pieces: list[str] = []
    reply = await any_api.model.complete(request(tools=(LOOK,)), pieces.append)
    made = [(call.name, json.loads(call.arguments), call.id) for call in reply.tool_calls]
    assert made == [(name, json.loads(arguments), call_id) for name, arguments, call_id in calls]
    assert "".join(pieces) == reply.content == "Looking."
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_tokens_of_each_kind_are_counted(any_api: Adapter, streamed: bool) -> None:
    any_api.fake.usage |= {
        "prompt_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    usage = (await any_api.model.complete(request(), [].append if streamed else None)).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (20, 8, 7)
    if "messages" not in any_api.fake.calls[0].path:  # Anthropic counts no reasoning apart
        assert usage.reasoning_tokens == 3


async def test_a_call_is_told_how_long_it_took_and_how_often_it_was_tried(any_api: Adapter) -> None:
    any_api.fake.seconds = 0.05
    reply = await any_api.model.complete(request())
    assert reply.latency_ms >= 50 and reply.attempts == 1


async def test_a_tool_may_be_demanded(calling: Adapter) -> None:
    await calling.model.complete(request(tools=(LOOK,), tool_choice="required"))
    await calling.model.complete(request(tools=(LOOK,)))
    assert [call.body.get("tool_choice") for call in calling.fake.calls] == ["required", None]


async def test_what_the_caller_says_and_nothing_else_reaches_the_provider(calling: Adapter) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    said = (ChatMessage(role="user", content="What is this?", parts=(picture,)),)
    wanted = {"top_p": 0.5, "seed": 7, "min_p": 0.1}
    await calling.model.complete(request(messages=said, params=wanted, temperature=None, max_tokens=None))
    [call] = calling.fake.calls
    assert {name: call.body.get(name) for name in wanted} == wanted
    assert not call.body.keys() & {"temperature", "max_tokens", "max_completion_tokens", "extra_body"}
    assert call.body["messages"][0]["content"] == [{"type": "text", "text": "What is this?"}, picture]


async def test_texts_are_embedded_in_their_order(calling: Adapter) -> None:
    wanted = request(messages=(), inputs=("a", "b"), cache=False)
    reply = await calling.model.complete(wanted)
    assert reply.embeddings == ((0.0, 0.5, 1.0), (1.0, 0.5, 1.0))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (4, 0)
    [call] = calling.fake.calls
    assert (call.path.rpartition("/")[2], list(call.body["input"])) == ("embeddings", ["a", "b"])
