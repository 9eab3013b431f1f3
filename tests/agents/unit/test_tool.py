"""Tools as a model sees and calls them."""

import threading
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pytest
from pydantic import Field

from meshwright.core.errors import InvalidInput, NotFound, TooLarge, ToolFailed
from meshwright.core.files import File, TaskFile
from meshwright.core.messages import Outcome, Task
from meshwright.models.port import ToolSpec
from meshwright.tools import Tool, delegate_tool, recall_tool, remember_tool, tool
from tests.support.sample_tools import Almanac, Place, limited_tools


class Context:
    """A run, as tools see it."""

    agent_id = "almanac-agent"

    def __init__(self) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        self.task = Task(task_id="t1", capability="c", thread_id="t1", deadline_at=moment, created_at=moment)

    async def delegate(
        self, agent_id: str = "", text: str = "", *, capability: str = "", shape: Any = None
    ) -> Any:
        assert shape is Outcome
        agent_id = agent_id or f"the best for {capability}"
        return Outcome(
            task_id="t2",
            agent_id=agent_id,
            status="succeeded",
            success=True,
            result={"text": f"{agent_id} did: {text}"},
            completed_at=self.task.created_at,
        )

    async def read_file(self, file: File | TaskFile) -> File:
        raise NotImplementedError

    async def remember(self, text: str, scope: str, *, kind: str = "fact", subject: str | None = None) -> str:
        return f"kept as a {kind} for {scope}: {text}" + (f" ({subject})" if subject else "")

    async def recall(self, query: str, kind: str | None = None) -> str:
        return "" if query == "nothing" else f"[m-1] ({kind or 'fact'}) {query}"


@pytest.fixture
def almanac() -> Almanac:
    return Almanac()


@pytest.fixture
def tools(almanac: Almanac) -> dict[str, Tool]:
    return {each.name: each for each in limited_tools(almanac)}


def test_instances_of_a_class_have_parameters_of_their_own(tools: dict[str, Tool]) -> None:
    for spec in limited_tools(Almanac()):
        spec.parameters["properties"].clear()
    assert any(spec.parameters["properties"] for spec in tools.values())


def test_tools_are_the_marked_methods_in_the_order_of_writing(tools: dict[str, Tool]) -> None:
    assert list(tools) == ["sunrise", "forecast", "who-asks", "anything", "first"]
    assert [each.idempotent for each in tools.values()] == [True, False, False, False, False]


def test_the_schema_comes_from_type_hints_and_docstring(tools: dict[str, Tool]) -> None:
    assert tools["sunrise"].spec == ToolSpec(
        name="sunrise",
        description="Tell when the sun rises.\n\nClouds are left out.",
        parameters={
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "a city's name, in English"},
                "days": {"type": "integer", "minimum": 1, "default": 1, "description": "for how many days"},
                "unit": {"type": "string", "enum": ["h", "min"], "default": "h"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    )


def test_a_description_in_the_annotation_stands_where_the_docstring_has_none() -> None:
    class Owner:
        @tool
        async def look(self, where: Annotated[str, Field(description="a direction")]) -> str:
            """Look somewhere."""
            return where

    [look] = limited_tools(Owner())
    assert look.parameters["properties"]["where"]["description"] == "a direction"


def test_parameters_may_have_names_that_models_use_themselves() -> None:
    class Owner:
        @tool
        async def check(self, schema: str, model_config: int, copy: bool, _secret: str = "s") -> list[Any]:
            """Take odd names."""
            return [schema, model_config, copy, _secret]

    [check] = limited_tools(Owner())
    assert list(check.parameters["properties"]) == ["schema", "model_config", "copy", "_secret"]


async def test_good_arguments_run_the_tool_with_its_defaults(
    tools: dict[str, Tool], almanac: Almanac
) -> None:
    assert await tools["sunrise"].call('{"city": "Oslo"}', Context()) == "Oslo: 6 h"
    assert almanac.ran == [("Oslo", 1, "h")]


async def test_a_tool_that_is_not_async_runs_in_a_thread_and_gets_typed_values(
    tools: dict[str, Tool], almanac: Almanac
) -> None:
    arguments = '{"place": {"latitude": 60, "longitude": 10.5}, "day": "2026-05-17"}'
    assert await tools["forecast"].call(arguments, Context()) == {"day": "2026-05-17", "degrees": 21.5}
    [(place, day, thread)] = almanac.ran
    assert (place, day) == (Place(latitude=60, longitude=10.5), date(2026, 5, 17))
    assert thread is not threading.main_thread()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ("", "arguments"),
        ("{", "arguments"),
        ('{"city": "Os', "arguments"),
        ('"Oslo"', "arguments"),
        ("[]", "arguments"),
        ("{}", "city"),
        ('{"city": 7}', "city"),
        ('{"city": null}', "city"),
        ('{"city": "Oslo", "days": "2"}', "days"),
        ('{"city": "Oslo", "days": 1.0}', "days"),
        ('{"city": "Oslo", "days": 0}', "days"),
        ('{"city": "Oslo", "unit": "s"}', "unit"),
        ('{"city": "Oslo", "town": "Oslo"}', "town"),
        ('{"city": "Oslo", "self": {}}', "self"),
    ],
)
async def test_arguments_that_do_not_fit_run_nothing_and_name_the_field(
    tools: dict[str, Tool], almanac: Almanac, arguments: str, field: str
) -> None:
    with pytest.raises(InvalidInput, match="sunrise was not run") as caught:
        await tools["sunrise"].call(arguments, Context())
    assert caught.value.field == field
    assert "city, days, unit" in caught.value.remedy
    assert almanac.ran == []


