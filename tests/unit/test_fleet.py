"""The fleet: agents are found in their files, and what is wrong with one is said with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.errors import ConfigError
from meshwright.fleet import PACKAGED, load_agents, project_file
from meshwright.testing import ScriptedModel, mesh_for

GREETER = """\
from meshwright import Agent, Capability


class Greeter(Agent):
    '''Greets.'''

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def refusal(folder: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_agents(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_agent_of_every_file_is_found(tmp_path: Path) -> None:
    second = GREETER.replace("Greeter", "Waver").replace('"greeter"', '"waver"')
    third = second.replace("Waver", "Bower").replace('"waver"', '"bower"')
    write(tmp_path, b=GREETER, a=second + third.partition("\n\n")[2])
    assert [agent.agent_id for agent in load_agents(tmp_path)] == ["waver", "bower", "greeter"]


def test_agents_come_in_the_order_of_their_files(tmp_path: Path) -> None:
    names = list("fbdaechg")
    write(tmp_path, **{name: GREETER.replace('"greeter"', f'"{name}"') for name in names})
    assert [agent.agent_id for agent in load_agents(tmp_path)] == sorted(names)


def test_what_is_imported_or_hidden_or_no_python_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, greeter=GREETER, _draft="raise SystemExit", other="from meshwright import Agent\n")
    (tmp_path / "notes.txt").write_text("not Python")
    assert [agent.agent_id for agent in load_agents(tmp_path)] == ["greeter"]


async def test_a_loaded_agent_works(tmp_path: Path) -> None:
    [greeter] = load_agents(write(tmp_path, greeter=GREETER))
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "greeter.prompt").write_text("---\ntags: [a]\n---\nYou greet.\n")
    async with mesh_for(greeter, model=ScriptedModel("Hello!"), prompt_dir=prompts) as mesh:
        assert (await mesh.ask("greeter", "Greet me.")).text == "Hello!"


def test_two_folders_may_have_files_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = load_agents(write(tmp_path / "one", agent=GREETER))
    two = load_agents(write(tmp_path / "two", agent=GREETER.replace("Greets.", "Greets differently.")))
    assert [agent.__doc__ for agent in (*one, *two)] == ["Greets.", "Greets differently."]


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("x = 1\ndef broken(:\n", 2, "SyntaxError"),
        ("x = 1\n\nimport no_such_module\n", 3, "No module named 'no_such_module'"),
        ("x = 1\nx.y\n", 2, "AttributeError"),
        ("def fail():\n    raise ValueError('out of order')\n\nfail()\n", 2, "ValueError: out of order"),
        ("import sys\nsys.exit('good bye')\n", 2, "SystemExit: good bye"),
        ("x = 1\nx = '\\udc00'.encode()\n", 2, "UnicodeEncodeError"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, complaint: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    error = refusal(tmp_path)
    assert (error.path, error.line) == (str(path), line)
    assert complaint in str(error)
    assert "Fix the file" in error.remedy


@pytest.mark.parametrize(
    ("without", "complaint", "field"),
    [
        ('    agent_id = "greeter"\n', "agent class Greeter has the agent_id ''", "agent_id"),
        ('    capabilities = (Capability("greeting"),)\n', "declares no capabilities", "capabilities"),
    ],
)
def test_an_agent_that_lacks_something_is_told_with_its_line(
    tmp_path: Path, without: str, complaint: str, field: str
) -> None:
    error = refusal(write(tmp_path, greeter=GREETER.replace(without, "")))
    assert str(error).startswith(f"{tmp_path / 'greeter.py'}:4: ")
    assert complaint in str(error)
    assert (error.field, error.line) == (field, 4)
    assert error.remedy


def test_an_id_that_is_no_id_is_refused(tmp_path: Path) -> None:
    error = refusal(write(tmp_path, greeter=GREETER.replace('"greeter"', '"../greeter"')))
    assert "has the agent_id '../greeter'" in str(error)
    assert error.line == 4


def test_a_wrong_tool_is_told_with_its_own_line(tmp_path: Path) -> None:
    tool = "\n    @tool\n    def wave(self) -> str:\n        return 'waved'\n"
    text = GREETER.replace("Capability\n", "Capability, tool\n") + tool
    error = refusal(write(tmp_path, greeter=text))
    assert (error.path, error.line) == (str(tmp_path / "greeter.py"), 10)
    assert str(error).startswith(f"{error.path}:10: tool 'wave' has no docstring")


def test_two_agents_of_one_id_are_told_with_both_places(tmp_path: Path) -> None:
    write(tmp_path, a=GREETER, b="# another one\n" + GREETER.replace("Greeter", "Other"))
    error = refusal(tmp_path)
    assert str(error).startswith(f"{tmp_path / 'b.py'}:5: two agents are called 'greeter'")
    assert f"{tmp_path / 'a.py'}:4" in error.remedy


def test_two_agents_of_one_id_in_one_file_are_told(tmp_path: Path) -> None:
    write(tmp_path, a=GREETER + "\n\nclass Twin(Greeter):\n    '''Greets too.'''\n")
    error = refusal(tmp_path)
    assert (error.line, error.field) == (11, "agent_id")


def test_a_missing_folder_is_told_with_what_to_do(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(error)
    assert "actors_dir" in error.remedy


def test_an_empty_folder_has_no_agents(tmp_path: Path) -> None:
    assert load_agents(tmp_path) == []


def test_what_a_project_lacks_comes_with_meshwright(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    assert project_file(tmp_path, Path("prompts")) == tmp_path / "prompts"
    found = project_file(tmp_path, Path("actors"))
    assert (found / "simple_agent.py").exists()
    assert found in (PACKAGED / "actors", Path(__file__).parents[2] / "actors")
    assert project_file(tmp_path, Path("nothing")) == tmp_path / "nothing"
    assert project_file(tmp_path, Path("/nowhere/actors")) == Path("/nowhere/actors")
