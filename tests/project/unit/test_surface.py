"""Users find the same HTTP API, settings, commands and events after a change that means none of them."""

import json

import pytest

from tests.support.surface import FILE, differences, surface


@pytest.mark.parametrize("part", ["openapi", "settings", "commands", "events", "facts"])
def test_the_surface_is_as_written_down(part: str) -> None:
    lines = [*differences(json.loads(FILE.read_text())[part], surface()[part], part)]
    if lines:
        more = [f"... and {len(lines) - 7} more"] if len(lines) > 7 else []
        advice = "If users shall see this: python -m tests.support.surface"
        pytest.fail("\n".join([*lines[:7], *more, advice]), pytrace=False)


def test_a_difference_names_the_path_the_old_and_the_new_value() -> None:
    old = {"same": 1, "tasks": {"summary": "List tasks.", "roles": ["viewer", "operator"]}, "gone": {"x": 1}}
    new = {"same": 1, "tasks": {"summary": "Lists tasks.", "roles": ["viewer"]}, "begun": "now"}
    assert [*differences(old, new, "openapi")] == [
        'openapi.begun: absent -> "now"',
        'openapi.gone: {"x": 1} -> absent',
        'openapi.tasks.roles[1]: "operator" -> absent',
        'openapi.tasks.summary: "List tasks." -> "Lists tasks."',
    ]
