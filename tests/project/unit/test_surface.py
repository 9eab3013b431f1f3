"""Users find the same HTTP API, settings, commands and events after a change that means none of them."""

import json

import pytest

from tests.support.surface import FILE, surface


@pytest.mark.parametrize("part", ["openapi", "settings", "commands", "events", "facts"])
def test_the_surface_is_as_written_down(part: str) -> None:
    expected = json.loads(FILE.read_text())[part]
    assert surface()[part] == expected, "if users shall see this: python -m tests.support.surface"
