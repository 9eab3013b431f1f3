"""Raw calls of models, clients of SDKs and tools as functions: known by what they ask, through restarts."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel

from meshwright import Agent, Capability, CheckResult, Client, TaskRequest, tool
from meshwright.agents.run.functions import function_of
from meshwright.agents.run.run import Run
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import AgentError, LimitReached
from meshwright.core.limits import Limits
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work import paths
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContentRefused, ModelRefused, ModelUnavailable, RateLimited
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolSpec
from meshwright.testing import ManualClock, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept, told_of


class EchoingModel:
    """Answers each question with its number among equal ones; one that is held is never answered."""

    name = "echo"

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.calls: Counter[str] = Counter()
        self.reached = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        text = request.messages[-1].content
        self.calls[text] += 1
        if text in self.held:
            self.reached.set()
            await asyncio.Event().wait()
        return ModelReply(content=f"{text} {self.calls[text]}", model=self.name, cost_usd=Decimal(0))

    async def close(self) -> None:
        pass


def author(run: Callable[[Any, Run], Awaitable[Any]], *bases: type[Agent], **fields: Any) -> type[Agent]:
    own = {"agent_id": "author", "capabilities": (Capability("writing"),), "run": run}
    return type("Author", bases or (Agent,), {**own, **fields})


async def submitted(mesh: Mesh) -> str:
    request = TaskRequest(agent_id="author", payload={"text": "Do it."})
    return (await mesh.get(Tasks).submit(request)).task_id


def ask(run: Run, text: str) -> Awaitable[ModelReply]:
    return run.complete([{"role": "user", "content": text}])


class Order(BaseModel):
    number: int


async def test_complete_sends_these_messages_alone_with_the_settings_of_the_agent() -> None:
    async def run(self: Agent, run: Run) -> str:
        lookup = ToolSpec(name="look", description="Look.", parameters={"type": "object"})
        reply = await run.complete(
            [ChatMessage(role="system", content="Be short."), {"role": "user", "content": "Hello"}],
            tools=[lookup],
            shape=Order,
            tool_choice="required",
            max_tokens=7,
            params={"seed": 3},
        )
        return reply.content

    model = ScriptedModel('{"number": 1}')
    text = "---\ndescription: d\ntags: [cheap]\nmodel: fast\n---\nNever sent."
    async with mesh_for(author(run, prompt_text=text, params={"top_p": 0.5}), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        [call] = mesh.events("model.called")
    [request] = model.requests
    assert outcome.text == '{"number": 1}'
    assert [message.content for message in request.messages] == ["Be short.", "Hello"]
    assert (request.model, request.tags, request.user) == ("fast", ("cheap",), "author")
    assert (request.max_tokens, request.temperature, request.tool_choice) == (7, None, "required")
    assert request.params == {"top_p": 0.5, "seed": 3}
    assert request.response_schema is not None and request.response_schema["required"] == ["number"]
    assert [spec.name for spec in request.tools] == ["look"]
    assert call.payload["user"] == "author"


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ("Hello", "run.complete is given no list of messages"),
        ([{"role": "nobody", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": 7}], "messages.0.content"),
    ],
)
async def test_messages_that_are_none_are_refused_with_their_field(messages: Any, error: str) -> None:
    async def run(self: Agent, run: Run) -> str:
        return (await run.complete(messages)).content

    async with mesh_for(author(run)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert error in str(outcome.error)


async def test_calls_side_by_side_find_their_own_replies_in_any_order(tmp_path: Path) -> None:
    """A pool takes questions from a queue: in the second claim its tasks begin in another order."""
    order = ["a", "b", "c", "same", "same"]

    async def run(self: Agent, run: Run) -> dict[str, Any]:
        answers: dict[str, list[str]] = {}

        async def work(questions: list[str]) -> None:
            for question in questions:
                answers.setdefault(question, []).append((await ask(run, question)).content)

        await asyncio.gather(work(order[:2]), work(order[2:]))
        follow_up = (await ask(run, f"after {answers['a'][0]}")).content
        return {**{name: sorted(texts) for name, texts in answers.items()}, "last": follow_up}

    first = EchoingModel("after a 1")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    order = ["same", "c", "b", "a", "same"]
    second = EchoingModel()
    async with kept(tmp_path, author(run), model=second) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    expected = {name: [f"{name} 1"] for name in "abc"} | {"same": ["same 1", "same 2"]}
    assert outcome.result == {**expected, "last": "after a 1 1"}
    assert second.calls == {"after a 1": 1}


async def test_a_changed_request_starts_over_and_the_error_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_PATIENCE_SECONDS", 0.2)
    question = "the time is 10:00"

    async def run(self: Agent, run: Run) -> str:
        first = (await ask(run, "hello")).content
        second = (await ask(run, question)).content
        return f"{first}, {second}, {(await ask(run, 'last')).content}"

    first = EchoingModel("last")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    question = "the time is 10:05"
    second = EchoingModel()
    async with kept(tmp_path, author(run), model=second) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        [failed] = await mesh.log.query(EventFilter(task_id=task_id, event_type="attempt.failed"))
    error = failed.payload["error"]
    assert error["type"] == "ReplayMismatch"
    assert "is new ('model'), and the recorded step 2 ('model', by" in error["message"]
    assert "The code between two calls must be repeatable" in error["message"]
    assert outcome.text == "hello 1, the time is 10:05 1, last 1"


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
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, author(run), model=second) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "done"
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


class Shop(Agent):
    """Has tools of each kind."""

    agent_id = "author"
    capabilities = (Capability("writing"),)
    charged: list[str]

    @tool
    async def charge(self, order: str, amount: float = 1.5) -> dict[str, Any]:
        """Charge a card.

        Args:
            order: the order
        """
        self.charged.append(order)
        return {"order": order, "amount": amount}

    @tool(needs_approval=True)
    async def ship(self, order: str) -> str:
        """Ship an order."""
        return f"shipped {order}"


async def swallowing(call: Awaitable[Any]) -> Any:
    """As a framework that catches every error does."""
    try:
        return await call
    except Exception as error:  # noqa: BLE001  as frameworks do
        return f"swallowed {error}"


async def test_an_approval_parks_a_framework_that_catches_every_error(tmp_path: Path) -> None:
    charged: list[str] = []
    seen: list[Any] = []

    async def run(self: Agent, run: Run) -> str:
        charge, ship = run.functions("charge", "ship")
        reply = await swallowing(
            run.openai().chat.completions.create(
                model="default", messages=[{"role": "user", "content": "Which?"}]
            )
        )
        paid = await asyncio.gather(swallowing(charge("A1")), swallowing(ship(order="A1")))
        seen.append(paid)
        return f"{reply.choices[0].message.content}: {paid}"

    agent = author(run, Shop, charged=charged)
    model = EchoingModel()
    async with kept(tmp_path, agent, model=model) as mesh:
        task_id = await submitted(mesh)
        question = await told_of(mesh, "approval.requested")
    async with kept(tmp_path, agent, model=model) as mesh:
        await mesh.get(Tasks).answer(task_id, question.payload["key"], {"approve": True})
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert outcome.text == "Which? 1: [{'order': 'A1', 'amount': 1.5}, 'shipped A1']"
    assert charged == ["A1"]
    assert model.calls == {"Which?": 1}
    assert len(seen) == 1


async def test_no_call_is_booked_for_a_tool_whose_check_says_that_it_happened(tmp_path: Path) -> None:
    class Payer(Agent):
        """Pays, and is stopped while it does."""

        agent_id = "payer"
        capabilities = (Capability("paying"),)
        began = asyncio.Event()

        @tool(check="was_paid")
        async def pay(self) -> str:
            """Pay."""
            self.began.set()
            await asyncio.Event().wait()
            return "paid"

        async def was_paid(self) -> CheckResult:
            return CheckResult.happened("paid")

    async def work(agent: Agent, run: Run) -> str:
        [pay] = run.functions("pay")
        await asyncio.create_task(ask(run, "first"))
        paid = await asyncio.create_task(pay())
        reply = await asyncio.create_task(ask(run, "second"))
        return f"{paid}, {reply.content}"

    model, payer = EchoingModel(), author(work, Payer)
    async with kept(tmp_path, payer, model=model) as mesh:
        task_id = await submitted(mesh)
        await Payer.began.wait()
    async with kept(tmp_path, payer, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "paid, second 1"
        calls = await Client.local(mesh).events(task_id=task_id, event_type="model.called")
    assert [event.payload["outcome"] for event in calls] == ["ok", "ok"]


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
    import httpx

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


async def test_functions_have_the_signatures_of_their_tools() -> None:
    shown: dict[str, Any] = {}

    async def run(self: Agent, run: Run) -> str:
        functions = {function.__name__: function for function in run.functions()}
        charge = functions["charge"]
        shown.update(
            names=sorted(functions),
            signature=str(inspect.signature(charge)),
            hints=inspect.get_annotations(charge),
            doc=charge.__doc__,
            is_async=inspect.iscoroutinefunction(charge),
            results=[await charge("A", 2), await charge(order="B")],
        )
        with pytest.raises(TypeError, match="missing a required argument"):
            await charge()
        return "done"

    charged: list[str] = []
    async with mesh_for(author(run, Shop, charged=charged)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == "done"
    assert shown["names"] == ["charge", "recall", "remember", "ship"]
    assert shown["signature"] == "(order: str, amount: float = 1.5) -> dict[str, typing.Any]"
    assert shown["hints"] == {"order": str, "amount": float, "return": dict[str, Any]}
    assert shown["doc"].startswith("Charge a card.\n\nArgs:\n    order: the order")
    assert shown["is_async"]
    assert shown["results"] == [{"order": "A", "amount": 2.0}, {"order": "B", "amount": 1.5}]


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


async def test_the_client_of_anthropic_has_tools_streams_and_errors_of_its_sdk() -> None:
    async def run(self: Agent, run: Run) -> str:
        client = run.anthropic()
        fields: dict[str, Any] = {"model": "default", "max_tokens": 99}
        fields["messages"] = [{"role": "user", "content": "Ship A."}]
        schema = {"type": "object", "properties": {"order": {"type": "string"}}}
        tools: Any = [{"name": "ship", "description": "Ship.", "input_schema": schema}]
        called = await client.messages.create(**fields, tools=tools, extra_body={"from_next_year": 1})
        async with client.messages.stream(**fields) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        with pytest.raises(anthropic.BadRequestError, match="not that"):
            await client.messages.create(**fields, system="Refuse.")
        with pytest.raises(anthropic.NotFoundError, match="A run does not answer GET /v1/models"):
            await client.models.list()
        counted = await client.messages.count_tokens(model="default", messages=fields["messages"])
        assert counted.input_tokens > 0
        return f"{called.stop_reason} {called.content[0].to_dict()['input']} {text}"

    model = ScriptedModel(tool_call("ship", order="A"), "in pieces", ContentRefused("not that"))
    async with mesh_for(author(run), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        first, *_ = mesh.events("model.called")
    assert outcome.text == "tool_use {'order': 'A'} in pieces"
    assert first.payload["passed_over"] == ["from_next_year"]


async def test_answers_have_the_same_ids_when_the_run_is_resumed(tmp_path: Path) -> None:
    ids: list[list[str]] = []

    async def run(self: Agent, run: Run) -> str:
        messages: Any = [{"role": "user", "content": "x"}]
        chat, response = run.openai().chat.completions, run.openai().responses
        message = await run.anthropic().messages.create(model="default", max_tokens=9, messages=messages)
        answers = [
            await chat.create(model="default", messages=messages),
            await chat.create(model="default", messages=messages),
            await response.create(model="default", input="x"),
            message,
        ]
        ids.append([answer.id for answer in answers])
        await ask(run, "held")
        return "done"

    first = EchoingModel("held")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, author(run), model=EchoingModel()) as mesh:
        await mesh.get(Tasks).outcome(task_id)
    before, after = ids
    assert before == after
    assert len(set(before)) == 4


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
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, author(run), model=second) as mesh:
        await mesh.get(Tasks).outcome(task_id)
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


class SchemaTool(Tool):
    """A tool that is known by its schema alone, as those of an MCP server."""

    name, description, idempotent = "search", "Search the catalogue.", True
    parameters: ClassVar = {
        "type": "object",
        "properties": {
            "limit": {"type": "integer", "default": 5},
            "query": {"type": "string", "description": "the words"},
            "kind": {"enum": ["book", "map"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["query"],
    }

    async def call(self, arguments: str, context: Any) -> Any:
        raise NotImplementedError


async def test_a_tool_with_a_schema_alone_gets_its_signature_from_that() -> None:
    calls: list[str] = []

    async def call(arguments: str) -> str:
        calls.append(arguments)
        return "found"

    function = function_of(SchemaTool(), call)
    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["query", "limit", "kind", "tags"]
    assert (parameters["query"].annotation, parameters["limit"].default) == (str, 5)
    assert parameters["kind"].annotation == Literal["book", "map"] | None
    assert parameters["tags"].annotation == list[str] | None
    assert inspect.getdoc(function) == "Search the catalogue.\n\nArgs:\n    query: the words"
    await function("x", kind=None)
    await function("x", tags=["a"])
    assert calls == ['{"query":"x"}', '{"query":"x","tags":["a"]}']
    odd = SchemaTool()
    odd.parameters = {"type": "object", "properties": {"file-path": {"type": "string"}}}
    with pytest.raises(AgentError, match=r"the parameter 'file-path', which Python cannot name"):
        function_of(odd, call)
