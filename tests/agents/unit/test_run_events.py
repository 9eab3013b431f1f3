"""Events of a run summarize the results of tools without their content."""

from typing import Any

import pytest

from meshwright.agents.run.tool_calls import result_summary as summary_of


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, None),
        ("", ""),
        ("Remembered for agent.", "Remembered for agent."),
        ("secret " * 1000, ("secret " * 1000)[:120]),
        ("one\ntwo\nthree\n", "lines: 3"),
        ([{"id": "a"}, {"id": "b"}], "items: 2"),
        ({"matches": [1, 2, 3, 4], "note": "narrow it"}, "matches: 4"),
        ({"file": "a.md", "text": "one\ntwo", "total_lines": 9}, "text: 2 lines"),
        ({"answer": "42", "sure": True}, "fields: 2"),
        (42, "42"),
        (False, "False"),
        ({f"name {number}": [] for number in range(1000)}, 120),
    ],
)
def test_a_result_is_told_by_its_size_or_its_only_line(result: Any, told: str | int | None) -> None:
    summary = summary_of(result)
    assert (len(summary or "") if isinstance(told, int) else summary) == told
