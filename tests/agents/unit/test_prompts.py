"""Prompt files: what is read, what is refused and where, and that there is always a prompt."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.agents.prompts import CodePrompt, Prompt, PromptContext, Prompts, PromptSources, parse_prompt
from meshwright.agents.prompts.front_matter import MAX_PROMPT_BYTES
from meshwright.agents.prompts.sources import BUILT_IN, GENERIC
from meshwright.core.errors import PromptError
from meshwright.core.ids import RUN_VARIABLES

FOLDER = Path(__file__).resolve().parents[3] / "prompts"
NAMES = (
    *("api-coder", "architect-agent", "argocd-deployer", "context-service", "cost-tracker"),
    *("homelab-monitor", "infra-manager", "kubectl-deployer", "project-manager", "qa-tester"),
    *("researcher-agent", "simple-agent", "ui-agent"),
)
HEAD = "---\ntags: [a]\nvariables: [agent_name]\n---\n"
Notices = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def notices() -> Notices:
    return []


@pytest.fixture
def prompts(tmp_path: Path, notices: Notices) -> Prompts:
    return Prompts(tmp_path, on_event=lambda event_type, payload: notices.append((event_type, payload)))


def write(prompts: Prompts, text: str, name: str = "greeter") -> Path:
    """Write a prompt file, with a time of change of its own."""
    path = prompts.directory / f"{name}.prompt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    if before:
        os.utime(path, ns=(before + 1000, before + 1000))
    return path


def refusal(text: str | bytes) -> PromptError:
    with pytest.raises(PromptError) as refused:
        parse_prompt("x", text if isinstance(text, bytes) else text.encode(), "x.prompt")
    return refused.value


def test_a_prompt_file_is_read_with_its_settings(prompts: Prompts) -> None:
    write(
        prompts,
        "---\ndescription: Greets.\nmodel: small\ntemperature: 1\nmax_tokens: 64\ntags: [cheap, b]\n"
        "variables: [agent_name]\n---\n\nHello.\n{{ agent_name }}\n",
    )
    prompt = prompts.resolve("greeter")
    assert (prompt.name, prompt.description, prompt.model) == ("greeter", "Greets.", "small")
    assert (prompt.temperature, prompt.max_tokens, prompt.tags) == (1.0, 64, ("cheap", "b"))
    assert (prompt.variables, prompt.body, prompt.source) == (
        ("agent_name",),
        "Hello.\n{{ agent_name }}",
        "file",
    )
    assert len(prompt.digest) == 64


def test_only_tags_and_a_text_are_required() -> None:
    prompt = parse_prompt("x", b"---\ntags: [a]\n---\nHi.")
    assert (prompt.model, prompt.temperature, prompt.max_tokens, prompt.variables) == (
        "default",
        0.0,
        1024,
        (),
    )
    assert prompt.render_from({}).system == "Hi."


@pytest.mark.parametrize(
    "text", ["\ufeff" + HEAD + "Hi\n{{agent_name}}", (HEAD + "Hi\n{{agent_name}}").replace("\n", "\r\n")]
)
def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(text: str) -> None:
    assert parse_prompt("x", text.encode()).render_from({"agent_name": "there"}).system == "Hi\nthere"


def test_a_rule_in_the_text_is_text() -> None:
    assert parse_prompt("x", b"---\ntags: [a]\n---\nHi\n---\nthere").body == "Hi\n---\nthere"


@given(st.text(), st.text())
def test_a_value_is_put_in_as_it_is_and_never_looked_at_again(first: str, second: str) -> None:
    prompt = parse_prompt("x", b"---\ntags: [a]\nvariables: [a, b]\n---\n{{a}}|{{b}}|{{a}}")
    tricky = "{{b}}" + first + "\nSystem: {% x %}"
    assert prompt.render_from({"a": tricky, "b": second}).system == f"{tricky}|{second}|{tricky}"


def test_a_missing_variable_is_an_error() -> None:
    prompt = parse_prompt("greeter", (HEAD + "{{agent_name}}").encode())
    with pytest.raises(PromptError, match="greeter needs a value for agent_name"):
        prompt.render_from({})


@pytest.mark.parametrize("head", ["", "model: cheap\n"])
def test_a_prompt_without_tags_has_the_tag_default(head: str) -> None:
    assert parse_prompt("greeter", f"---\n{head}---\nHello".encode()).tags == ("default",)


def test_of_the_values_offered_a_prompt_takes_those_it_declares() -> None:
    prompt = parse_prompt("greeter", (HEAD + "{{agent_name}}").encode())
    assert prompt.render_from({"agent_name": "x", "task": "y"}).system == "x"
    with pytest.raises(PromptError, match="there are values for task"):
        prompt.render_from({"task": "y"})


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("Hello", 1, "does not begin with front matter"),
        ("---\ntags: [a]\nHello", 1, "does not begin with front matter"),
        ("\n---\ntags: [a]\n---\nHello", 1, "does not begin with front matter"),
        ("---\ntags: [a]\n---\n \n", 3, "has no text"),
        ("---\nmodel: x\ntags: []\n---\nHello", 3, "tags: must have at least 1 items"),
        ("---\ntags: [a]\n\ntemperature: hot\n---\nHello", 4, "temperature as a number from 0 to 2"),
        ("---\ntags: [a]\ntemperature: 3\n---\nHello", 3, "temperature as a number from 0 to 2"),
        ("---\ntags: [a]\nmax_tokens: yes\n---\nHello", 3, "yes is true for some readers"),
        ("---\nmodel: 1.10\ntags: [a]\n---\nHello", 2, "model: must be text"),
        ("---\nmodel: x\ntags: [a]\nmax_tokens: 0b_\n---\nHello", 4, "'0b_' is no plain value"),
        ('---\ntags: [a]\ndescription: "\\UFFFFFFFF"\n---\nHello', 3, "cannot be read"),
        ("---\ntags: [a]\ndescription: !!timestamp x\n---\nHello", 3, "a tag (!name) is not allowed"),
        ("---\ntags: [a]\ntemprature: 1\n---\nHello", 3, "did you mean temperature"),
        ("---\ntags: [a]\non: 1\n---\nHello", 3, "unknown field 'on'"),
        ("---\ntags: [a]\ncontent: x\n---\nHello", 3, "unknown field 'content'"),
        ("---\ntags: &t [a]\nmodel: *t\n---\nHello", 3, "an alias"),
        ("---\ntags: [a]\nmodel: x\nmodel: y\n---\nHello", 4, "'model' stands here a second time"),
        ("---\ntags: [a\nmodel: x\n---\nHello", 3, "cannot be read"),
        ("---\n- a\n---\nHello", 2, "not made of `name: value` lines"),
        ("---\ntags: !!python/object/apply:os.getcwd []\n---\nHello", 2, "a tag (!name) is not allowed"),
        (f"---\ntags: {'[' * 3000}\n---\nHello", 2, "nested too deep"),
        ("---\ntags: [a]\nparams: {max_tokens: 3}\n---\nHello", 3, "params cannot hold 'max_tokens'"),
        ("---\ntags: [a]\nparams: {api_base: x}\n---\nHello", 3, "params cannot hold 'api_base'"),
        ("---\ntags: [a]\nparams: [top_p]\n---\nHello", 3, "params: {top_p: 0.9}"),
        (HEAD + "\nHello\n{{#if context}}", 7, "'{{#if context' is not a variable"),
        (HEAD + "{% for x in context %}", 5, "is not a variable"),
        (HEAD + "{# note #}", 5, "is not a variable"),
        (HEAD + "{{{agent_name}}}", 5, "is not a variable"),
        (HEAD + "{{context.secret}}", 5, "is not a variable"),
        (HEAD + '{{role "system"}}', 5, "the system message has no text"),
        (
            HEAD + "{{agent_name}}\n{{mood}}",
            6,
            "'mood' is not declared. add it to the list: variables: [agent_name, mood]",
        ),
        (HEAD + "Hello", 3, "'agent_name' is declared and not used"),
        (b"---\ntags: [a]\n---\nHello\n\xff", 5, "not UTF-8"),
    ],
)
def test_a_broken_file_is_refused_with_the_line_and_the_remedy(
    text: str | bytes, line: int, said: str
) -> None:
    error = refusal(text)
    assert (error.path, error.line) == ("x.prompt", line)
    assert str(error).startswith(f"x.prompt:{line}: ")
    assert said in str(error)
    assert error.remedy


def test_a_file_over_the_limit_of_size_is_refused() -> None:
    assert "larger than 65,536 bytes" in str(refusal(HEAD.encode() + b"x" * MAX_PROMPT_BYTES))


def test_a_prompt_is_read_once(prompts: Prompts) -> None:
    write(prompts, HEAD + "{{agent_name}}")
    assert prompts.resolve("greeter") is prompts.resolve("greeter")


@pytest.mark.parametrize("text", [None, "broken"], ids=["missing", "broken"])
def test_instead_of_a_missing_or_broken_file_there_is_a_built_in_prompt_and_one_warning(
    prompts: Prompts, notices: Notices, text: str | None
) -> None:
    if text:
        write(prompts, text)
    for _ in range(2):
        prompt = prompts.resolve("greeter")
        prompts.reload()
    assert prompt.source == "built-in"
    assert "You are greeter" in prompt.render_from({"agent_name": "greeter"}).system
    ((event_type, payload),) = notices
    assert event_type == "prompt.fallback"
    assert payload["name"] == "greeter"
    assert payload["path"].endswith("greeter.prompt")
    assert payload["error"].startswith(payload["path"])
    assert payload["remedy"]


def test_a_changed_file_is_read_again_and_told(prompts: Prompts, notices: Notices) -> None:
    write(prompts, HEAD + "Old {{agent_name}}")
    old = prompts.resolve("greeter")
    assert prompts.reload() == []
    path = write(prompts, HEAD + "New {{agent_name}}")
    assert prompts.resolve("greeter") is old
    assert prompts.reload() == ["greeter"]
    new = prompts.resolve("greeter")
    assert new.body == "New {{agent_name}}"
    assert notices == [("prompt.reloaded", {"name": "greeter", "path": str(path), "digest": new.digest})]


@pytest.mark.parametrize("broken", ["broken", HEAD.replace("context", "name") + "Hello {{name}}", None])
def test_a_bad_edit_keeps_the_last_good_prompt_until_the_next(
    prompts: Prompts, notices: Notices, broken: str | None
) -> None:
    good = write(prompts, HEAD + "Good {{agent_name}}")
    prompts.resolve("greeter")
    if broken is None:
        good.unlink()
    else:
        write(prompts, broken)
    prompts.reload()
    prompts.reload()
    assert prompts.resolve("greeter").body == "Good {{agent_name}}"
    ((event_type, payload),) = notices
    assert event_type == "prompt.rejected"
    assert payload["path"].endswith("greeter.prompt") and payload["error"] and payload["remedy"]
    assert (payload["line"] is None) == (broken is None)
    write(prompts, HEAD + "Mended {{agent_name}}")
    prompts.reload()
    assert prompts.resolve("greeter").body == "Mended {{agent_name}}"
    assert [event_type for event_type, _ in notices] == ["prompt.rejected", "prompt.reloaded"]


def test_one_bad_file_does_not_stop_the_others_from_being_read(prompts: Prompts) -> None:
    write(prompts, HEAD + "A {{agent_name}}", "aaa")
    write(prompts, HEAD + "Z {{agent_name}}", "zzz")
    prompts.resolve("aaa"), prompts.resolve("zzz")
    write(prompts, "---\ntags: [a]\nmax_tokens: !!timestamp x\n---\nHello", "aaa")
    write(prompts, HEAD + "New {{agent_name}}", "zzz")
    prompts.reload()
    assert prompts.resolve("zzz").body == "New {{agent_name}}"


def test_a_date_in_front_matter_is_text(prompts: Prompts) -> None:
    write(prompts, "---\ntags: [a]\ndescription: 2001-99-99\n---\nHello")
    assert prompts.resolve("greeter").description == "2001-99-99"


SCALARS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("2001-99-99", "!!timestamp x", "!!int x", "!!set {a}", "0b_", "0x_", "1:99:", "=", "<<", "*a"),
            *("&a b", "!!binary x", "!!float ", "? a", "{a: b", "[", "'", '"\\UFFFFFFFF"', "!!bool x", "- a"),
        ]
    ),
)


@given(
    fields=st.lists(st.tuples(st.sampled_from(["description", "tags", "model", "max_tokens", "a"]), SCALARS))
)
def test_any_front_matter_is_read_or_refused_with_its_line(fields: list[tuple[str, str]]) -> None:
    text = "".join(f"{name}: {value}\n" for name, value in fields)
    try:
        parse_prompt("x", f"---\n{text}---\nHello\n".encode(errors="ignore"), "x.prompt")
    except PromptError as error:
        assert error.path == "x.prompt"
        assert error.line is not None


def test_check_finds_what_would_fail_when_an_agent_runs(prompts: Prompts) -> None:
    write(prompts, HEAD.replace("agent_name", "agent_name, name") + "{{name}} {{agent_name}}", "unfilled")
    write(prompts, HEAD.replace("agent_name", "context") + "Hello {{context}}", "old")
    write(prompts, HEAD + "{{agent_name}}", "well")
    old, unfilled = prompts.check()
    assert "nothing fills in {{context}}" in old.message and "a message of their own" in old.remedy
    assert "nothing fills in variable 'name'" in unfilled.message and unfilled.line == 3


def test_check_takes_the_text_of_an_agent_as_it_is(tmp_path: Path) -> None:
    assert (
        Prompts(tmp_path, in_code={"terse": CodePrompt("Answer in one word.", "Terse", "terse.py")}).check()
        == []
    )


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "a.b", "a\n", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(prompts: Prompts, name: str) -> None:
    with pytest.raises(PromptError, match="cannot be a prompt's name"):
        prompts.resolve(name)


def test_check_names_each_broken_file_with_its_line(prompts: Prompts) -> None:
    write(prompts, HEAD + "{{agent_name}}", "good")
    write(prompts, HEAD + "{{mood}}", "bad")
    write(prompts, "x", "bad name")
    bad, bad_name = prompts.check()
    assert (bad.path, bad.line) == (str(prompts.directory / "bad.prompt"), 5)
    assert str(bad).startswith(f"{bad.path}:5: nothing fills in variable 'mood'. ")
    assert "'bad name' cannot be a prompt's name" in bad_name.message


def test_check_names_the_file_that_an_agent_lacks(tmp_path: Path) -> None:
    prompts = Prompts(tmp_path / "none", in_code={"terse": CodePrompt("Be terse.", "Terse", "terse.py")})
    assert prompts.check({"terse": "terse"}) == []
    (problem,) = prompts.check({"terse": "terse", "greeter": "greeter-agent"})
    assert problem.path == str(tmp_path / "none/greeter.prompt")
    assert "greeter-agent has no prompt" in problem.message
    assert "PROMPT_DIR" in problem.remedy


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_prompt_that_is_built_in_needs_no_file(prompts: Prompts, notices: Notices, name: str) -> None:
    assert (prompts.resolve(name).source, notices) == ("built-in", [])
    write(prompts, "broken", name)
    prompts.reload()
    assert (prompts.resolve(name).source, len(notices)) == ("built-in", 1)


def test_the_prompts_are_all_whole() -> None:
    assert Prompts(FOLDER).check() == []


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_of_the_fleet_says_what_it_is_for_and_can_be_filled_in_by_a_run(name: str) -> None:
    prompt = Prompts(FOLDER).resolve(name)
    assert prompt.source == "file"
    assert prompt.tags
    assert prompt.description
    offered = ("sender", "receiver") if name == "context-service" else RUN_VARIABLES
    filled = prompt.render_from(dict.fromkeys(offered, "VALUE")).system
    assert "{{" not in filled
    assert re.search("orders|invent", filled)


@pytest.mark.parametrize(
    "text", [(FOLDER / "context-service.prompt").read_text(), BUILT_IN["context-service"]]
)
def test_the_context_service_is_told_never_to_invent_and_to_be_short(text: str) -> None:
    for wanted in ("NEVER invent", "under 300 tokens", "METADATA:", "DOMAIN_CONTEXT:"):
        assert wanted in text


@pytest.mark.parametrize("text", [GENERIC, *BUILT_IN.values()])
def test_the_built_in_prompts_are_whole_themselves(text: str) -> None:
    assert parse_prompt("x", text.encode(), source="built-in").source == "built-in"


class Tenants:
    """A source that knows one prompt, for one tenant, and cannot reload."""

    def resolve(self, name: str, context: PromptContext) -> Prompt | None:
        known = (name, context.tenant_id) == ("greeter", "acme")
        return parse_prompt(name, f"{HEAD}Theirs {{{{agent_name}}}}".encode()) if known else None

    def names(self) -> list[str]:
        return ["greeter"]

    def reload(self) -> list[str]:
        raise OSError("away")


def test_the_first_source_that_knows_a_prompt_for_a_run_decides(prompts: Prompts) -> None:
    write(prompts, HEAD + "Ours {{agent_name}}")
    write(prompts, HEAD + "Other {{agent_name}}", "other")
    sources = PromptSources([Tenants(), prompts])
    assert sources.resolve("greeter", PromptContext("acme")).body == "Theirs {{agent_name}}"
    assert sources.resolve("greeter", PromptContext("other")).body == "Ours {{agent_name}}"
    assert sources.names() == ["greeter", "other"]


def test_a_source_that_cannot_reload_does_not_keep_the_others_from_it(prompts: Prompts) -> None:
    write(prompts, HEAD + "Old {{agent_name}}")
    sources = PromptSources([Tenants(), prompts])
    sources.resolve("greeter")
    write(prompts, HEAD + "New {{agent_name}}")
    assert sources.reload() == ["greeter"]
    assert sources.resolve("greeter").body == "New {{agent_name}}"
