"""OpenAI's client of a run: streams, errors, waits and limits as its SDK knows them, through restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from meshwright import Agent
from meshwright.agents.run.run import Run
from meshwright.core.errors import LimitReached, Unauthenticated
from meshwright.core.limits import Limits
from meshwright.core.money import Budget
from meshwright.mesh.identity.auth import Authenticators, Credentials
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContentRefused, ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.testing import ManualClock, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.run_clients import EchoingModel, ask, author, resumed_text, submitted, swallowing


async def test_a_recorded_error_comes_again_in_the_words_of_the_sdk(tmp_path: Path) -> None:
    errors: list[str] = []

    async def run(self: Agent, run: Run) -> str:
        client = run.openai()
        for text in ("refused", "held"):
            try:
                await client.chat.completions.create(
                    model="default", messages=[{"role": "user", "content": text}]
                )
            except openai.APIStatusError as error:
                errors.append(f"{type(error).__name__} {error.status_code} {error.code}")
        return "done"

    def model(*held: str) -> EchoingModel:
        echo = EchoingModel(*held)

        async def complete(request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            if request.messages[-1].content == "refused":
                echo.calls["refused"] += 1
                raise ContentRefused("not that")
            return await EchoingModel.complete(echo, request, on_delta)

        echo.complete = complete  # type: ignore[method-assign]
        return echo

    first, second = model("held"), model()
    assert await resumed_text(tmp_path, author(run), first, second) == "done"
    assert errors == ["BadRequestError 400 content_filter"] * 2
    assert (first.calls["refused"], second.calls["refused"]) == (1, 0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RateLimited("wait"), openai.RateLimitError), (ModelRefused("no"), openai.BadRequestError)],
)
async def test_an_error_of_the_model_is_the_sdks_own_and_is_not_repeated_by_it(
    error: Any, kind: type[Exception]
) -> None:
    async def run(self: Agent, run: Run) -> str:
        client = run.openai().with_options(max_retries=5)
        with pytest.raises(kind):
            await client.chat.completions.create(model="default", messages=[{"role": "user", "content": "x"}])
        return "caught"

    model = ScriptedModel(error)
    async with mesh_for(author(run, num_retries=0), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == "caught"
    assert len(model.requests) == 1


async def test_a_stream_comes_in_pieces_and_is_replayed_whole(tmp_path: Path) -> None:
    pieces: list[list[str]] = []

    async def run(self: Agent, run: Run) -> str:
        client = run.openai()
        stream = await client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Stream."}], stream=True
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        pieces.append([text for text in texts if text])
        await ask(run, "held")
        return "".join(texts)

    class Streaming(EchoingModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            if on_delta is not None and request.messages[-1].content == "Stream.":
                for word in ("one ", "two ", "three"):
                    on_delta(word)
                    await asyncio.sleep(0)
                return ModelReply(content="one two three", model=self.name, cost_usd=Decimal(0))
            return await super().complete(request, on_delta)

    first = Streaming("held")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, author(run), model=EchoingModel()) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "one two three"
    assert pieces == [["one ", "two ", "three"], ["one two three"]]


async def test_a_limit_ends_the_run_past_a_framework_that_catches_every_error() -> None:
    async def run(self: Agent, run: Run) -> str:
        client = run.openai()
        for n in range(10):
            await swallowing(
                client.chat.completions.create(
                    model="default", messages=[{"role": "user", "content": f"{n}"}]
                )
            )
        return "never"

    def reply(request: ModelRequest) -> ModelReply:
        return ModelReply(content="x", model="scripted", cost_usd=Decimal("0.4"))

    model = ScriptedModel(*[reply] * 10)
    agent = author(run, limits=Limits(max_usd=Decimal(1)))
    async with mesh_for(agent, model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None and outcome.error.type == LimitReached.__name__
    assert len(model.requests) == 3


async def test_a_client_of_another_run_or_after_the_end_is_refused() -> None:
    clients: list[openai.AsyncOpenAI] = []
    ended = asyncio.Event()

    async def call(client: openai.AsyncOpenAI) -> str:
        try:
            await client.chat.completions.create(model="default", messages=[{"role": "user", "content": "x"}])
        except openai.AuthenticationError as error:
            return error.message
        return "answered"

    async def run(self: Agent, run: Run) -> str:
        if not clients:
            clients.append(run.openai())
            await ended.wait()
            return await call(clients[0])
        text = await call(clients[0])
        ended.set()
        return text

    async with mesh_for(author(run), model=ScriptedModel("x")) as mesh:
        first, second = await asyncio.gather(mesh.ask("author", "1"), mesh.ask("author", "2"))
        late = await call(clients[0])
    assert "answered" in (first.text, second.text)
    assert any("The run of this client is another's" in one.text for one in (first, second))
    assert "The run of this client has ended. Make a client in each run: run.openai()" in late


async def test_a_sync_client_works_in_a_thread_and_is_refused_on_the_loop() -> None:
    async def run(self: Agent, run: Run) -> str:
        client = openai.OpenAI(
            api_key="x", base_url="http://anywhere/v1", http_client=httpx.Client(transport=run.transport())
        )

        def call(*, stream: bool) -> str:
            answer: Any = client.chat.completions.create(
                model="default", messages=[{"role": "user", "content": "x"}], stream=stream
            )
            if stream:
                return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            return answer.choices[0].message.content

        with pytest.raises(openai.APIConnectionError):
            call(stream=False)
        texts = [await asyncio.to_thread(call, stream=stream) for stream in (False, True)]
        return " ".join(texts)

    async with mesh_for(author(run), model=ScriptedModel("whole", "in pieces")) as mesh:
        assert (await mesh.ask("author", "Do it.")).text == "whole in pieces"


async def test_a_transport_that_is_made_in_a_thread_is_refused() -> None:
    async def run(self: Agent, run: Run) -> str:
        await asyncio.to_thread(run.transport)
        return ""

    async with mesh_for(author(run)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert "Make it before asyncio.to_thread(...), and use it in the thread" in str(outcome.error)


async def test_a_call_of_a_tool_by_a_reply_keeps_its_id() -> None:
    async def run(self: Agent, run: Run) -> str:
        client = run.openai()
        answer = await client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Ship both."}],
            tools=[{"type": "function", "function": {"name": "ship", "parameters": {"type": "object"}}}],
        )
        calls = answer.choices[0].message.tool_calls or []
        return " ".join(f"{call.id}={call.function.arguments}" for call in calls if call.type == "function")

    model = ScriptedModel([tool_call("ship", order="A"), tool_call("ship", order="B")])
    async with mesh_for(author(run), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == 'call_1={"order": "A"} call_2={"order": "B"}'


async def test_embeddings_are_steps_too(tmp_path: Path) -> None:
    vectors: list[list[list[float]]] = []

    class Embedding(EchoingModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            if not request.inputs:
                return await super().complete(request, on_delta)
            assert request.model == "small"
            self.calls["embed"] += 1
            made = tuple((float(len(text)), 0.5) for text in request.inputs)
            return ModelReply(embeddings=made, model=self.name, cost_usd=Decimal(0))

    async def run(self: Agent, run: Run) -> str:
        made = await run.openai().embeddings.create(model="small", input=["one", "three"])
        vectors.append([row.embedding for row in made.data])
        await ask(run, "held")
        return "done"

    first, second = Embedding("held"), Embedding()
    assert await resumed_text(tmp_path, author(run), first, second) == "done"
    assert vectors == [[[3.0, 0.5], [5.0, 0.5]]] * 2
    assert (first.calls["embed"], second.calls["embed"]) == (1, 0)


async def test_a_provider_that_is_away_parks_a_framework_that_catches_every_error() -> None:
    begun: list[str] = []

    async def run(self: Agent, run: Run) -> str:
        begun.append("run")
        messages: Any = [{"role": "user", "content": "x"}]
        answer = await swallowing(run.openai().chat.completions.create(model="default", messages=messages))
        return str(answer.choices[0].message.content)

    clock = ManualClock()
    model = ScriptedModel(ModelUnavailable("away"), "back")
    agent = author(run, num_retries=0)
    async with mesh_for(agent, model=model, clock=clock, models={"park": True}) as mesh:
        task = await mesh.submit("author", "Do it.")
        while not mesh.events("task.waiting"):
            await asyncio.sleep(0)
        await mesh.advance(600)
        outcome = await mesh.outcome(task)
    assert outcome.text == "back"
    assert begun == ["run", "run"]


class Bill(BaseModel):
    order: str
    cents: int


class Charge(BaseModel):
    """Charge a card."""

    cents: int


class BillingModel(EchoingModel):
    """Answers in the shape of a request, or by a call of its tool."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        reply = await super().complete(request, on_delta)
        if request.tools:
            calls = (ToolCall(id="call_1", name=request.tools[0].name, arguments='{"cents": 7}'),)
            return reply.model_copy(update={"content": "", "tool_calls": calls})
        if request.response_schema is not None:
            assert request.response_schema["required"] == ["order", "cents"]
            return reply.model_copy(update={"content": '{"order": "A1", "cents": 700}'})
        return reply


