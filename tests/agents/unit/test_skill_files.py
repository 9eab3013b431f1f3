"""The format of skills: the cases of the published reference library, and what an author gets wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from meshwright.agents.skills import files as skill_files
from meshwright.agents.skills.skill import load_skill
from meshwright.core.errors import ConfigError
from tests.support.running_mesh import run


def front(**fields: str) -> str:
    lines = "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())
    return f"---\n{lines}\n---\n# My Skill\n\nInstructions here.\n"


TEST = "A test skill"
VALID = {
    "smallest": ("my-skill", front(name="my-skill", description=TEST)),
    "all fields": (
        "my-skill",
        front(name="my-skill", description=TEST, license="MIT", metadata="\n  author: Test\n  version: 1.0"),
    ),
    "allowed tools": (
        "my-skill",
        front(name="my-skill", description=TEST, allowed_tools="Bash(jq:*) Bash(git:*)"),
    ),
    "allowed tools as a list": (
        "my-skill",
        front(name="my-skill", description=TEST, allowed_tools="\n  - Bash(jq:*)\n  - Read"),
    ),
    "Chinese": ("技能", front(name="技能", description="A skill with Chinese name")),
    "Russian": ("мой-навык", front(name="мой-навык", description=TEST)),
    "compatibility": (
        "my-skill",
        front(name="my-skill", description=TEST, compatibility="Requires Python 3.11+"),
    ),
    "other form of é": ("caf\u00e9", front(name="cafe\u0301", description=TEST)),
}
WRONG = {
    "capitals": ("MySkill", front(name="MySkill", description=TEST), 2, "has capitals"),
    "Russian capitals": ("НАВЫК", front(name="НАВЫК", description=TEST), 2, "has capitals"),
    "long name": ("a" * 70, front(name="a" * 70, description=TEST), 2, "70 characters, and may have 64"),
    "hyphen first": ("-my-skill", front(name="-my-skill", description=TEST), 2, "with a hyphen"),
    "two hyphens": ("my--skill", front(name="my--skill", description=TEST), 2, "two in a row"),
    "underscore": ("my_skill", front(name="my_skill", description=TEST), 2, "other characters"),
    "other folder": ("wrong-name", front(name="correct-name", description=TEST), 2, "that of the folder"),
    "long description": (
        "my-skill",
        front(name="my-skill", description="x" * 1100),
        3,
        "1,100 characters, and may have 1,024",
    ),
    "long compatibility": (
        "my-skill",
        front(name="my-skill", description=TEST, compatibility="x" * 550),
        4,
        "may have 500",
    ),
    "no front matter": ("my-skill", "# No frontmatter here\n", 1, "does not begin with front matter"),
    "not closed": ("my-skill", f"---\nname: my-skill\ndescription: {TEST}\n", 1, "does not begin with"),
    "no YAML": ("my-skill", "---\nname: [invalid\ndescription: broken\n---\nBody\n", 3, "cannot be read"),
    "a list": ("my-skill", "---\n- just\n- a\n- list\n---\nBody\n", 2, "not made of"),
    "no name": ("my-skill", front(description=TEST), 1, "'name' is missing"),
    "no description": ("my-skill", front(name="my-skill"), 1, "'description' is missing"),
    "empty description": ("my-skill", front(name="my-skill", description='" "'), 3, "description is empty"),
    "empty name": ("my-skill", front(name='""', description=TEST), 2, "name is empty"),
    # Beyond the cases of the library.
    "name twice": ("my-skill", front(name="my-skill\nname: my-skill", description=TEST), 3, "second time"),
    "alias": ("my-skill", front(name="my-skill", description="&d x", license="*d"), 4, "alias"),
    "tag": ("my-skill", front(name="my-skill", description="!!python/name:os.system x"), 3, "a tag"),
    "colon": ("my-skill", front(name="my-skill", description="Use when: always"), 3, "cannot be read"),
    "list as name": ("my-skill", front(name="[my-skill]", description=TEST), 2, "is not a text"),
    "deep": (
        "my-skill",
        front(name="my-skill", description=TEST, metadata="[" * 2_000 + "]" * 2_000),
        2,
        "nested too deeply",
    ),
    "metadata twice": (
        "my-skill",
        front(name="my-skill", description=TEST, metadata="\n  a:\n    b: c\n    b: d"),
        7,
        "second time",
    ),
}


def write(folder: Path, text: str | bytes, name: str = "SKILL.md") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


@pytest.mark.parametrize("case", VALID)
def test_skill_of_the_reference_library_is_valid(case: str, tmp_path: Path) -> None:
    name, text = VALID[case]
    skill = load_skill(write(tmp_path / name, text)).skill
    assert (skill.name, skill.warnings) == (name, ())


@pytest.mark.parametrize("case", WRONG)
def test_wrong_skill_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    name, text, line, words = WRONG[case]
    folder = write(tmp_path / name, text)
    with pytest.raises(ConfigError) as refused:
        load_skill(folder)
    error = refused.value
    assert words in error.message and error.line == line and error.remedy
    assert error.message.startswith(f"{folder / 'SKILL.md'}:{line}: ")


def test_fields_are_text_as_in_the_reference_library(tmp_path: Path) -> None:
    skill = load_skill(write(tmp_path / "my-skill", VALID["all fields"][1])).skill
    assert skill.metadata == {"author": "Test", "version": "1.0"} and skill.license == "MIT"
    for case in ("allowed tools", "allowed tools as a list"):
        tools = load_skill(write(tmp_path / "my-skill", VALID[case][1])).skill.allowed_tools
        assert tools[0] == "Bash(jq:*)" and len(tools) == 2


NESTED = """
  clawdbot:
    emoji: x
    requires:
      bins:
        - jq
    n: 1
  empty:
  text: |
    two
    lines"""
# As `skills-ref to-prompt` of 0.1.1 reads it.
NESTED_IS = {
    "clawdbot": "{'emoji': 'x', 'requires': {'bins': ['jq']}, 'n': '1'}",
    "empty": "",
    "text": "two\nlines\n",
}


def test_mapping_below_metadata_is_text_as_in_the_reference_library(tmp_path: Path) -> None:
    skill = load_skill(
        write(tmp_path / "my-skill", front(name="my-skill", description=TEST, metadata=NESTED))
    )
    assert (skill.skill.metadata, skill.skill.warnings) == (NESTED_IS, ())
    flow = front(name="my-skill", description=TEST, metadata='{"openclaw": {"requires": {"bins": ["git"]}}}')
    skill = load_skill(write(tmp_path / "my-skill", flow))
    assert skill.skill.metadata == {"openclaw": "{'requires': {'bins': ['git']}}"}


def test_long_metadata_harms_no_skill(tmp_path: Path) -> None:
    many = "".join(f"\n  key{n}: {'x' * 1_500}" for n in range(80))
    text = front(name="my-skill", description=TEST, metadata=many)
    assert len(load_skill(write(tmp_path / "my-skill", text)).skill.metadata) == 80


@pytest.mark.parametrize(("metadata", "count"), [("a text", 1), ("\n  - a\n  - b", 1), ("", 0)])
def test_metadata_that_is_no_mapping_is_passed_over(metadata: str, count: int, tmp_path: Path) -> None:
    text = front(name="my-skill", description=TEST, metadata=metadata)
    skill = load_skill(write(tmp_path / "my-skill", text)).skill
    assert skill.metadata == {} and [warning.line for warning in skill.warnings] == [4] * count


def test_field_that_the_specification_lacks_is_a_warning(tmp_path: Path) -> None:
    text = front(name="my-skill", description=TEST, licence="MIT", disable_model_invocation="true")
    licence, other = load_skill(write(tmp_path / "my-skill", text)).skill.warnings
    assert licence.line == 4 and licence.remedy == "Did you mean license?"
    assert other.line == 5 and "'disable-model-invocation'" in other.message


def test_file_name_in_small_letters_counts_behind_the_other(tmp_path: Path) -> None:
    folder = write(tmp_path / "my-skill", VALID["smallest"][1], "skill.md")
    assert load_skill(folder).skill.file == "skill.md"
    assert load_skill(write(folder, VALID["smallest"][1])).skill.file == "SKILL.md"


@pytest.mark.parametrize(("kind", "words"), [("file", "it is a file"), ("nothing", "no such folder")])
def test_folder_that_is_none_is_refused(kind: str, words: str, tmp_path: Path) -> None:
    if kind == "file":
        (tmp_path / "my-skill").write_text("test")
    with pytest.raises(ConfigError, match=words):
        load_skill(tmp_path / "my-skill")


def test_folder_without_a_skill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no SKILL\.md"):
        load_skill(tmp_path)


@pytest.mark.parametrize("name", ["Skill.md", "SKILL.MD", "SKILLS.md", "skil.md"])
def test_misspelt_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "my-skill", VALID["smallest"][1], name)
    with pytest.raises(ConfigError, match=rf"my-skill/{name}: the file is called {name}") as refused:
        load_skill(folder)
    assert refused.value.remedy == "Rename it to SKILL.md"
    write(folder, "# About", "README.md")
    assert load_skill(write(folder, VALID["smallest"][1])).skill.name == "my-skill"


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SKILL\.md:2: the file is not UTF-8 text"):
        load_skill(write(tmp_path / "my-skill", b"---\nname: \xff\n---\n"))


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.txt", "SKILL.md"])
def test_links_in_a_skill_are_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = write(tmp_path / "my-skill", VALID["smallest"][1])
    (folder / "references").mkdir()
    (folder / "references" / "it.md").symlink_to(target)
    with pytest.raises(ConfigError, match=r"references/it\.md is a link"):
        load_skill(folder)


def test_linked_folder_and_pipe_in_a_skill_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "my-skill", VALID["smallest"][1])
    (folder / "assets").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="assets is a link"):
        load_skill(folder)
    (folder / "assets").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ConfigError, match="pipe is not a file"):
        load_skill(folder)


def test_skill_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "my-skill", VALID["smallest"][1])
    (folder / "data.bin").write_bytes(b"x" * 2_000)
    monkeypatch.setattr(skill_files, "MAX_BYTES", 1_000)
    with pytest.raises(ConfigError, match="more than 1,000 bytes"):
        load_skill(folder)
    monkeypatch.setattr(skill_files, "MAX_BYTES", 10_000)
    monkeypatch.setattr(skill_files, "MAX_FILES", 1)
    with pytest.raises(ConfigError, match="more than 1 files"):
        load_skill(folder)


def test_digest_follows_contents_names_and_modes(tmp_path: Path) -> None:
    folder = write(tmp_path / "my-skill", VALID["smallest"][1])
    digests = [load_skill(folder).skill.digest]
    (folder / "run.sh").write_text("echo 1")
    digests.append(load_skill(folder).skill.digest)
    (folder / "run.sh").chmod(0o755)
    digests.append(load_skill(folder).skill.digest)
    (folder / "run.sh").rename(folder / "go.sh")
    digests.append(load_skill(folder).skill.digest)
    assert len(set(digests)) == 4
    (folder / "go.sh").unlink()
    assert load_skill(folder).skill.digest == digests[0]


CODE = """\
import os

