"""`mesh prompts import`: prompt files made of those of dotprompt, LiteLLM and Prompty."""

import json
from pathlib import Path

import pytest

from meshwright.agents.prompts import Prompts, parse_prompt
from meshwright.agents.prompts.foreign_prompts import ForeignPrompt, convert_prompt
from meshwright.core.errors import PromptError
from meshwright.core.ids import RUN_VARIABLES
from tests.support.running_mesh import run

GENKIT = """\
# Licence: public domain

---
model: vertexai/gemini-9-flash
config:
  temperature: 0.3
  maxOutputTokens: 77
  topK: 5
  stopSequences: [END]
  safetySettings: {level: low}
input:
  schema:
    town: string, where it is
    days?: integer
  default: {days: 3}
output:
  format: json
tools: [forecast]
---
{{! for the team }}
You know the weather.
{{~role "user"}}
Weather in {{ town }} for {{{days}}} days?
{{role "model"}}
Rain in C:\\\\{{town}}, as \\{{ever}}.
{{history}}
{{role "user"}}
User: and {{townName}}{{media url=map}}? {% so %}
"""
LITELLM = """\
---
model: gpt-9
temperature: 0.5
top_p: 0.9
response_format: {type: text}
input:
  schema: {topic: string}
---
System: You write limericks. {# house style #}
  Never about {% raw %}{{cats}}{% endraw %}.
User: About a dog
Assistant: There was a young dog
User: About {{- topic -}}
!
"""
PROMPTY_1 = """\
---
name: Tutor
authors: [Somebody]
tags: [school]
model:
  api: chat
  configuration:
    type: azure_openai
    azure_deployment: big
    azure_endpoint: ${env:ENDPOINT}
  parameters: {max_tokens: 55, seed: 7, tools: []}
inputs:
  firstName: {type: string, default: Ada}
  topic: {type: string}
sample: {topic: sums}
---
# system:
You teach {{topic}}.
![a figure](figure.png)

user[name="pupil"]:
I am {{firstName}}. {{ "{{" }}
"""
PROMPTY_2 = """\
---
kind: prompt
model:
  id: small
  provider: openai
  connection: {kind: key}
  options: {temperature: 1, topP: 0.5}
inputs:
  - name: question
    kind: string
  - name: conversation
    kind: thread
template: {format: {kind: mustache}, parser: prompty}
---
system:
You answer.
{{conversation}}
user:
{{&question}}
"""


def convert(text: str, file: str = "clerk.prompt", **options: object) -> ForeignPrompt:
    format = options.get("format")
    return convert_prompt(Path(file), text.encode(), "clerk", format, RUN_VARIABLES)  # type: ignore[arg-type]


def messages(imported: ForeignPrompt) -> list[tuple[str, str]]:
    prompt = parse_prompt("clerk", imported.text.encode(), offered=RUN_VARIABLES)
    return [(section.role, section.text) for section in prompt.sections]


def faults(errors: object) -> list[tuple[int | None, str]]:
    return [(error.line, error.message.partition(": ")[2]) for error in errors]  # type: ignore[attr-defined]


def test_a_file_of_dotprompt_becomes_messages_with_its_settings() -> None:
    imported = convert(GENKIT, format="dotprompt")
    assert (imported.tool, imported.problems) == ("dotprompt", [])
    prompt = parse_prompt("clerk", imported.text.encode(), offered=RUN_VARIABLES)
    assert (prompt.model, prompt.temperature, prompt.max_tokens) == ("vertex_ai/gemini-9-flash", 0.3, 77)
    assert prompt.params == {"top_k": 5, "stop": ["END"]}
    assert prompt.inputs == ("town", "days", "town_name")
    assert messages(imported) == [
        ("user", "You know the weather."),
        ("user", "Weather in {{town}} for {{days}} days?"),
        ("assistant", "Rain in C:\\{{town}}, as {{ever}}."),
        ("user", "User: and {{town_name}}? {% so %}"),
    ]
    assert faults(imported.left_out) == [
        (10, "the field config.safetySettings"),
        (14, "the type of days, integer"),
        (14, "days may be missing there"),
        (15, "the default of days"),
        (16, "the field output"),
        (18, "the field tools"),
        (28, "{{media url=map}}"),
    ]
    assert faults(imported.changes) == [
        (4, "the model vertexai/gemini-9-flash is vertex_ai/gemini-9-flash here"),
        (26, "{{history}} is left out"),
        (28, "{{townName}} is {{town_name}} here"),
    ]
    assert all(error.remedy for error in (*imported.left_out, *imported.changes))


