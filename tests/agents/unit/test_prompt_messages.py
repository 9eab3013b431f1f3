r"""The messages of a prompt: roles, `\` before what is text, and what is never taken for something else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright import Agent, Capability
from meshwright.agents.prompts import Prompts, parse_prompt
from meshwright.agents.prompts.front_matter import read_front_matter, write_front_matter
from meshwright.agents.prompts.template import escaped
from meshwright.agents.run.run import Run
from meshwright.core.errors import PromptError
from meshwright.testing import ScriptedModel, mesh_for

PARTS = [
    *(
        "{{",
        "}}",
        "{%",
        "{#",
        "\\",
        "\\\\",
        "{",
        "a",
        "\n",
        "User:",
        "user:\n",
        " ",
        "role",
        '{{role "user"}}',
    ),
    *("{{name}}", "#system:\n", "\\User: x", "{{{x}}}", "\t"),
]


class Clerk(Agent):
    """Answers at once."""

    agent_id = "clerk"
    capabilities = (Capability("answering", preferred=True),)


class Coder(Clerk):
    """Asks in its own words."""

    agent_id = "coder"

    async def run(self, run: Run) -> str:
        return await run.ask("Which language is that?")


def sections(body: str, inputs: str = "") -> list[tuple[str, str]]:
    prompt = parse_prompt("clerk", f"---\ninputs: [{inputs}]\n---\n{body}".encode(), "clerk.prompt")
    return [(section.role, section.text) for section in prompt.sections]


def refusal(text: str) -> PromptError:
    with pytest.raises(PromptError) as refused:
        parse_prompt("clerk", text.encode(), "clerk.prompt")
    return refused.value


async def sent(tmp_path: Path, prompt: str, payload: dict[str, Any], agent: type[Agent] = Clerk) -> list[Any]:
    """The messages that the model gets for a task, each as its role and text."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / f"{agent.agent_id}.prompt").write_text(prompt)
    model = ScriptedModel("Done.")
    async with mesh_for(agent, model=model, project=tmp_path) as mesh:
        outcome = await mesh.outcome(await mesh.submit(agent_id=agent.agent_id, payload=payload))
    assert outcome.status == "succeeded", outcome.error
    return [(message.role, message.content) for message in model.requests[0].messages]


async def test_roles_become_messages_and_the_last_one_begins_the_request(tmp_path: Path) -> None:
    text = '---\ninputs: [title]\n---\nYou lend books.\n{{role "user"}}\nIs Emma in?\n'
    text += '{{role "assistant"}}\nYes.\n'
    messages = await sent(
        tmp_path, text + '{{role "user"}}\nIs {{title}} in?', {"title": "Ulysses", "branch": "N"}
    )
    assert messages == [
        ("system", "You lend books."),
        ("user", "Is Emma in?"),
        ("assistant", "Yes."),
        ("user", "Is Ulysses in?\n\nbranch:\nN"),
    ]


async def test_an_input_of_the_text_is_sent_once(tmp_path: Path) -> None:
    text = "---\ninputs: [language]\n---\nAnswer in {{language}}."
    messages = await sent(tmp_path, text, {"text": "How are you?", "language": "Welsh", "tone": "dry"})
    assert messages == [("system", "Answer in Welsh."), ("user", "How are you?\n\ntone:\ndry")]


async def test_a_request_that_is_all_in_the_system_message_is_not_sent_again(tmp_path: Path) -> None:
    text = "---\ninputs: [language]\n---\nSay hello in {{language}}."
    system, user = await sent(tmp_path, text, {"language": "Welsh"})
    assert system == ("system", "Say hello in Welsh.")
    assert user[0] == "user" and user[1] and "Welsh" not in user[1]


async def test_task_in_the_last_message_stands_for_the_request(tmp_path: Path) -> None:
    text = '---\nvariables: [task]\n---\n{{role "user"}}\nShort, please: {{task}}'
    messages = await sent(tmp_path, text, {"text": "Why?", "depth": 2})
    assert messages == [("user", "Short, please: Why?\n\ndepth:\n2")]


async def test_a_long_text_that_is_an_input_is_sent_whole(tmp_path: Path) -> None:
    text = '---\ninputs: [text]\n---\n{{role "user"}}\nSum up: {{text}}'
    [(_, content)] = await sent(tmp_path, text, {"text": "x" * 90_000})
    assert content == f"Sum up: {'x' * 90_000}"