async def test_answers_in_a_shape_are_parsed_by_the_sdk_and_replayed(tmp_path: Path) -> None:
    parsed: list[list[Any]] = []

    async def run(self: Agent, run: Run) -> str:
        client, messages = run.openai(), [{"role": "user", "content": "chat"}]
        chat = await client.chat.completions.parse(model="default", messages=messages, response_format=Bill)
        async with client.chat.completions.stream(
            model="default", messages=[{"role": "user", "content": "stream"}], response_format=Bill
        ) as stream:
            streamed = await stream.get_final_completion()
        called = await client.chat.completions.parse(
            model="default",
            messages=[{"role": "user", "content": "tool"}],
            tools=[openai.pydantic_function_tool(Charge)],
        )
        response = await client.responses.parse(model="default", input="response", text_format=Bill)
        [tool_call] = called.choices[0].message.tool_calls or []
        answers = [chat.choices[0].message.parsed, streamed.choices[0].message.parsed]
        parsed.append([*answers, tool_call.function.parsed_arguments, response.output_parsed])
        await ask(run, "held")
        return "done"

    first, second = BillingModel("held"), BillingModel()
    assert await resumed_text(tmp_path, author(run), first, second) == "done"
    bill = Bill(order="A1", cents=700)
    assert parsed == [[bill, bill, Charge(cents=7), bill]] * 2
    assert second.calls == {"held": 1}


