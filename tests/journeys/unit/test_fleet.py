"""The fleet: agents are found in their files, and what is wrong with one is said with file and line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.agents.loader import PACKAGED, load_agents, project_file, prompts_folder
from meshwright.core.errors import ConfigError
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.settings import Settings

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


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


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


def test_what_is_hidden_or_no_python_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, greeter=GREETER, _draft="raise SystemExit")
    (tmp_path / "notes.txt").write_text("not Python")
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    assert [agent.agent_id for agent in load_agents(tmp_path)] == ["greeter"]


async def test_a_loaded_agent_works(tmp_path: Path) -> None:
    [greeter] = load_agents(write(tmp_path, greeter=GREETER))
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "greeter.prompt").write_text("---\ntags: [a]\n---\nYou greet.\n")
    async with mesh_for(greeter, model=ScriptedModel("Hello!"), prompts={"dir": prompts}) as mesh:
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
    assert "agents.dir" in error.remedy


def test_an_empty_folder_has_no_agents(tmp_path: Path) -> None:
    assert load_agents(tmp_path) == []


def test_what_a_project_lacks_comes_with_meshwright(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    assert project_file(tmp_path, Path("prompts")) == tmp_path / "prompts"
    found = project_file(tmp_path, Path("actors"))
    assert (found / "simple_agent.py").exists()
    assert found in (PACKAGED / "actors", Path(__file__).parents[3] / "actors")
    assert project_file(tmp_path, Path("nothing")) == tmp_path / "nothing"
    assert project_file(tmp_path, Path("/nowhere/actors")) == Path("/nowhere/actors")


def test_a_project_with_agents_has_its_own_folder_of_prompts(tmp_path: Path) -> None:
    settings = Settings()
    packaged = prompts_folder(tmp_path, settings)
    assert (packaged / "simple-agent.prompt").exists()
    (tmp_path / "actors").mkdir()
    assert prompts_folder(tmp_path, settings) == tmp_path / "prompts"


def greeter(imports: str) -> str:
    """An agent that needs `GREETING`, from what it imports."""
    return f"{imports}\n{GREETER}\n    greeting = GREETING\n"


@pytest.mark.parametrize(
    "imports",
    [
        "from fleet_one import GREETING",
        "from ._fleet_two import GREETING",
        "from .fleet_three import GREETING",
        "from fleet_four.words import GREETING",
        "from .fleet_five.words import GREETING",
    ],
)
def test_agents_import_the_modules_of_their_project(tmp_path: Path, imports: str) -> None:
    actors = tmp_path / "actors"
    name = imports.split()[1].lstrip(".").partition(".")[0]
    home = tmp_path if name == "fleet_four" else actors
    path = home / (f"{name}/words.py" if imports.count("words") else f"{name}.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("GREETING = 'Hello'\n")
    actors.mkdir(exist_ok=True)
    write(actors, greeter=greeter(imports))
    [agent] = load_agents(actors, tmp_path)
    assert vars(agent)["greeting"] == "Hello"


def test_each_folder_has_relative_imports_of_its_own(tmp_path: Path) -> None:
    greetings = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, greeter=greeter("from ._words import GREETING"), _words=f"GREETING = {name!r}")
        greetings += [vars(agent)["greeting"] for agent in load_agents(folder)]
    assert greetings == ["one", "two"]


def test_a_file_may_offer_agents_of_a_library(tmp_path: Path) -> None:
    actors = tmp_path / "actors"
    actors.mkdir()
    write(tmp_path, fleet_library=GREETER)
    write(actors, greeter="from fleet_library import Greeter\n", other="from fleet_library import Greeter\n")
    assert [agent.agent_id for agent in load_agents(actors, tmp_path)] == ["greeter"]


def test_an_agent_imported_by_another_file_is_found_once(tmp_path: Path) -> None:
    uses = "from fleet_first import Greeter\n" + GREETER.replace("Greeter", "Other").replace(
        '"greeter"', '"other"'
    )
    write(tmp_path, fleet_first=GREETER, second=uses)
    assert [agent.agent_id for agent in load_agents(tmp_path)] == ["greeter", "other"]


def test_a_package_offers_the_agents_that_it_imports(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", __init__="from .greeter import Greeter\n", greeter=GREETER)
    assert [agent.agent_id for agent in load_agents(tmp_path)] == ["greeter"]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("empty.py", "there is no agent here, and no agent imports it"),
        ("sub/__init__.py", "there is no agent here, and no agent imports it"),
        ("sub/hidden.py", "no __init__.py, and no agent imports it"),
    ],
)
def test_nothing_in_the_folder_is_passed_over_in_silence(tmp_path: Path, path: str, complaint: str) -> None:
    write(tmp_path, greeter=GREETER)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("from meshwright import Agent\n")
    error = refusal(tmp_path)
    assert error.path == str(tmp_path / path.partition("/")[0])
    assert complaint in str(error)
    assert "underscore" in error.remedy


def test_a_fault_in_a_helper_is_told_with_the_helpers_line(tmp_path: Path) -> None:
    write(tmp_path, greeter=greeter("from .fleet_faulty import GREETING"), fleet_faulty="x = 1\nx.y\n")
    error = refusal(tmp_path)
    assert (error.path, error.line) == (str(tmp_path / "fleet_faulty.py"), 2)
    write(tmp_path, fleet_faulty="x = 1\n\ndef (:\n")
    error = refusal(tmp_path)
    assert (error.path, error.line) == (str(tmp_path / "fleet_faulty.py"), 3)


@pytest.mark.parametrize(
    ("line", "complaint", "remedy"),
    [
        ("toolset = ()", "has an attribute 'toolset'", "Did you mean 'toolsets'?"),
        ("delegate_to = ('greeter',)", "has an attribute 'delegate_to'", "Did you mean 'delegates_to'?"),
        ("health_check_url = ''", "has an attribute 'health_check_url'", "Did you mean 'health_check_urls'?"),
        ("delegates_to = ('grieter',)", "delegates to 'grieter'", "Did you mean 'greeter'?"),
        ("delegates_to = ('somebody-else',)", "delegates to 'somebody-else'", "There are greeter"),
        ("delegates_to = ('greeter')", "has delegates_to that are no list: 'greeter'", "comma"),
        ("toolsets = (str,)", "<class 'str'> among its toolsets", "Name the class"),
        ("capabilities = ('greeting',)", "'greeting' among its capabilities", "Capability(...)"),
        ("capabilities = 'greeting'", "has capabilities that are no list", "comma"),
        ("capabilities = (Capability('greeting'))", "has capabilities that are no list", "comma"),
        ("capabilities = [Capability('a'), Capability('a')]", "has the capability 'a' twice", "Take one"),
        ("def __init__(self, db): ...", "has an __init__ that needs db", "Toolset"),
    ],
)
def test_a_slip_in_an_agents_class_is_told_with_its_line(
    tmp_path: Path, line: str, complaint: str, remedy: str
) -> None:
    error = refusal(write(tmp_path, greeter=f"{GREETER}    {line}\n"))
    assert str(error).startswith(f"{tmp_path / 'greeter.py'}:4: agent greeter ")
    assert complaint in str(error)
    assert remedy in error.remedy


def test_attributes_of_an_agents_own_are_left_alone(tmp_path: Path) -> None:
    own = "    most_pages = 3\n    model_names = ('a',)\n    @property\n    def toolset(self): ...\n"
    assert load_agents(write(tmp_path, greeter=GREETER + own))


PROJECT = {
    "mylib/__init__.py": "GREETING = 'Hello'\n",
    "actors/words.py": "from mylib import GREETING\n",
    "actors/greeter.py": greeter("from words import GREETING"),
    "tests/test_greeter.py": "from greeter import Greeter\nfrom mylib import GREETING\n"
    "from meshwright.agents.loader import BoundAgents\n\n"
    "async def test_greeting(mesh):\n    assert list(mesh.mesh.get(BoundAgents)) == ['greeter']\n"
    "    assert Greeter.greeting == GREETING\n",
    "pytest.toml": '[pytest]\nanyio_mode = "auto"\n',
}


@pytest.mark.far("it starts a mesh and a pytest")
@pytest.mark.parametrize("command", ["mesh agents --json", "pytest -q -p no:cacheprovider tests"])
def test_a_projects_own_modules_import_in_mesh_and_in_pytest(tmp_path: Path, command: str) -> None:
    for path, text in PROJECT.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    program, *arguments = command.split()
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "greeter" in done.stdout or "1 passed" in done.stdout


def test_an_agent_delegates_to_ids_and_capabilities_that_are_there(tmp_path: Path) -> None:
    asking = GREETER.replace("Greeter", "Asker").replace('"greeter"', '"asker"').replace("greeting", "asking")
    write(tmp_path, greeter=GREETER, asker=asking + '    delegates_to = ("greeting", "greeter")\n')
    assert {agent.agent_id for agent in load_agents(tmp_path)} == {"greeter", "asker"}
    write(tmp_path, asker=asking + '    delegates_to = ("greeting", "waving")\n')
    assert "'waving', no agent or capability here" in str(refusal(tmp_path))