def test_a_file_with_other_line_ends_is_read_line_by_line() -> None:
    prompt = parse_prompt("clerk", b"---\rdescription: x\r---\rBe kind.\r\nHi\rHo", "clerk.prompt")
    assert (prompt.description, prompt.body) == ("x", "Be kind.\nHi\nHo")
    assert refusal("---\n---\nBe kind.\rUser: Hi").line == 4


async def test_a_question_of_code_comes_after_the_request_of_the_prompt(tmp_path: Path) -> None:
    text = '---\ninputs: [text]\n---\nYou read code.\n{{role "user"}}\nLook: {{text}}'
    messages = await sent(tmp_path, text, {"text": "fn main"}, Coder)
    assert messages == [
        ("system", "You read code."),
        ("user", "Look: fn main"),
        ("user", "Which language is that?"),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r"A macro \textbf\{#1} and \{{ .Values.tag }}", r"A macro \textbf{#1} and {{ .Values.tag }}"),
        (r"${\{ secrets.KEY }} \{% raw %}", r"${\{ secrets.KEY }} {% raw %}"),
        (r"Keep \{{name}} as it is", "Keep {{name}} as it is"),
        (r'Begin with \{{role "user"}}', 'Begin with {{role "user"}}'),
        ("\\User: is a column\n\\system:\n\\# user:", "User: is a column\nsystem:\n# user:"),
        (r"\\User: and \n", r"\User: and \n"),
    ],
)
def test_a_backslash_makes_text_of_a_mark(body: str, expected: str) -> None:
    prompt = parse_prompt("clerk", f"---\n---\n{body}".encode())
    assert prompt.render_from({}).system == expected


@pytest.mark.parametrize(
    ("body", "expected"), [(r"C:\\{{name}}", r"C:\VALUE"), (r"\\\{{name}} {{name}}", r"\{{name}} VALUE")]
)
def test_two_backslashes_before_a_mark_are_one(body: str, expected: str) -> None:
    prompt = parse_prompt("clerk", f"---\ninputs: [name]\n---\n{body}".encode(), "clerk.prompt")
    assert prompt.render_from({"name": "VALUE"}).system == expected
    assert [(note.line, "backslash" in str(note)) for note in prompt.notes] == [(4, True)]


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join) | st.text(min_size=1))
def test_any_text_can_be_written(text: str) -> None:
    text = text.replace("\r", "").encode(errors="ignore").decode().strip()
    if text:
        prompt = parse_prompt("clerk", f"---\n---\n{escaped(text)}".encode())
        assert prompt.render_from({}).system.strip() == text


def test_text_at_the_side_of_a_role_is_of_its_message() -> None:
    body = "Be brief.{{ role 'user' }}Hello\n\n\n{{role \"assistant\"}} Hi {{who}} "
    assert sections(body, "who") == [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi {{who}}")]
    assert sections('{{role "system"}}\nBe brief.') == [("system", "Be brief.")]


@pytest.mark.parametrize(
    ("body", "line", "said"),
    [
        ('Hi\n{{role "model"}}\nHello', 4, 'write {{role "assistant"}}'),
        ('Hi\n{{role "tool"}}\nHello', 4, "there is no role 'tool'"),
        ('Hi\n{{role "user"}}\n\n{{role "assistant"}}\nHello', 4, "the user message has no text"),
        ('{{role "user"}}\nHi\n{{role "system"}}\nHello', 5, "the system message comes first"),
        ('Hi\n\n{{role "system"}}\nHello', 5, "the system message comes first"),
        ("{{role user}}\nHi", 3, 'write {{role "user"}}'),
        ("System: Be kind.\n\nUser: Hello", 3, 'write {{role "system"}}'),
        ("Be kind.\n\nuser:\nHello", 5, '{{role "user"}} if a message begins here, or \\user: if it is text'),
        ("Be kind.\n# Assistant :\nHello", 4, 'write {{role "assistant"}}'),
        ('Be kind.\nuser[name="Ann"]:\nHello', 4, 'write {{role "user"}}'),
        ("developer:\nHello", 3, 'write {{role "system"}}'),
        ("Hi {{history}}", 3, "is not declared"),
        ("See {{media url=photo}}", 3, "files of a task are parts of its request"),
        ("Hi {{userName}}", 3, "lower case"),
        ("Hi {{user.name}}", 3, "name a field of the payload itself"),
        ("{{> tone}}", 3, "no prompt brings in another"),
        (r"\\{{#if x}}", 3, "there are no blocks"),
        (r"Use \textbf{#1}", 3, r"If it is text, write \{#1"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_line_and_remedy(body: str, line: int, said: str) -> None:
    error = refusal(f"---\n---\n{body}")
    assert (error.path, error.line) == ("clerk.prompt", line)
    assert said in str(error) and error.remedy


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_tokens: 0100", "octal for some readers of YAML. write 100"),
        ("params: {seed: -017}", "write 17 for the number"),
        ("cache: no", "write false"),
        ("params: {language: NO}", 'or "NO" in quotes for the text'),
        ("params: {top_p: .nan}", "cannot be sent to a model"),
        ("params: {top_p: 1e999}", "cannot be sent to a model"),
        ("max_tokens: 1e3", "must be a whole number"),
        ("inputs: [userName]", "'userName' must begin with a lower-case letter"),
        ("input: {schema: {a: string}}", "`mesh prompts import FILE`"),
    ],
)
def test_a_value_with_two_readings_is_refused(line: str, said: str) -> None:
    error = refusal(f"---\n{line}\n---\nHello")
    assert error.line == 2
    assert said.replace(". write", " and decimal for others. write") in str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1:30", "1:30"), ("1_000", 1000), ("0o17", 15), ("0x1f", 31), ("1e3", 1000.0), ("1e-1", 0.1)),
        *(("0.50", 0.5), ("-5", -5), ("+5", 5), ("0", 0), ("2026-11-01", "2026-11-01"), ("true", True)),
        *(("~", None), ("1.2.3", "1.2.3"), ("y", "y"), ('"no"', "no"), ('"010"', "010"), (".5", 0.5)),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: Any) -> None:
    prompt = parse_prompt("clerk", f"---\nparams: {{stop: {text}}}\n---\nHello".encode())
    assert prompt.params == {"stop": value}
    assert type(prompt.params["stop"]) is type(value)


SCALARS = st.sampled_from(
    ["no", "on", "0100", "1:30", "1e3", "0o7", "~", "", "true", "1_0", ".inf", "- a", "=", "<<"]
)
VALUES = st.recursive(
    SCALARS
    | st.text(max_size=8)
    | st.booleans()
    | st.none()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda values: st.lists(values, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["stop", "on", "seed"]), VALUES))