def test_a_file_of_litellm_becomes_messages_with_its_settings() -> None:
    imported = convert(LITELLM)
    assert (imported.tool, imported.problems) == ("LiteLLM", [])
    assert messages(imported) == [
        ("system", "You write limericks. \n  Never about {{cats}}."),
        ("user", "About a dog"),
        ("assistant", "There was a young dog"),
        ("user", "About{{topic}}!"),
    ]
    prompt = parse_prompt("clerk", imported.text.encode())
    assert (prompt.model, prompt.temperature, prompt.params) == ("gpt-9", 0.5, {"top_p": 0.9})
    assert faults(imported.left_out) == [(5, "the field response_format")]
    assert faults(imported.changes) == [(1, "max_tokens is 1024 here, if it is not set")]


def test_a_file_of_prompty_becomes_messages_with_its_settings() -> None:
    imported = convert(PROMPTY_1, "tutor.prompty")
    assert (imported.tool, imported.problems) == ("Prompty", [])
    assert messages(imported) == [
        ("system", "You teach {{topic}}.\n![a figure](figure.png)"),
        ("user", "I am {{first_name}}. {{"),
    ]
    prompt = parse_prompt("clerk", imported.text.encode())
    assert (prompt.model, prompt.max_tokens, prompt.params) == ("azure/big", 55, {"seed": 7})
    assert prompt.tags == ("default",)
    assert faults(imported.left_out) == [
        (3, "the field authors"),
        (4, "the field tags"),
        (10, "the field model.configuration.azure_endpoint"),
        (11, "the field model.parameters.tools"),
        (13, "the default of firstName"),
        (15, "the field sample"),
        (21, '[name="pupil"] of a role'),
        (19, "![a figure](figure.png) is text here, no picture"),
    ]
    second = convert(PROMPTY_2)
    assert (second.tool, second.left_out[0].line) == ("Prompty", 6)
    assert messages(second) == [("system", "You answer."), ("user", "{{question}}")]
    prompt = parse_prompt("clerk", second.text.encode())
    assert (prompt.model, prompt.temperature, prompt.params) == ("openai/small", 1.0, {"top_p": 0.5})


