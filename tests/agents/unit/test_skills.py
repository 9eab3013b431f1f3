"""Agents with skills: offered by name, read on demand, by version, and from packages as text from outside."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, Run, TaskRequest, tool
from meshwright.agents.skills.catalog import Skills
from meshwright.core.errors import ConfigError
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import keeper, kept
from tests.support.repositories import repository

READ = tool_call("read_skill", skill="pdf-forms")


class Clerk(Agent):
    """Fills forms."""

    agent_id = "clerk"
    capabilities = (Capability("forms"),)
    skills = ("pdf-forms",)

    def __init__(self) -> None:
        self.sent: list[str] = []

    @tool
    async def send(self, text: str) -> str:
        """Send a form."""
        self.sent.append(text)
        return "sent"


class Asker(Clerk):
    """Asks its model without tools."""

    agent_id = "asker"

    async def run(self, run: Run) -> str:
        return await run.ask("What is this?")


class AllSkills(Clerk):
    """Has all skills of the project."""

    agent_id = "all-skills"
    skills = ("*",)


def write_skill(folder: Path, description: str = "Fill forms in PDFs.", body: str = "Use fill.py.") -> Path:
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    front = f"---\nname: {folder.name}\ndescription: {description}\n---\n"
    (folder / "SKILL.md").write_text(front + body)
    (folder / "scripts" / "fill.py").write_text("import sys\nprint('filled', *sys.argv[1:])\n")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_skill(tmp_path / ".agents" / "skills" / "pdf-forms")
    return tmp_path


def results(model: ScriptedModel) -> list[Any]:
    texts = [message.content for message in model.requests[-1].messages if message.role == "tool"]
    return [json.loads(text) if text.startswith("{") else text for text in texts]


def facts(mesh: MeshUnderTest, event_type: str) -> list[dict[str, Any]]:
    return [dict(event.payload) for event in mesh.events(event_type)]


async def test_skill_is_offered_by_name_and_read_on_demand(project: Path) -> None:
    model = ScriptedModel(READ, tool_call("read_skill", skill="pdf-forms", file="scripts/fill.py"), "Done.")
    async with mesh_for(Clerk, model=model, project=project) as mesh:
        await mesh.ask("clerk", "Fill it.")
        prompt = model.requests[0].messages[0].content
        offer = "<skill><name>pdf-forms</name><description>Fill forms in PDFs.</description></skill>"
        assert offer in prompt and "Use fill.py." not in prompt
        whole, script = results(model)
        assert whole["text"].endswith("---\nUse fill.py.") and whole["files"] == ["scripts/fill.py"]
        assert script["text"].startswith("import sys") and "folder" not in whole
        assert whole["digest"] == script["digest"]
        [offered] = facts(mesh, "skills.offered")
        assert offered["skills"] == {"pdf-forms": whole["digest"]}
        reads = facts(mesh, "skill.read")
        assert [(event["file"], event["source"]) for event in reads] == [
            ("SKILL.md", "project"),
            ("scripts/fill.py", "project"),
        ]
        assert {event["digest"] for event in reads} == {whole["digest"]} and all(
            event["path"] for event in reads
        )


async def test_prompt_without_tools_names_no_skills(project: Path) -> None:
    model = ScriptedModel("A form.")
    async with mesh_for(Asker, model=model, project=project) as mesh:
        await mesh.ask("asker", "What is it?")
    assert "pdf-forms" not in str(model.requests[0].messages)


async def test_agent_without_skills_has_neither_tool_nor_list(project: Path) -> None:
    class Plain(Clerk):
        """Has no skills."""

        agent_id = "plain"
        skills = ()

    model = ScriptedModel("Done.")
    async with mesh_for(Plain, model=model, project=project) as mesh:
        await mesh.ask("plain", "Do it.")
    assert "read_skill" not in str(model.requests[0])
    assert "available_skills" not in str(model.requests[0])


async def test_settings_give_an_agent_skills_beside_its_own(project: Path) -> None:
    write_skill(project / "skills" / "house-style", "Write as we do.")
    model = ScriptedModel("Done.")
    settings = {"agents": {"clerk": ["house-*"]}}
    async with mesh_for(Clerk, model=model, project=project, skills=settings) as mesh:
        await mesh.ask("clerk", "Do it.")
    prompt = model.requests[0].messages[0].content
    assert "<name>house-style</name>" in prompt and "<name>pdf-forms</name>" in prompt


async def test_wrong_calls_say_what_there_is(project: Path) -> None:
    (project / ".agents/skills/pdf-forms/logo.png").write_bytes(b"\x89PNG\0")
    model = ScriptedModel(
        tool_call("read_skill", skill="pdf"),
        tool_call("read_skill", skill="pdf-forms", file="../../../mesh.toml"),
        tool_call("read_skill", skill="pdf-forms", file="script/fill.py"),
        tool_call("read_skill", skill="pdf-forms", file="logo.png"),
        tool_call("read_skill", skill="pdf-forms", start=10_000),
        "Done.",
    )
    async with mesh_for(Clerk, model=model, project=project) as mesh:
        await mesh.ask("clerk", "Fill it.")
    name, path, typo, binary, start = (result["error"] for result in results(model))
    assert name == "there is no skill 'pdf'. There are pdf-forms"
    assert path.startswith("pdf-forms has no file '../../../mesh.toml'")
    assert typo.endswith("Did you mean 'scripts/fill.py'?")
    assert binary.startswith("'logo.png' has no text") and "characters" in start


async def test_long_skill_is_read_in_pages(project: Path) -> None:
    write_skill(project / ".agents/skills/pdf-forms", body='"line"\n' * 10_000)
    first = ScriptedModel(READ, "Done.")
    async with mesh_for(Clerk, model=first, project=project) as mesh:
        await mesh.ask("clerk", "Fill it.")
        [page] = results(first)
        whole = page["text"]
        while "next_start" in page:
            call = tool_call("read_skill", skill="pdf-forms", start=page["next_start"])
            first.replies(call, "Done.")
            await mesh.ask("clerk", "Go on.")
            page = results(first)[-1]
            whole += page["text"]
    assert whole == (project / ".agents/skills/pdf-forms/SKILL.md").read_text()


async def test_recorded_read_stands_when_a_deploy_changes_the_skill(project: Path) -> None:
    folder = project / ".agents/skills/pdf-forms"
    agent = keeper(skills=("pdf-forms",))
    hold = tool_call("hold")
    async with kept(project, agent, model=ScriptedModel(READ, hold)) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="keeper", payload={"text": "Fill."}))
        await agent.began.wait()
    write_skill(folder, "Fill any form.", "Use fill2.py.")
    agent.opened.set()
    model = ScriptedModel(READ, "Done.")
    async with kept(project, agent, model=model) as mesh:
        await mesh.get(Tasks).outcome(receipt.task_id)
        client = Client.local(mesh)
        events = await client.events(task_id=receipt.task_id, event_type="skill.read")
        reads = [dict(event.payload) for event in events]
    before, _, after = results(model)
    assert before["text"].endswith("Use fill.py.") and after["text"].endswith("Use fill2.py.")
    assert [event["digest"] for event in reads] == [before["digest"], after["digest"]]
    assert reads[0]["digest"] != reads[1]["digest"] and reads[0]["step"] != reads[1]["step"]
    assert "Fill forms in PDFs." in model.requests[-1].messages[0].content  # as its prompt was rendered


async def test_skill_that_breaks_stays_in_its_last_good_version(project: Path) -> None:
    file = project / ".agents/skills/pdf-forms/SKILL.md"
    good = file.read_text()
    model = ScriptedModel(READ, "Done.", READ, "Done.")
    async with mesh_for(Clerk, model=model, project=project, clock=ManualClock()) as mesh:
        skills = mesh.mesh.get(Skills)
        file.write_text("broken")
        await skills.reload()
        await mesh.ask("clerk", "Fill it.")
        assert results(model)[0]["text"].endswith("Use fill.py.")
        [rejected] = facts(mesh, "skill.rejected")
        assert (rejected["name"], rejected["line"]) == ("pdf-forms", 1) and len(skills.problems) == 1
        file.write_text(f"{good} Then stop.")
        await skills.reload()
        await mesh.ask("clerk", "Fill it.")
        page = results(model)[0]
        assert page["text"].endswith("Then stop.") and skills.problems == []
        [reloaded] = facts(mesh, "skill.reloaded")
        assert reloaded["digest"] == page["digest"]


async def test_skill_that_is_not_there_stops_the_start(project: Path) -> None:
    class WithTypo(Clerk):
        """Names a skill that is not there."""

        agent_id = "with-typo"
        skills = ("pdf-form",)

    with pytest.raises(ConfigError, match=r"with-typo has the skill 'pdf-form'.*mean 'pdf-forms'"):
        async with mesh_for(WithTypo, project=project):
            pass


async def test_skill_that_lies_too_deep_is_not_there_and_where_to_look_is_said(project: Path) -> None:
    class Deep(Clerk):
        """Names a skill within a folder of skills."""

        agent_id = "deep"
        skills = ("inner",)

    write_skill(project / "skills" / "group" / "inner")
    with pytest.raises(ConfigError, match=r"'inner', which is not there.*mesh skills check names"):
        async with mesh_for(Deep, project=project):
            pass


async def test_broken_skill_is_a_warning_and_others_are_used(project: Path) -> None:
    write_skill(project / "skills" / "other", "x" * 2_000)
    model = ScriptedModel(READ, "Done.")
    async with mesh_for(AllSkills, model=model, project=project) as mesh:
        [warning] = [text for text in mesh.mesh.warnings if "skills" in text]
        assert "other/SKILL.md:3: description has 2,000 characters" in warning
        await mesh.ask("all-skills", "Fill it.")
    assert results(model)[0]["skill"] == "pdf-forms"


async def test_skills_in_the_wrong_place_are_warnings_and_others_are_used(project: Path) -> None:
    write_skill(project / "skills" / "group" / "inner")
    (write_skill(project / "skills" / "cased") / "SKILL.md").rename(project / "skills/cased/Skill.md")
    async with mesh_for(AllSkills, model=ScriptedModel(READ, "Done."), project=project) as mesh:
        cased, group = (text for text in mesh.mesh.warnings if "skills" in text)
        assert "cased/Skill.md: the file is called Skill.md" in cased and "inner" in group
        await mesh.ask("all-skills", "Fill it.")
        assert mesh.mesh.get(Skills).titles == ["pdf-forms"]


@pytest.mark.parametrize("skills", ["pdf-forms", (3,)])
def test_skills_that_are_no_list_of_names_are_refused(skills: Any) -> None:
    with pytest.raises(ConfigError, match="skills") as refused:
        type("Wrong", (Clerk,), {"agent_id": "wrong", "skills": skills})
    assert refused.value.field == "skills"


@pytest.mark.parametrize("link", ["root", "skill"])
def test_link_out_of_the_project_is_refused(link: str, tmp_path: Path) -> None:
    outside = write_skill(tmp_path / "elsewhere" / "pdf-forms")
    project = tmp_path / "project"
    (project / ("" if link == "root" else "skills")).mkdir(parents=True)
    target = outside.parent if link == "root" else outside
    (project / "skills" / ("" if link == "root" else "pdf-forms")).symlink_to(target)
    with pytest.raises(ConfigError, match=r"leads out of|'pdf-forms', which is not there"):
        asyncio.run(_start(project))


async def _start(project: Path) -> None:
    async with mesh_for(Clerk, project=project) as mesh:
        raise ConfigError(str(mesh.mesh.warnings))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `acme-skills` with a skill `stamps`, in the folder that this returns."""
    site = tmp_path / "site"
    folder = write_skill(site / "acme" / "skills" / "stamps", "Stamp forms & <letters>.")
    info = site / "acme_skills-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-skills\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[meshwright.skills]\nacme = acme.skills\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return folder


