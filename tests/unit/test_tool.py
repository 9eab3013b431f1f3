"""What `@tool` makes of a method: its schema, its checks of a model's arguments, its results and errors."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from meshwright.errors import ConfigError, InvalidInput, NotFound, TooLarge, ToolFailed
from meshwright.messages import Task
from meshwright.models.port import ToolSpec
from meshwright.tools import Tool, ToolContext, delegate_tool, remember_tool, tool, tools_of
from meshwright.tools.tool import MAX_RESULT_CHARS


class Place(BaseModel):
    latitude: float
    longitude: float


@dataclass
class Weather:
    day: date
    degrees: float


class Almanac:
    """An owner of tools; `ran` says what really ran."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    @tool(idempotent=True)
    async def sunrise(
        self, city: str, days: Annotated[int, Field(ge=1)] = 1, unit: Literal["h", "min"] = "h"
    ) -> str:
        """Tell when the sun rises.

        Clouds are left out.

        Args:
            city: a city's name,
                in English
            days: for how many days

        Returns:
            the times
        """
        self.ran.append((city, days, unit))
        return f"{city}: 6 {unit}"

    @tool
    def forecast(self, place: Place, day: date | None = None) -> Weather:
        """Forecast the weather."""
        self.ran.append((place, day, threading.current_thread()))
        return Weather(day or date(2026, 1, 2), 21.5)

    @tool(name="who-asks")
    async def who_asks(self, context: ToolContext) -> str:
        """Say who asks."""
        return f"{context.agent_id} for {context.task.task_id}"

    @tool
    async def anything(self, wanted: str) -> Any:
        """Return, or raise, whatever is wanted."""
        if wanted == "division":
            return 1 // 0
        if wanted == "unknown task":
            raise NotFound("there is no such task")
        return {"set": {1}, "nan": float("nan"), "object": object(), "long": "x" * 100_000}[wanted]

    @tool
    def first(self, words: list[str]) -> str:
        """Return the first long word."""
        return next(word for word in words if len(word) > 3)

    def not_a_tool(self, city: str) -> str:
        return city


class Context:
    """A run, as tools see it."""

    agent_id = "almanac-agent"

    def __init__(self) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        self.task = Task(task_id="t1", capability="c", thread_id="t1", deadline_at=moment, created_at=moment)

    async def delegate(self, agent_id: str, text: str) -> str:
        return f"{agent_id} did: {text}"

    async def remember(self, text: str, scope: str) -> str:
        return f"kept for {scope}: {text}"


@pytest.fixture
def almanac() -> Almanac:
    return Almanac()


@pytest.fixture
def tools(almanac: Almanac) -> dict[str, Tool]:
    return {each.name: each for each in tools_of(almanac)}


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

    [look] = tools_of(Owner())
    assert look.parameters["properties"]["where"]["description"] == "a direction"


def test_parameters_may_have_names_that_models_use_themselves() -> None:
    class Owner:
        @tool
        async def check(self, schema: str, model_config: int, copy: bool, _secret: str = "s") -> list[Any]:
            """Take odd names."""
            return [schema, model_config, copy, _secret]

    [check] = tools_of(Owner())
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

    [wait] = tools_of(Owner())
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


async def test_a_result_over_the_limit_is_cut_and_says_so(tools: dict[str, Tool]) -> None:
    result = await tools["anything"].call('{"wanted": "long"}', Context())
    assert result == "x" * MAX_RESULT_CHARS + "\n[cut: the first 32,000 of 100,000 characters]"


def test_a_function_that_cannot_be_a_tool_fails_where_it_is_declared() -> None:
    with pytest.raises(ConfigError, match=r"test_tool\.py:\d+: tool 'silent' has no docstring\. say in it"):

        @tool
        async def silent(city: str) -> str:
            return city

    with pytest.raises(ConfigError, match="does not say the type of 'city'") as caught:

        @tool
        async def untyped(city) -> str:  # type: ignore[no-untyped-def]
            """Do something."""
            return city

    assert caught.value.line is not None and caught.value.field == "untyped"
    with pytest.raises(ConfigError, match=r"takes \*\*cities"):

        @tool
        async def greedy(**cities: str) -> None:
            """Do something."""

    with pytest.raises(ConfigError, match="describes 'town', which it does not take"):

        @tool
        async def outdated(city: str) -> None:
            """Do something.

            Args:
                town: a city
            """

    with pytest.raises(ConfigError, match="a name that models refuse"):

        @tool(name="what now?")
        async def named() -> None:
            """Do something."""

    with pytest.raises(ConfigError, match="put it innermost"):
        tool(staticmethod(test_results_become_plain_json))


def test_types_that_json_cannot_fill_are_refused_before_any_call() -> None:
    class Owner:
        @tool
        async def use(self, lock: threading.Lock) -> None:
            """Use a lock."""

    with pytest.raises(ConfigError, match=r"test_tool\.py:\d+: tool 'use' has a type that cannot be read"):
        tools_of(Owner())


def test_a_type_imported_for_the_type_checker_alone_is_refused_with_the_remedy() -> None:
    class Owner:
        @tool
        async def use(self, lock: "NotThere") -> None:  # type: ignore[name-defined]  # noqa: F821
            """Use a lock."""

    with pytest.raises(ConfigError, match="imported for run time too"):
        tools_of(Owner())


def test_tools_load_no_http_client_until_one_is_needed() -> None:
    code = "import sys, meshwright.tools; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="tool 'sunrise' has the name of another tool"):
        tools_of(Almanac(), Almanac())


def test_a_subclass_may_replace_a_tool_or_take_it_away() -> None:
    class Quiet(Almanac):
        sunrise = None  # type: ignore[assignment]

        @tool
        def forecast(self, place: Place) -> str:  # type: ignore[override]
            """Forecast nothing."""
            return "who knows"

    described = {each.name: each.description for each in tools_of(Quiet())}
    assert "sunrise" not in described
    assert described["forecast"] == "Forecast nothing."


async def test_delegate_reaches_the_named_agents_alone() -> None:
    delegate = delegate_tool(["researcher-agent", "api-coder"])
    assert delegate.idempotent
    assert delegate.parameters["properties"]["agent_id"]["enum"] == ["researcher-agent", "api-coder"]
    done = await delegate.call('{"agent_id": "api-coder", "text": "Review it"}', Context())
    assert done == "api-coder did: Review it"
    with pytest.raises(InvalidInput, match="agent_id: Input should be 'researcher-agent' or 'api-coder'"):
        await delegate.call('{"agent_id": "kubectl-deployer", "text": "Delete it"}', Context())
    assert delegate_tool(["simple-agent"]).parameters["properties"]["agent_id"]["const"] == "simple-agent"


async def test_remember_stores_in_the_scope_it_names() -> None:
    remember = remember_tool()
    assert remember.idempotent
    assert (
        await remember.call('{"text": "Ports are 0", "scope": "project"}', Context())
        == "kept for project: Ports are 0"
    )
    with pytest.raises(InvalidInput, match="scope"):
        await remember.call('{"text": "Ports are 0", "scope": "everyone"}', Context())
    with pytest.raises(InvalidInput, match="text"):
        await remember.call('{"text": ""}', Context())