@pytest.mark.parametrize(
    ("text", "file", "format", "expected"),
    [
        ("Just a text.", "a.prompt", None, [("user", "Just a text.")]),
        ("Just a text.", "a.prompty", None, [("system", "Just a text.")]),
        ("---\n---\nBe {{tone}}.", "a.prompt", None, [("user", "Be {{tone}}.")]),
        ("---\n---\nSystem: Be kind", "a.prompt", None, [("system", "Be kind")]),
        ("---\n---\nsystem:\nBe kind", "a.prompt", None, [("system", "Be kind")]),
        ("---\n---\ndeveloper:\nBe kind\nsystem:\nToo", "a.prompty", None, [("system", "Be kind\n\nToo")]),
        ('---\n---\nHi{{role "model"}}\nYo', "a.prompt", None, [("user", "Hi"), ("assistant", "Yo")]),
        ("---\n---\nHi", "a.prompt", "litellm", [("user", "Hi")]),
        ("---\n---\nC:\\{{x}} {{y | upper", "a.prompt", "dotprompt", None),
        ("---\n---\nC:\\{{x}}", "a.prompt", "litellm", [("user", "C:\\{{x}}")]),
        ("---\n---\nHi {{history}} Yo", "a.prompt", None, [("user", "Hi"), ("assistant", "Yo")]),
        ("---\n---\n\\{{x}}", "a.prompt", "dotprompt", [("user", "{{x}}")]),
        (
            "---\n---\n{{task}} {{agent_name}}",
            "a.prompt",
            None,
            [("user", "{{input_task}} {{input_agent_name}}")],
        ),
        ("---\n---\n{{'{%'}} and {{#x", "a.prompt", "litellm", None),
        ("---\n---\n {{~name~}} !", "a.prompt", "dotprompt", [("user", "{{name}}!")]),
        ("---\n---\n{{! a }}\n{{!-- {{b}} --}}\nHi", "a.prompt", None, [("user", "Hi")]),
        ("---\n---\n{# a #}\nHi {{ x }}", "a.prompt", None, [("user", "Hi {{x}}")]),
        ("---\n---\n{{ x }}User: hi", "a.prompt", None, [("user", "{{x}}User: hi")]),
        ("---\n---\n\\{{{{x}}}}", "a.prompt", "dotprompt", None),
        ("---\r\n---\r\nuser:\r\nHi", "a.prompty", None, [("user", "Hi")]),
    ],
)
def test_a_text_means_the_same(
    text: str, file: str, format: str, expected: list[tuple[str, str]] | None
) -> None:
    imported = convert(text, file, format=format)
    if expected is None:
        assert imported.problems and not imported.text
    else:
        assert messages(imported) == expected


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("---\n---\nHi\n{{#if x}}a{{else}}b{{/if}}", 4, "{{#if x}} has no counterpart"),
        ("---\n---\n{{#each xs}}\n{{this}}{{/each}}", 3, "{{#each xs}} has no counterpart"),
        ("---\n---\nHi {{>tone}}", 3, "no prompt brings in another"),
        ("---\n---\nHi {{json x}}", 3, "{{json x}} has no counterpart"),
        ("---\n---\nHi {{@auth.mail}}", 3, "{{@auth.mail}} has no counterpart"),
        ("---\n---\nHi {% for x in xs %}", 3, "there are no blocks"),
        ("---\n---\nHi {{ x | title }}", 3, "has no counterpart"),
        ("---\n---\nHi {{ x", 3, "'{{ x' does not end"),
        ("---\n---\n{% raw %} x", 3, "endraw"),
        ("---\n---\nUser: Hi\n{# a #}Assistant: Yo", 3, "'Assistant:' begins a message there"),
        ('---\n---\n{{role "user"}}Hi{{role "system"}}Be kind', 3, "a system message stands behind others"),
        ('---\n---\n{{role "tool"}}Hi', 3, "there is no role 'tool' here"),
        ("---\n---\n{{userName}}{{user_name}}", 3, "two inputs that are user_name"),
        ("---\n---\n{ {{~x}} }", 3, "a brace stands right before {{x}}"),
        ("---\n---\n{{! only a comment }}", 2, "the prompt has no text"),
    ],
)
def test_a_text_without_a_counterpart_is_not_written(text: str, line: int, said: str) -> None:
    imported = convert(text)
    assert imported.text == ""
    assert any(said in str(error) and error.line == line and error.remedy for error in imported.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\ndescription: x\n---\nHello", "this is a prompt file of Meshwright. copy it as it is"),
        (
            "---\n---\n{{#if x}}\nSystem: Be kind",
            "signs of LiteLLM and dotprompt. say which it is: --from dotprompt",
        ),
        ("+++\nmodel = 1\n+++\nHello", ":1: its front matter does not end, or is not YAML"),
        ("---\nmodel: x\nHello", ":1: its front matter does not end"),
        ("name: x\ntemplate: y\n", ":1: this is YAML without a text below it"),
        ("---\nconfig: {a: 1\n---\nHello", "the front matter cannot be read"),
        ("---\nconfig: {temperature: 010}\n---\nHello", ":2: the front matter cannot be read: 010 is octal"),
        ("---\nconfig: " + "[" * 90_000, "larger than 65,536 bytes"),
        (
            "---\nconfig: " + "[" * 9_000 + "\n---\nHello",
            ":2: the front matter cannot be read: it is nested too",
        ),
        ("---\nparams: {api_base: x}\n---\nSystem: x", "params cannot hold 'api_base'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(PromptError) as refused:
        convert(text)
    assert said in str(refused.value) and refused.value.remedy


def test_the_command_writes_a_file_that_the_check_takes_and_replaces_none(tmp_path: Path) -> None:
    source = tmp_path / "Old.prompty"
    source.write_text(PROMPTY_1)
    target = tmp_path / "prompts/tutor.prompt"
    done = run("prompts", "import", "Old.prompty", "--name", "tutor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "left out: Old.prompty:3: the field authors. " in done.stdout
    assert "changed: Old.prompty:22: {{firstName}} is {{first_name}} here. " in done.stdout
    assert done.stdout.endswith("prompts/tutor.prompt is made of Old.prompty (Prompty).\n")
    assert Prompts(target.parent).check() == []
    before = target.read_text()
    target.write_text("mine")
    again = run("prompts", "import", "Old.prompty", "--name", "tutor", cwd=tmp_path)
    assert again.returncode == 1 and "tutor.prompt: there is such a file; --force" in again.stderr
    assert target.read_text() == "mine"
    run("prompts", "import", "Old.prompty", "--name", "tutor", "--force", cwd=tmp_path)
    assert target.read_text() == before


def test_the_command_ends_well_only_if_nothing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.prompt").write_text("---\nmodel: default\n---\nSystem: Be kind\nUser: {{q}}")
    done = run("prompts", "import", "a.prompt", "--json", cwd=tmp_path)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["path"], report["from"]) == ("prompts/a.prompt", "LiteLLM")
    assert {note["kind"] for note in report["notes"]} == {"changed"}
    (tmp_path / "prompts/a.prompty").write_text("Hi")
    checked = run("prompts", "check", cwd=tmp_path)
    assert "prompts/a.prompty: this file is not read. a.prompt is read in its place" in checked.stdout
    (tmp_path / "b.prompt").write_text("---\n---\n{% if x %}Be kind{% endif %}")
    done = run("prompts", "import", "b.prompt", cwd=tmp_path)
    assert done.returncode == 1
    assert "problem: b.prompt:3: {% if x %} has no counterpart. " in done.stdout
    assert done.stdout.endswith("Nothing was written: b.prompt (LiteLLM) has what no prompt file can say.\n")
    assert not (tmp_path / "prompts/b.prompt").exists()
    (tmp_path / "c.d.prompt").write_text("---\n---\nSystem: Hi")
    done = run("prompts", "import", "c.d.prompt", cwd=tmp_path)
    assert done.returncode == 1 and "'c.d' cannot be a prompt's name; name it by --name" in done.stderr
