"""Extensions of installed packages: found by entry points, and refused with the package's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.agents.loader import bind_agents, installed_agents, load_agents
from meshwright.agents.toolsets import Toolsets, unusable
from meshwright.core.errors import ConfigError
from meshwright.core.settings import Settings, load_settings
from meshwright.edges.channels.component import Channels
from meshwright.mesh.app import build_mesh, component_types
from meshwright.tools import ToolSettings

ACTORS = """\
from meshwright import Agent, Capability
from meshwright.component import Component


class {name}(Agent):
    agent_id = "{id}"
    capabilities = (Capability("any"),)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def install(site: Path, package: str, group: str, name: str, value: str, module: str = "") -> None:
    """Put a package there that registers something."""
    info = site / f"{package}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    with (info / "entry_points.txt").open("a") as entries:
        entries.write(f"[meshwright.{group}]\n{name} = {value}\n")
    if module:
        (site / f"{value.partition(':')[0]}.py").write_text(module)


def test_agents_of_a_module_and_of_a_list_are_found(site: Path) -> None:
    install(site, "one", "agents", "one", "plugin_one", ACTORS.format(name="One", id="one"))
    many = ACTORS.format(name="Two", id="two") + "\n\nAGENTS = [Two]\n"
    install(site, "two", "agents", "two", "plugin_two:AGENTS", many)
    assert [agent.agent_id for agent in installed_agents()] == ["one", "two"]


def test_what_is_registered_as_an_agent_and_is_none_is_refused(site: Path) -> None:
    install(site, "empty-agents", "agents", "empty", "plugin_empty", "x = 1\n")
    with pytest.raises(ConfigError, match="empty-agents registers plugin_empty as an agent, and it is none"):
        installed_agents()


def test_a_package_that_cannot_be_imported_is_named(site: Path) -> None:
    install(site, "broken-pager", "components", "broken", "plugin_broken:Pager", "import no_such_module\n")
    with pytest.raises(ConfigError, match=r"of broken-pager cannot be loaded: ModuleNotFoundError: No mod"):
        load_settings(site)


def test_one_name_brought_by_two_packages_names_both(site: Path) -> None:
    install(site, "first", "components", "pager", "plugin_pager:Pager", "Pager = 1\n")
    install(site, "second", "components", "pager", "plugin_pager:Pager")
    with pytest.raises(ConfigError, match=r"'pager' is brought by (first and by second|second and by first)"):
        component_types(Settings())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("Pager = 1", "registers plugin_odd:Pager as a part of a mesh, and it is none"),
        ("Pager = Part(__name__, 'models')", "which is taken"),
        ("Pager = Part(__name__, 'A b')", "has the name 'A b'"),
        ("Pager = Part(__name__, 'pager', component=Part)", "is no Component of that name"),
    ],
)
def test_an_odd_component_is_refused(site: Path, body: str, said: str) -> None:
    sys.modules.pop("plugin_odd", None)
    install(site, "odd", "components", "odd", "plugin_odd:Pager", f"from meshwright import Part\n{body}\n")
    with pytest.raises(ConfigError, match=said):
        component_types(Settings())


def test_a_part_may_not_declare_one_of_our_events(site: Path) -> None:
    body = """
from meshwright.component import Component, Fact, Part, Payload
class ToolCalled(Payload, type="tool.called"):
    result: Fact[str]
class Pager(Component):
    name = 'nosy'
PART = Part(__name__, 'nosy', component=Pager, events=(ToolCalled,))
"""
    install(site, "nosy", "components", "nosy", "plugin_nosy:PART", body)
    with pytest.raises(ConfigError, match=r"Parts contents and nosy both declare the event tool\.called"):
        build_mesh(load_settings(site, store="memory"))