class Stamper(Clerk):
    """Has a skill of a package."""

    agent_id = "stamper"
    skills = ("acme:stamps",)


@pytest.mark.parametrize("is_trusted", [False, True])
async def test_skill_of_a_package_is_text_from_outside(
    is_trusted: bool, package: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    model = ScriptedModel(tool_call("read_skill", skill="acme:stamps"), tool_call("send", text="x"), "Done.")
    settings = {"trusted_packages": ["acme-skills"] if is_trusted else []}
    async with mesh_for(Stamper, model=model, project=project, skills=settings) as mesh:
        receipt = await mesh.submit(agent_id="stamper", payload={"text": "Stamp it."})
        if not is_trusted:
            [question] = await mesh.questions()
            assert "strangers may have written" in question.question
            await mesh.answer(question, {"approve": False})
        outcome = await mesh.outcome(receipt.task_id)
        assert outcome.outside is not is_trusted
        [event] = facts(mesh, "skill.read")
        assert (event["skill"], event["source"]) == ("acme:stamps", "acme")
    offer = "<description>Stamp forms &amp; &lt;letters&gt;.</description>"
    roles = [message.role for message in model.requests[0].messages if offer in message.content]
    assert roles == ["system" if is_trusted else "user"]


async def test_read_by_code_alone_counts_as_outside(package: Path, tmp_path: Path) -> None:
    class ByCode(Stamper):
        """Reads a skill without a model."""

        agent_id = "by-code"

        async def run(self, run: Run) -> str:
            before = run.outside
            await run.call("read_skill", skill="acme:stamps")
            return f"{before} {run.outside}"

    (tmp_path / "project").mkdir()
    async with mesh_for(ByCode, project=tmp_path / "project") as mesh:
        assert (await mesh.ask("by-code", "Read.")).text == "False True"


@pytest.mark.parametrize("agent_id", ["clerk", "stamper"])
async def test_code_gets_the_skills_for_instructions_of_its_own(
    agent_id: str, package: Path, project: Path
) -> None:
    class ByCode(Clerk):
        """Tells its skills."""

        skills = ("pdf-forms",) if agent_id == "clerk" else ("acme:stamps",)

        async def run(self, run: Run) -> str:
            text = await run.skills()
            [read_skill] = run.functions("read_skill")
            page = await read_skill("pdf-forms" if agent_id == "clerk" else "acme:stamps")
            return f"{run.outside} {page['file']} {text}"

    async with mesh_for(ByCode, project=project) as mesh:
        text = (await mesh.ask("clerk", "Tell.")).text
        assert text.startswith(f"{agent_id == 'stamper'} SKILL.md These skills")
        name = "pdf-forms" if agent_id == "clerk" else "acme:stamps"
        assert f"<name>{name}</name>" in text
        [offered] = facts(mesh, "skills.offered")
        assert [*offered["skills"]] == [name]


async def test_all_of_the_project_leaves_packages_out(package: Path, project: Path) -> None:
    async with mesh_for(AllSkills, Stamper, project=project) as mesh:
        skills = mesh.mesh.get(Skills)
        assert [skill.title for skill in skills.for_agent("all-skills")] == ["pdf-forms"]
        assert [skill.title for skill in skills.for_agent("stamper")] == ["acme:stamps"]


@pytest.mark.needs("git", "bwrap")
async def test_script_of_a_skill_runs_in_the_sandbox_and_cannot_be_changed(project: Path) -> None:
    from meshwright.toolsets.code import CodeTools

    class Coder(Clerk):
        """Runs programs."""

        agent_id = "coder"
        toolsets = (CodeTools,)

    source = repository(project / "source", {"README.md": "A form.\n"})
    first = ScriptedModel(READ, "Done.")
    async with mesh_for(
        Coder, model=first, project=project, trees={"forms": {"repository": str(source)}}
    ) as mesh:
        await mesh.ask("coder", "Fill it.")
        folder = results(first)[0]["folder"]
        assert folder.startswith("$SKILLS/pdf-forms-")
        run = tool_call("run", command=f"python3 {folder}/scripts/fill.py form; echo x > {folder}/SKILL.md")
        first.replies(run, tool_call("run", command="ls -d $SKILLS/*"), "Done.")
        await mesh.ask("coder", "Fill it.")
    filled, listed = results(first)
    assert filled["output"].startswith("filled form") and "Read-only file system" in filled["output"]
    assert listed["output"].strip().endswith(folder.removeprefix("$SKILLS"))
