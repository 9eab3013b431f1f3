"""The built-in model: which tools it calls, with what, and when it calls none."""

import json
from typing import Any

import pytest

from tests.support.offline_conversation import ALL, DELEGATE, READ, SEARCH, TEXT, Conversation, tool


async def test_it_searches_reads_the_best_file_and_quotes_it_with_its_place() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("What is a fence?")
    assert talk.called == [
        ("search_files", {"query": "fence"}),
        ("read_file", {"path": "docs/fences.md", "start_line": 1}),
    ]
    assert "A fence is a number that grows with every claim of a task. (docs/fences.md:3)" in answer


async def test_what_has_nothing_to_do_with_the_question_is_not_quoted() -> None:
    assert "dough" not in await Conversation(*ALL).ask("What is a fence?")


async def test_a_file_that_the_question_names_is_read_without_a_search() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("Review src/clock.py")
    assert talk.called == [("read_file", {"path": "src/clock.py"})]
    assert "The machine says what time it is. (src/clock.py:4)" in answer


async def test_a_file_that_is_not_there_is_said() -> None:
    assert "there is no src/none.py" in await Conversation(READ).ask("Summarise src/none.py")


async def test_a_url_is_fetched() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("What is the capital of Norway, by https://example.org/oslo?")
    assert talk.called == [("fetch_page", {"url": "https://example.org/oslo"})]
    assert "Oslo is the capital of Norway. (https://example.org/oslo" in answer


async def test_research_is_delegated_once_and_its_answer_passed_on() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("Find out what a fence is")
    assert talk.called == [("delegate", {"agent_id": "researcher-agent", "text": "Find out what a fence is"})]
    assert "researcher-agent" in answer and "A fence is a number." in answer


async def test_without_any_tool_to_look_with_a_question_is_delegated() -> None:
    talk = Conversation(DELEGATE)
    await talk.ask("What is a fence?")
    assert talk.names == ["delegate"]


@pytest.mark.parametrize(
    ("agents", "system", "question", "chosen"),
    [
        ({"enum": ["api-coder", "qa-tester"]}, "", "Research this with qa-tester", "qa-tester"),
        ({"enum": ["api-coder", "qa-tester"]}, "", "Research this", "api-coder"),
        (TEXT, "Ask researcher-agent for facts.", "Research this", "researcher-agent"),
    ],
)
async def test_the_agent_to_delegate_to_is_the_one_that_is_named(
    agents: dict[str, Any], system: str, question: str, chosen: str
) -> None:
    talk = Conversation(tool("delegate", agent_id=agents, text=TEXT), system=system)
    await talk.ask(question)
    assert talk.called[0][1]["agent_id"] == chosen


async def test_what_is_to_be_remembered_is_stored_in_the_scope_that_is_named() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("Please remember that we ship on Fridays, for the project.")
    assert talk.called == [("remember", {"text": "we ship on Fridays, for the project.", "scope": "project"})]
    assert answer.startswith("Remembered for project.")


@pytest.mark.parametrize(
    "question", ["What changed recently?", "Show the last commit", "Which commits are there?"]
)
async def test_what_changed_is_looked_up_in_the_log(question: str) -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask(question)
    assert talk.names == ["git_log"]
    assert "a1b2c3d 2026-11-20 Ada Refuse an old fence" in answer


async def test_a_tool_of_an_authors_own_is_called_when_the_question_has_its_name() -> None:
    talk = Conversation(tool("sunrise", "Tell when the sun rises.", city=TEXT))
    answer = await talk.ask("When is sunrise in Oslo?")
    assert talk.names == ["sunrise"]
    assert "06:41" in answer


async def test_a_tool_whose_required_parameter_cannot_be_filled_is_not_called() -> None:
    talk = Conversation(tool("sunrise", "Tell when the sun rises.", place={"type": "object"}))
    await talk.ask("When is sunrise in Oslo?")
    assert talk.called == []


@pytest.mark.parametrize(
    "question", ["What is a fence?", "Find out about fences", "zzz qqq", "Compare fences, and remember it"]
)
async def test_no_call_is_made_twice_and_there_are_few(question: str) -> None:
    talk = Conversation(*ALL)
    await talk.ask(question)
    calls = [json.dumps(call) for call in talk.called]
    assert len(calls) == len(set(calls)) <= 4


async def test_a_search_that_finds_nothing_is_admitted() -> None:
    talk = Conversation(SEARCH, READ)
    answer = await talk.ask("How do zebras overtake giraffes?")
    assert talk.called == [("search_files", {"query": "zebras overtake giraffes"})]
    assert "found nothing about 'zebras overtake giraffes'" in answer
    assert "built-in offline model" in answer