def test_front_matter_that_is_written_is_read_with_the_same_values(params: dict[str, Any]) -> None:
    try:
        read = read_front_matter(write_front_matter({"params": params}) + "Hello", "").fields.params
    except PromptError as error:
        assert "nested too deep" in error.message
    else:
        assert read == params and repr(read) == repr(params)


def test_notes_say_what_is_sent_as_text_and_which_files_are_not_read(tmp_path: Path) -> None:
    head = "---\ninputs: [name]\n---\n"
    (tmp_path / "clerk.prompt").write_text(
        head
        + "{{name}}, answer {question}.\n  user:\n\\{{name}} is a mark.\n"
        + '\\begin{document} ${HOME} {"a": 1} /{id}'
    )
    (tmp_path / "old.prompty").write_text("system:\nHello")
    (tmp_path / "team").mkdir()
    (tmp_path / "team/clerk.prompt").write_text("---\n---\nHello")
    (tmp_path / "clerk.prompt.md").write_text("Hello")
    (tmp_path / "clerk.prompt~").write_text("Hello")
    prompts = Prompts(tmp_path)
    notes = [(Path(note.path).name, note.line, note.message.rpartition(": ")[2]) for note in prompts.notes()]
    assert notes == [
        ("clerk.prompt", 4, "{question} is sent as text"),
        ("clerk.prompt", 5, "'user:' is sent as text"),
        ("clerk.prompt", 6, "\\{{name}} is the text {{name}}, not its value"),
        ("clerk.prompt.md", None, "this file is not read"),
        ("old.prompty", None, "this file is not read"),
        ("clerk.prompt", None, "this file is not read"),
    ]
    assert prompts.check() == []
    [problem] = prompts.check({"old": "old"})
    assert problem.remedy.endswith(f"mesh prompts import {tmp_path / 'old.prompty'}")


def test_an_agent_below_another_has_a_prompt_of_its_own() -> None:
    class Base(Agent):
        agent_id = "base"
        capabilities = (Capability("x"),)

    class Shared(Agent, abstract=True):
        prompt = "shared"
        capabilities = (Capability("x"),)

    class Between(Base):
        """The same agent in other words."""

    class Named(Base):
        agent_id = "named"
        prompt = "other"

    made = type("Made", (Between,), {"agent_id": "made"})
    below = type("Below", (Named,), {"agent_id": "below"})
    of_shared = type("OfShared", (Shared,), {"agent_id": "of-shared"})
    agents = (Base, Between, Named, made, below, of_shared)
    assert [agent.prompt for agent in agents] == ["base", "base", "other", "made", "other", "shared"]