def test_words_and_resources_of_our_parts_import_no_component() -> None:
    script = """
import sys
from meshwright.core.parts import event_types, resource

assert event_types() and resource("schedules")
heavy = ("meshwright.mesh.mesh", "meshwright.agents.run.run", "meshwright.engine.work")
heavy += ("meshwright.core.settings", "fastapi")
public = "meshwright.component"  # names for parts, each imported as it is asked for
print([name for name in sys.modules if name in heavy or name.endswith(".component") and name != public])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_table_of_a_component_may_not_be_one_of_ours(site: Path) -> None:
    body = "from meshwright import Part\nfrom pydantic import BaseModel\n"
    body += "PART = Part(__name__, 'store', settings=BaseModel)\n"
    install(site, "greedy", "components", "greedy", "plugin_greedy:PART", body)
    with pytest.raises(ConfigError, match=r"plugin_greedy has the name 'store', which is taken"):
        load_settings(site)


def test_a_setting_of_a_component_that_has_no_default_is_asked_for(site: Path) -> None:
    body = (
        "from meshwright import Part\nfrom pydantic import BaseModel\nclass Table(BaseModel):\n    url: str\n"
        "PART = Part(__name__, 'needy', settings=Table)\n"
    )
    install(site, "needy", "components", "needy", "plugin_needy:PART", body)
    with pytest.raises(ConfigError, match=r"needy\.url: is missing"):
        load_settings(site)
    (site / "mesh.toml").write_text("[needy]\nurl = 'http://there'\n")
    assert getattr(load_settings(site), "needy").url == "http://there"  # noqa: B009


def test_an_agent_that_names_a_toolset_of_no_package_is_told(tmp_path: Path) -> None:
    text = ACTORS.format(name="Pages", id="pages") + '    toolsets = ("pager",)\n'
    (tmp_path / "pages.py").write_text(text)
    [agent] = load_agents(tmp_path)
    with pytest.raises(ConfigError, match="toolset 'pager', which no installed package brings"):
        bind_agents([agent], Toolsets(ToolSettings()))


def test_a_table_for_a_toolset_that_nobody_has_is_named() -> None:
    found = unusable(ToolSettings(tables={"pager": {}}), [])
    assert "[tools.pager]: no toolset has that name" in str(found["tools.pager"])


def test_a_mesh_says_which_component_would_provide_what_it_lacks(tmp_path: Path) -> None:
    mesh = build_mesh(Settings(), project=tmp_path, agents=[])
    with pytest.raises(LookupError, match="has no Channels: the component channels of its package"):
        mesh.get(Channels)
    with pytest.raises(LookupError, match=r"has no Path$"):
        mesh.get(Path)
    assert mesh.provide(tmp_path, Path) is mesh.get(Path)
    with pytest.raises(ValueError, match="has a Path already"):
        mesh.provide(tmp_path / "other", Path)


def test_a_part_is_imported_where_a_setting_that_it_needs_is_set(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from meshwright.mesh.app import build_mesh;"
        "from meshwright.core.settings import load_settings;"
        "build_mesh(load_settings(Path(), webhooks=eval(sys.argv[1])), project=Path(), agents=[]);"
        "print(*(f'meshwright.edges.{name}.component' in sys.modules for name in ('channels', 'webhooks')))"
    )
    for webhooks, imported in (("{}", "False False"), ("{'notify': True}", "False True")):
        command = [sys.executable, "-c", code, webhooks]
        assert (
            subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip() == imported
        )


def test_an_unknown_store_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no store 'sqlit'"):
        build_mesh(Settings(store="sqlit"), project=tmp_path, agents=[])


def test_an_agent_imported_beside_others_is_warned_of(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "elsewhere.py").write_text(ACTORS.format(name="Afar", id="afar"))
    actors = tmp_path / "actors"
    actors.mkdir()
    (actors / "mine.py").write_text(f"from elsewhere import Afar\n{ACTORS.format(name='Mine', id='mine')}")
    assert [agent.agent_id for agent in load_agents(actors)] == ["mine"]
    assert "mine.py: Afar is imported and not loaded" in caplog.text


def test_an_unknown_setting_of_a_package_names_its_line(site: Path) -> None:
    body = "from pydantic import BaseModel\nfrom meshwright import Part\n"
    body += "class Ping(BaseModel):\n    url: str = ''\nPART = Part(__name__, 'ping', settings=Ping)\n"
    install(site, "meshwright-ping", "components", "ping", "plugin_ping:PART", body)
    (site / "mesh.toml").write_text("[ping]\nurll = 'x'\n")
    with pytest.raises(ConfigError, match=r"mesh\.toml:2: ping\.urll: there is no such setting.*'url'"):
        load_settings(site)
    (site / "mesh.toml").write_text("[ping]\nurl = 'x'\n")
    assert load_settings(site).ping.url == "x"
