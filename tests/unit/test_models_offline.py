"""The built-in model: what it calls, what it quotes, and that it says so where it knows nothing."""

import json
import re
from typing import Any

import pytest

from meshwright.models.offline import OfflineModel
from meshwright.models.offline.passages import passages_of
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, ToolCall, ToolSpec

FILES: dict[str, str] = {
    "docs/fences.md": "# Fences\n\nA fence is a number that grows with every claim of a task. Work with an\n"
    "old fence is refused when it commits.\n",
    "docs/bread.md": "Knead the dough for ten minutes.\nBake it until it is brown.\n",
    "docs/paths.md": "Relative paths start at the project's\nfolder, wherever they were given.\n",
    "src/clock.py": '"""Time, as a port."""\n\ndef now():\n    # The machine says what time it is.\n',
}
LOG = [{"commit": "a1b2c3d", "date": "2026-11-20", "author": "Ada", "subject": "Refuse an old fence"}]


def tool(name: str, description: str = "", **properties: Any) -> ToolSpec:
    required = [key for key, schema in properties.items() if "default" not in schema]
    parameters = {"type": "object", "properties": properties, "required": required}
    return ToolSpec(name=name, description=description, parameters=parameters)


TEXT = {"type": "string"}
SEARCH = tool("search_files", query=TEXT, pattern={"type": "string", "default": "**"})
READ = tool("read_file", path=TEXT, start_line={"type": "integer", "default": 1})
ANY = {"type": "string", "default": ""}
LIST = tool("list_files", pattern=ANY, folder=ANY)
FETCH = tool("fetch_page", url={"type": "string", "format": "uri"})
GIT_LOG = tool("git_log", max_count={"type": "integer", "default": 20}, path=ANY)
DELEGATE = tool("delegate", agent_id={"const": "researcher-agent", "type": "string"}, text=TEXT)
SCOPE = {"type": "string", "enum": ["task", "agent", "project", "global"], "default": "agent"}
REMEMBER = tool("remember", text=TEXT, scope=SCOPE)
ALL = (LIST, READ, SEARCH, FETCH, GIT_LOG, DELEGATE, REMEMBER)


def search(query: str, pattern: str = "**") -> dict[str, Any]:
    words = query.lower().split()
    return {
        "matches": [
            {"file": path, "line": number, "text": line.strip()}
            for path, text in FILES.items()
            for number, line in enumerate(text.splitlines(), 1)
            if any(word in line.lower() for word in words)
        ]
    }


def read(path: str, start_line: int = 1) -> dict[str, Any]:
    text = FILES.get(path)
    return {"error": f"there is no {path}"} if text is None else {"file": path, "start_line": 1, "text": text}


TOOLS: dict[str, Any] = {
    "search_files": search,
    "read_file": read,
    "list_files": lambda pattern="**", folder="": {
        "files": [each for each in FILES if each.startswith(folder)]
    },
    "fetch_page": lambda url: {
        "url": url,
        "status": 200,
        "title": "Oslo",
        "text": "Oslo is the capital of Norway.",
    },
    "git_log": lambda max_count=20, path="": LOG,
    "delegate": lambda agent_id, text: "- A fence is a number. (docs/fences.md:3)",
    "remember": lambda text, scope="agent": f"Remembered for {scope}.",
    "sunrise": lambda city: "06:41",
}


class Conversation:
    """Runs the model and the tools above until it answers, and keeps what it called."""

    def __init__(self, *tools: ToolSpec, system: str = "You are a careful agent.") -> None:
        self.tools = tools
        self.system = system
        self.model = OfflineModel()
        self.called: list[tuple[str, dict[str, Any]]] = []

    async def ask(self, question: str, **fields: Any) -> str:
        messages = [
            ChatMessage(role="system", content=self.system),
            ChatMessage(role="user", content=question),
        ]
        while calls := (reply := await self.complete(messages, **fields)).tool_calls:
            assert len(self.called) < 10, "it never answers"
            messages.append(ChatMessage(role="assistant", tool_calls=calls))
            messages.extend(self.run(call) for call in calls)
        return reply.content

    async def complete(self, messages: list[ChatMessage], **fields: Any) -> ModelReply:
        request = ModelRequest(messages=tuple(messages), user="tester", tools=self.tools, **fields)
        return await self.model.complete(request)

    def run(self, call: ToolCall) -> ChatMessage:
        arguments = json.loads(call.arguments)
        self.called.append((call.name, arguments))
        result = TOOLS[call.name](**arguments)
        content = result if isinstance(result, str) else json.dumps(result)
        return ChatMessage(role="tool", content=content, tool_call_id=call.id)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.called]