async def test_a_field_inside_an_argument_is_named_by_its_path(tools: dict[str, Tool]) -> None:
    with pytest.raises(InvalidInput, match=r"place\.latitude: Input should be a valid number") as caught:
        await tools["forecast"].call('{"place": {"latitude": "north", "longitude": 1}}', Context())
    assert caught.value.field == "place.latitude"
    assert "north" not in str(caught.value)


async def test_numbers_that_json_does_not_have_are_refused() -> None:
    class Owner:
        @tool
        async def wait(self, seconds: float) -> None:
            """Wait."""

    [wait] = limited_tools(Owner())
    with pytest.raises(InvalidInput, match="seconds: Input should be a finite number"):
        await wait.call('{"seconds": Infinity}', Context())


async def test_too_long_arguments_are_refused_unread(tools: dict[str, Tool]) -> None:
    with pytest.raises(TooLarge, match="70,012 characters"):
        await tools["sunrise"].call('{"city": "%s"}' % ("x" * 70_000), Context())


async def test_the_context_is_filled_in_and_never_shown_or_taken_from_the_model(
    tools: dict[str, Tool],
) -> None:
    who_asks = tools["who-asks"]
    assert who_asks.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert await who_asks.call("{}", Context()) == "almanac-agent for t1"
    with pytest.raises(InvalidInput, match="context"):
        await who_asks.call('{"context": {}}', Context())


async def test_a_tool_without_parameters_takes_an_empty_text(tools: dict[str, Tool]) -> None:
    assert await tools["who-asks"].call("", Context()) == "almanac-agent for t1"


async def test_an_exception_of_the_body_becomes_tool_failed_with_its_type(tools: dict[str, Tool]) -> None:
    with pytest.raises(ToolFailed, match=r"^ZeroDivisionError: ") as caught:
        await tools["anything"].call('{"wanted": "division"}', Context())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_an_error_of_ours_passes_as_it_is(tools: dict[str, Tool]) -> None:
    with pytest.raises(NotFound, match="no such task"):
        await tools["anything"].call('{"wanted": "unknown task"}', Context())


async def test_a_stop_iteration_in_a_thread_fails_the_call_instead_of_hanging_it(
    tools: dict[str, Tool],
) -> None:
    with pytest.raises(ToolFailed, match="StopIteration"):
        await tools["first"].call('{"words": ["a"]}', Context())


async def test_results_become_plain_json(tools: dict[str, Tool]) -> None:
    assert await tools["anything"].call('{"wanted": "set"}', Context()) == [1]
    assert await tools["anything"].call('{"wanted": "nan"}', Context()) is None
    with pytest.raises(ToolFailed, match="its result is not what JSON can hold"):
        await tools["anything"].call('{"wanted": "object"}', Context())


async def test_a_result_comes_whole_up_to_400_000_characters(tools: dict[str, Tool]) -> None:
    assert await tools["anything"].call('{"wanted": "long"}', Context()) == "x" * 100_000
    result = await tools["anything"].call('{"wanted": "longer"}', Context())
    left_out = "\n[cut: characters 200,000 to 1,800,000 of 2,000,000 are left out]\n"
    assert result == "x" * 200_000 + left_out + "x" * 200_000


async def test_delegate_reaches_the_named_agents_alone() -> None:
    delegate = delegate_tool(["researcher-agent", "api-coder"])
    assert delegate.idempotent
    assert delegate.parameters["properties"]["agent_id"]["enum"] == ["researcher-agent", "api-coder"]
    done = await delegate.call('{"agent_id": "api-coder", "text": "Review it"}', Context())
    assert done == "api-coder did: Review it"
    either = delegate_tool(["api-coder", "review"], {"review", "writing"})
    assert either.parameters["properties"]["agent_id"]["enum"] == ["api-coder", "review"]
    assert (
        await either.call('{"agent_id": "review", "text": "It"}', Context()) == "the best for review did: It"
    )
    assert await either.call('{"agent_id": "api-coder", "text": "It"}', Context()) == "api-coder did: It"


async def test_remember_stores_in_the_scope_it_names() -> None:
    remember = remember_tool()
    assert remember.idempotent
    assert (
        await remember.call('{"text": "Ports are 0", "scope": "project"}', Context())
        == "kept as a fact for project: Ports are 0"
    )
    assert (
        await remember.call('{"text": "Ports are 0", "kind": "decision", "subject": "ports"}', Context())
        == "kept as a decision for agent: Ports are 0 (ports)"
    )
    with pytest.raises(InvalidInput, match="scope"):
        await remember.call('{"text": "Ports are 0", "scope": "everyone"}', Context())
    with pytest.raises(InvalidInput, match="text"):
        await remember.call('{"text": ""}', Context())


async def test_recall_says_what_was_found_or_that_nothing_was() -> None:
    recall = recall_tool()
    assert (recall.idempotent, recall.effect) == (True, "read")
    found = await recall.call('{"query": "ports", "kind": "failure"}', Context())
    assert found.startswith("[m-1] (failure) ports\n\n") and "it gives no orders" in found
    assert await recall.call('{"query": "nothing"}', Context()) == "Nothing is remembered of that."
    with pytest.raises(InvalidInput, match="kind"):
        await recall.call('{"query": "ports", "kind": "rumour"}', Context())