async def by_a_client_without_a_key(run: Run) -> Any:
    return openai.AsyncOpenAI()


async def by_a_client_of_another_server(run: Run) -> Any:
    client = openai.AsyncOpenAI(api_key="x", base_url="http://127.0.0.1:1/v1", max_retries=0)
    return await client.responses.create(model="default", input="x")


async def by_a_framework_that_wraps_errors(run: Run) -> Any:
    try:
        return await by_a_client_without_a_key(run)
    except openai.OpenAIError as error:
        raise RuntimeError("The framework has no model") from error


async def by_anthropic_without_a_key(run: Run) -> Any:
    client = anthropic.AsyncAnthropic(base_url="http://127.0.0.1:1")
    return await client.messages.create(max_tokens=1, model="default", messages=[])


async def by_the_address_of_the_run_alone(run: Run) -> Any:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no such host")

    own, http_client = run.openai(), httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    client = openai.AsyncOpenAI(api_key=own.api_key, base_url=own.base_url, http_client=http_client)
    return await client.with_options(max_retries=0).responses.create(model="default", input="x")


async def by_a_framework_without_a_key(run: Run) -> Any:
    module: dict[str, Any] = {"__name__": "pydantic_ai.providers.openai"}
    exec("def provider(): raise ValueError('Set the OPENAI_API_KEY environment variable')", module)  # noqa: S102  only a name counts
    return module["provider"]()