async def test_it_searches_reads_the_best_file_and_quotes_it_with_its_place() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("What is a fence?")
    assert talk.called == [
        ("search_files", {"query": "fence"}),
        ("read_file", {"path": "docs/fences.md", "start_line": 1}),
    ]
    assert "A fence is a number that grows with every claim of a task. (docs/fences.md:3)" in answer


async def test_a_sentence_that_goes_over_two_lines_is_quoted_whole() -> None:
    answer = await Conversation(SEARCH, READ).ask("Which work does a fence refuse when it commits?")
    assert "Work with an old fence is refused when it commits." in answer


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
    assert (
        answer == "Oslo is the capital of Norway. (https://example.org/oslo:1)"
        or "(https://example.org/oslo)" in answer
    )


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
    assert "a1b2c3d  2026-11-20  Ada  Refuse an old fence" in answer or "Refuse an old fence" in answer


async def test_files_are_listed_below_the_folder_that_is_named() -> None:
    talk = Conversation(*ALL)
    answer = await talk.ask("List the files in docs")
    assert talk.called == [("list_files", {"folder": "docs"})]
    assert "- docs/bread.md" in answer and "clock" not in answer


async def test_a_tool_of_an_authors_own_is_called_when_the_question_has_its_name() -> None:
    talk = Conversation(tool("sunrise", "Tell when the sun rises.", city=TEXT))
    answer = await talk.ask("When is sunrise in Oslo?")
    assert talk.called == [("sunrise", {"city": "Oslo"})]
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


async def test_a_search_that_finds_nothing_is_tried_with_one_word_and_then_admitted() -> None:
    talk = Conversation(SEARCH, READ)
    answer = await talk.ask("How do zebras overtake giraffes?")
    assert talk.called == [
        ("search_files", {"query": "zebras overtake giraffes"}),
        ("search_files", {"query": "overtake"}),
    ]
    assert "found nothing about 'zebras overtake giraffes'" in answer
    assert "built-in offline model" in answer


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
    answer = await Conversation().ask(f"Summarise in one sentence: {text}")
    assert answer.count(".") == 1 and answer in text and "weather" not in answer


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


async def test_a_paragraph_is_joined_whatever_its_lines_look_like_alone() -> None:
    text = (
        "# Claims\nBread is brown. A claim, as `fence -> next`,\nfor each worker (with its\nfence,\n"
        "and its lease) has a deadline. Bread\nis brown.\n\n"
        "```\nclaim one worker deadline\nclaim two workers deadline\n```\n"
    )
    found = list(passages_of(text, "docs/claims.md", 1))
    sentence = "A claim, as `fence -> next`, for each worker (with its fence, and its lease) has a deadline."
    assert [(each.text, each.line) for each in found] == [
        ("Claims", 1),
        ("Bread is brown.", 2),
        (sentence, 2),
        ("Bread is brown.", 5),
        ("```", 8),
        ("claim one worker deadline", 9),
        ("claim two workers deadline", 10),
        ("```", 11),
    ]


async def test_a_word_that_may_be_an_order_is_searched_for_where_it_is_none() -> None:
    talk = Conversation(SEARCH)
    await talk.ask("Where are settings read from?")
    await talk.ask("Please read about fences")
    assert [arguments["query"] for _, arguments in talk.called][::2] == ["settings read", "fences"]


async def test_a_line_that_a_search_found_does_not_displace_the_sentence_that_it_is_of() -> None:
    answer = await Conversation(SEARCH, READ).ask("Where do relative paths start?")
    sentence = "Relative paths start at the project's folder, wherever they were given."
    assert answer == f"{sentence} (docs/paths.md:1)"
