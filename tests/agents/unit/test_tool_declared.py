"""A wrong tool fails at its declaration, and tools replace one another by name."""

import subprocess
import sys
import threading

import pytest

from meshwright.core.errors import ConfigError
from meshwright.tools import collect_tools, tool
from tests.support.sample_tools import Almanac, Place


def test_a_function_that_cannot_be_a_tool_fails_where_it_is_declared() -> None:
    with pytest.raises(
        ConfigError, match=r"test_tool_declared\.py:\d+: tool 'silent' has no docstring\. say in it"
    ):

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

    def first(city: str) -> str:
        """Return the first."""
        return city

    with pytest.raises(ConfigError, match="put it innermost"):
        tool(staticmethod(first))


def test_types_that_json_cannot_fill_are_refused_before_any_call() -> None:
    class Owner:
        @tool
        async def use(self, lock: threading.Lock) -> None:
            """Use a lock."""

    with pytest.raises(
        ConfigError, match=r"test_tool_declared\.py:\d+: tool 'use' has a type that cannot be read"
    ):
        collect_tools(Owner())


def test_a_type_imported_for_the_type_checker_alone_is_refused_with_the_remedy() -> None:
    class Owner:
        @tool
        async def use(self, lock: "NotThere") -> None:  # type: ignore[name-defined]  # noqa: F821
            """Use a lock."""

    with pytest.raises(ConfigError, match="imported for run time too"):
        collect_tools(Owner())


def test_tools_load_no_http_client_until_one_is_needed() -> None:
    code = "import sys, meshwright.tools; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="tool 'sunrise' has the name of another tool"):
        collect_tools(Almanac(), Almanac())


def test_a_subclass_may_replace_a_tool_or_take_it_away() -> None:
    class Quiet(Almanac):
        sunrise = None  # type: ignore[assignment]

        @tool
        def forecast(self, place: Place) -> str:  # type: ignore[override]
            """Forecast nothing."""
            return "who knows"

    described = {each.name: each.description for each in collect_tools(Quiet())}
    assert "sunrise" not in described
    assert described["forecast"] == "Forecast nothing."