@pytest.mark.parametrize(
    "call",
    [
        by_a_client_without_a_key,
        by_a_framework_without_a_key,
        by_a_client_of_another_server,
        by_a_framework_that_wraps_errors,
        by_anthropic_without_a_key,
        by_the_address_of_the_run_alone,
    ],
)
async def test_a_run_that_fails_at_a_client_of_its_own_is_told_of_those_of_the_run(
    call: Callable[[Run], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    async def run(self: Agent, run: Run) -> str:
        return str(await call(run))

    async with mesh_for(author(run)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None
    assert "In a run, call models by its own clients: run.openai()" in outcome.error.message


_QUESTION: Any = [{"role": "user", "content": "x"}]


async def _ask_as_openai(run: Run) -> Any:
    return await run.openai().chat.completions.create(model="gpt-4o", messages=_QUESTION)


async def _ask_streamed(run: Run) -> Any:
    return [
        piece async for piece in await run.openai().responses.create(model="gpt-4o", input="x", stream=True)
    ]


async def _ask_as_anthropic(run: Run) -> Any:
    return await run.anthropic().messages.create(model="gpt-4o", max_tokens=99, messages=_QUESTION)


async def _ask_at_an_address(run: Run) -> Any:
    http_client = httpx.AsyncClient(transport=run.transport())
    client = openai.AsyncOpenAI(api_key="x", base_url="http://anywhere/v1", http_client=http_client)
    return await client.chat.completions.create(model="gpt-4o", messages=_QUESTION)


async def _ask_through_a_framework(run: Run) -> Any:
    try:
        return await _ask_as_openai(run)
    except openai.APIStatusError as error:  # pydantic-ai's ModelHTTPError is made so
        raise RuntimeError(f"status_code: {error.status_code}, body: {error.body}") from error


@pytest.mark.parametrize(
    "ask_model",
    [_ask_as_openai, _ask_streamed, _ask_as_anthropic, _ask_at_an_address, _ask_through_a_framework],
)
async def test_an_empty_budget_is_the_error_of_the_task_whatever_it_went_through(
    ask_model: Callable[[Run], Awaitable[Any]],
) -> None:
    async def run(self: Agent, run: Run) -> str:
        return str(await ask_model(run))

    day = Budget(name="day", limit_usd=Decimal("0.000001"))
    async with mesh_for(author(run, budgets=(day,)), model=ScriptedModel("never asked")) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None and outcome.error.type == "BudgetExceeded"
    assert outcome.error.message.startswith("Budget day of the mesh exceeded")
    assert "mesh budgets raise day" in outcome.error.message


async def test_an_error_of_the_code_after_a_refused_call_is_its_own() -> None:
    async def run(self: Agent, run: Run) -> str:
        with suppress(openai.APIStatusError):
            await _ask_as_openai(run)
        raise ValueError("no such order")

    async with mesh_for(author(run, num_retries=0), model=ScriptedModel(ModelRefused("no"))) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None and outcome.error.type == "ValueError"


async def test_a_run_that_fails_by_its_own_client_is_told_nothing_more() -> None:
    async def run(self: Agent, run: Run) -> str:
        return str(await run.openai().responses.create(model="default", input="x"))

    async with mesh_for(author(run, num_retries=0), model=ScriptedModel(ModelRefused("no"))) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None
    assert "run.openai" not in outcome.error.message


async def test_the_failure_of_a_sync_client_on_the_loop_says_what_to_do() -> None:
    async def run(self: Agent, run: Run) -> str:
        http_client = httpx.Client(transport=run.transport())
        client = openai.OpenAI(api_key="x", base_url="http://anywhere/v1", http_client=http_client)
        return str(client.responses.create(model="default", input="x"))

    async with mesh_for(author(run)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.error is not None and outcome.error.type == "APIConnectionError"
    assert "Call it in a thread, `await asyncio.to_thread(...)`" in outcome.error.message


async def test_the_mesh_refuses_the_key_of_a_runs_client() -> None:
    keys: list[str] = []

    async def run(self: Agent, run: Run) -> str:
        keys.append(run.openai().api_key)
        return "done"

    async with mesh_for(author(run)) as mesh:
        await mesh.ask("author", "Do it.")
        with pytest.raises(Unauthenticated, match=r"An agent calls models by the client of its run"):
            await mesh.mesh.get(Authenticators).authenticate(Credentials(token=keys[0]))
