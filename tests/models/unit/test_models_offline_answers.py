"""The built-in model: what it quotes, and that it says so where it knows nothing."""

import json
import re

import pytest

from meshwright.models.offline_model import OfflineModel, cut_passages
from meshwright.models.port import ChatMessage, ModelRequest, ToolCall
from tests.support.offline_conversation import ALL, READ, SEARCH, Conversation

CONTEXT = """\
You are simple-agent.

METADATA:
sender: orchestrator
priority: 5
DOMAIN_CONTEXT:
- Which database does the event log use?
RELEVANT_MEMORIES:
- The event log uses one SQLite database.
- Lunch is at noon.
CONVERSATION_CONTEXT:
- user: Which database does the event log use now?

Answer in your own words.
"""


async def test_a_memory_that_answers_the_question_makes_a_search_needless() -> None:
    talk = Conversation(*ALL, system=CONTEXT)
    assert (
        await talk.ask("Which database does the event log use?") == "The event log uses one SQLite database."
    )
    assert talk.called == []


async def test_a_memory_in_a_message_of_its_own_answers_without_its_id_and_source() -> None:
    memory = "- [m-1] The event log uses one SQLite database. (noted on 2026-11-23 by clerk)"
    messages = [
        ChatMessage(role="user", content=f"Agents noted this.\n\nRELEVANT_MEMORIES:\n{memory}"),
        ChatMessage(role="user", content="Which database does the event log use?"),
    ]
    reply = await Conversation().complete(messages)
    assert reply.content == "The event log uses one SQLite database."


async def test_an_earlier_message_is_material_and_the_question_itself_is_not() -> None:
    messages = [
        ChatMessage(role="user", content="Our staging cluster is called Fjord."),
        ChatMessage(role="assistant", content="Noted."),
        ChatMessage(role="user", content="What is our staging cluster called?"),
    ]
    reply = await Conversation().complete(messages)
    assert reply.content == "Our staging cluster is called Fjord."


async def test_text_that_comes_with_the_request_is_what_is_summarised() -> None:
    text = (
        "A mesh is a set of agents. Each agent is an actor with state of its own. The weather was fine. "
        "The state and the effects of an actor are committed together, so that a crash loses nothing."
    )
    answer = await Conversation().ask(f"Summarise: {text}")
    assert all(line.removeprefix("- ") in text for line in answer.splitlines()) and "weather" not in answer


async def test_told_to_answer_now_it_answers_the_question_and_calls_nothing() -> None:
    talk = Conversation(SEARCH, READ)
    call = ToolCall(id="c", name="search_files", arguments='{"query": "fence"}')
    messages = [
        ChatMessage(role="user", content="What is a fence?"),
        ChatMessage(role="assistant", tool_calls=(call,)),
        talk.run(call),
        ChatMessage(role="user", content="Answer now, with what you have."),
    ]
    talk.tools = ()
    reply = await talk.complete(messages)
    assert "A fence is a number" in reply.content and not reply.tool_calls


async def test_a_tool_that_failed_is_said_where_nothing_else_is_known() -> None:
    call = ToolCall(id="c", name="search_files", arguments='{"query": "fence"}')
    messages = [
        ChatMessage(role="user", content="What is a fence?"),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content='{"error": "the disk is on fire"}', tool_call_id="c"),
    ]
    reply = await Conversation().complete(messages)
    assert reply.content == "search_files failed: the disk is on fire"


@pytest.mark.parametrize("question", ["Hello!", "", "?", "Who are you?", "\n\n", "¿Qué?", "日本語で答えて"])
async def test_anything_gets_an_answer_that_says_what_answered(question: str) -> None:
    talk = Conversation(*ALL)
    assert "built-in offline model" in await talk.ask(question)


@pytest.mark.parametrize(
    "question",
    [
        "17 * 23",
        "What is 17 * 23?",
        "Calculate 17 times 23",
        "How much is 12 % of 80?",
        "2+2",
        "sum of 3 and 4",
    ],
)
async def test_a_sum_is_neither_searched_nor_calculated(question: str) -> None:
    talk = Conversation(*ALL, system="Our table:\n- 17 apples, 23 pears\n- 391 of them")
    answer = await talk.ask(question)
    assert answer.startswith("I only search, and do not calculate. This is the built-in offline model")
    assert talk.called == []


async def test_a_question_with_numbers_and_other_words_is_searched() -> None:
    talk = Conversation(SEARCH)
    await talk.ask("What are the 10 minutes of dough for?")
    assert talk.names == ["search_files"]


async def test_no_messages_at_all_get_an_answer() -> None:
    assert (await OfflineModel().complete(ModelRequest(messages=(), user="tester"))).content


async def test_the_same_request_gives_the_same_reply() -> None:
    assert await Conversation(*ALL).ask("What is a fence?") == await Conversation(*ALL).ask(
        "What is a fence?"
    )


async def test_it_costs_nothing_counts_its_tokens_and_says_that_it_is_offline() -> None:
    model = OfflineModel(count_tokens=lambda text: len(text.split()))
    messages = (ChatMessage(role="system", content="one two"), ChatMessage(role="user", content="three"))
    reply = await model.complete(ModelRequest(messages=messages, user="tester"))
    assert (reply.model, reply.cost_usd) == ("offline", 0.0)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, len(reply.content.split()))


async def test_an_answer_stays_within_its_tokens_and_says_that_it_was_cut() -> None:
    woods = ["oak", "ash", "pine", "elm", "birch"]
    lines = "\n".join(
        f"Beyond the {wood} grove another fence of {wood} stands, old and grey." for wood in woods
    )
    text = f"Which fence stands where?\n{lines}"
    reply = await Conversation().complete([ChatMessage(role="user", content=text)], max_tokens=10)
    assert reply.finish_reason == "length"
    assert 0 < reply.usage.completion_tokens <= 10


async def test_a_large_request_is_read_and_answered() -> None:
    line = "Nothing of interest stands on this line of the file.\n"
    large = {"file": "big.txt", "text": line * 20_000 + "The treasure lies below the old oak.\n"}
    call = ToolCall(id="c", name="read_file", arguments='{"path": "big.txt"}')
    messages = [
        ChatMessage(role="user", content="Where does the treasure lie?"),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content=json.dumps(large), tool_call_id="c"),
    ]
    reply = await Conversation().complete(messages)
    assert re.search(r"found nothing|treasure", reply.content)


@pytest.mark.parametrize("blank", ["\n\n", "\n  \n\n"])
async def test_short_material_after_a_blank_line_is_quoted(blank: str) -> None:
    talk = Conversation(SEARCH)
    answer = await talk.ask(f"What does kill -9 lose?{blank}Kill -9 loses no accepted task. Bread is brown.")
    assert (answer, talk.called) == ("Kill -9 loses no accepted task.", [])


async def test_a_question_in_two_paragraphs_is_not_taken_for_material() -> None:
    talk = Conversation(SEARCH)
    await talk.ask("I read about fences.\n\nWhat is a fence?")
    assert talk.names[0] == "search_files"


def test_a_sentence_over_two_lines_is_one_passage_and_code_stays_lines() -> None:
    text = "# Claims\nBread is brown. A claim, as `fence -> next`,\nfor each worker has a deadline.\n"
    found = [(passage.text, passage.line) for passage in cut_passages(text, "docs/claims.md", 1)]
    assert found == [
        ("Bread is brown.", 2),
        ("A claim, as `fence -> next`, for each worker has a deadline.", 2),
    ]
    assert len(list(cut_passages("a = 1\nb = 2\n", "src/app.py", 1))) == 2