from meshwright import Agent, Capability


class Clerk(Agent):
    '''Fills forms.'''

    agent_id = "clerk"
    capabilities = (Capability("forms"),)
    skills = ("pdf-forms", "stamp")
    started = open("started", "w")
"""


def test_commands_list_and_check_the_skills_of_a_project(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(CODE)
    (tmp_path / "skills").mkdir()
    folder = write(tmp_path / "skills/pdf-forms", front(name="pdf-forms", description="Fill forms."))
    listed = run("skills", "list", "--json", cwd=tmp_path)
    [row] = json.loads(listed.stdout)
    assert (row["name"], row["source"], row["agents"]) == ("pdf-forms", "skills/pdf-forms", ["clerk"])
    assert (
        row["digest"] == load_skill(folder).skill.digest
        and "Fill forms." in run("skills", cwd=tmp_path).stdout
    )
    checked = run("skills", "check", cwd=tmp_path)
    assert checked.returncode == 1 and "clerk has the skill 'stamp', which is not there" in checked.stdout
    assert "[skills.agents] of mesh.toml" in checked.stdout
    write(tmp_path / "skills/stamp", front(name="stamps", description="Stamp forms."))
    [wrong, _] = json.loads(run("skills", "check", "--json", cwd=tmp_path).stdout)
    assert wrong["path"].endswith("skills/stamp/SKILL.md") and (wrong["line"], wrong["field"]) == (2, "name")
    write(tmp_path / "skills/stamp", front(name="stamp", description="Stamp forms."))
    checked = run("skills", "check", cwd=tmp_path)
    assert (checked.returncode, checked.stdout.strip()) == (0, "2 skills checked, no problems.")
    assert not (tmp_path / "started").exists() and not (tmp_path / ".mesh").exists()


def test_skills_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    skills = tmp_path / "skills"
    for folder in ("good", "good/examples/part", "group/deep/inner", "cased", "notes", "_draft/some"):
        (skills / folder).mkdir(parents=True)
    write(skills / "good", front(name="good", description=TEST))
    for folder in ("good/examples/part", "group/deep/inner", "_draft/some"):
        write(skills / folder, front(name=folder.rpartition("/")[2], description=TEST))
    write(skills / "cased", front(name="cased", description=TEST), "Skill.md")
    write(skills / "notes", "# Notes", "README.md")
    checked = run("skills", "check", cwd=tmp_path)
    cased, group = checked.stdout.splitlines()
    assert checked.returncode == 1
    assert "skills/cased/Skill.md: the file is called Skill.md" in cased and "Rename it to SKILL.md" in cased
    assert "skills/group: it holds skills in folders of its own" in group and "deep/inner" in group
    listed = run("skills", "list", cwd=tmp_path)
    assert "2 problems: mesh skills check shows them" in listed.stderr
    write(skills, front(name="skills", description=TEST))
    assert "a skill lies in the folder of skills itself" in run("skills", "check", cwd=tmp_path).stdout
    checked = run("skills", "check", "skills/group", cwd=tmp_path)
    assert "it holds skills in folders of its own" in checked.stdout


def test_check_of_folders_needs_no_project(tmp_path: Path) -> None:
    write(tmp_path / "my-skill", VALID["smallest"][1])
    assert run("skills", "check", "my-skill", cwd=tmp_path).returncode == 0
    checked = run("skills", "check", "my-skill", "other", cwd=tmp_path)
    assert checked.returncode == 1 and "there is no such folder" in checked.stdout
