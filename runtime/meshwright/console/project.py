"""The project in the present folder: whether its code may be used, and the agents that its files declare.

Running a mesh in a folder runs its agents, as `make` runs its Makefile. A person at a terminal is asked once
for each folder. Without a terminal (scripts, services, containers, CI) there is no question.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from meshwright.agents.settings import AgentsSettings
from meshwright.agents.skills.settings import SkillsSettings
from meshwright.console.options import ask
from meshwright.models.settings import ModelsSettings

if TYPE_CHECKING:
    from meshwright.agents.prompts import CodePrompt
    from meshwright.core.capability import Capability, Registration
    from meshwright.core.settings import Settings

_TRUST_KEY = "meshwright.trust"
_TRUST_FILE = "trusted"
_YES = ("1", "true", "yes", "on")
_MAX_NAMED = 6
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def trust_option(command: CommandT) -> CommandT:
    """`--trust`: use what is in the folder without a question."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_TRUST_KEY] = value

    return click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Run the agents of this folder without asking (or set MESH_TRUST=1).",
    )(command)


def require_trust(settings: Settings) -> None:
    """Ask whether to use the code and settings of the present folder. Raises ClickException for a no.

    A yes is remembered in the user's config folder. The agents that come with Meshwright need none, and
    neither does the checkout that it was installed from.
    """
    folder = Path.cwd().resolve()
    risks = _risks(folder, settings)
    if not risks or _is_trusted(folder) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    listed = "\n".join(f"  {risk}" for risk in risks)
    question = f"Running a mesh in {folder} uses:\n{listed}\nThe code runs with your rights. Do you trust it?"
    refusal = f"nothing of {folder} was run; --trust answers yes beforehand"
    try:
        is_yes = ask(question)
    except click.Abort:  # Ctrl-C, or Ctrl-D
        click.echo(f"\nmesh: {refusal}", err=True)
        raise
    if not is_yes:
        raise click.ClickException(refusal)
    remember_trust(folder)


def _risks(folder: Path, settings: Settings) -> list[str]:
    from meshwright.agents.loader import CHECKOUT, PACKAGED, project_file

    if folder in (CHECKOUT.resolve(), PACKAGED.resolve()):
        return []
    risks = []
    actors = project_file(Path(), settings[AgentsSettings].dir)
    if actors.is_dir() and actors.resolve() not in (PACKAGED / "actors", CHECKOUT / "actors"):
        names = sorted(path.name for path in actors.iterdir() if path.suffix == ".py" or _is_package(path))
        more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        risks.append(
            f"{settings[AgentsSettings].dir}/: its Python code ({', '.join(names[:_MAX_NAMED])}{more})"
        )
    skills = [name for name in settings[SkillsSettings].dirs if risks and name.is_dir()]
    risks += [f"{name}/: instructions for its agents" for name in skills]
    if text := _read_text(Path("mesh.toml")):
        url = settings[ModelsSettings].base_url
        sends = url and url in text
        sent = f": sends your LITELLM_API_KEY and every prompt to {urlsplit(url).netloc}" if sends else ""
        risks.append(f"mesh.toml{sent}")
    if text := _read_text(settings[ModelsSettings].config):
        names = sorted(set(re.findall(r"os\.environ/(\w+)", text)))
        sent = f": may send {', '.join(names)} of your environment to the servers it names" if names else ""
        risks.append(f"{settings[ModelsSettings].config}{sent}")
    return risks


def _is_package(path: Path) -> bool:
    return path.is_dir() and path.name != "__pycache__"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:  # there is none; one that cannot be read is refused where it is used
        return ""


def _is_trusted(folder: Path) -> bool:
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_TRUST_KEY):
        return True
    return os.environ.get("MESH_TRUST", "").lower() in _YES or str(folder) in _trusted().splitlines()


def _trusted() -> str:
    from meshwright.engine.sql.folder import read_private

    try:
        return read_private(_config_folder() / _TRUST_FILE)
    except (OSError, ValueError):  # nothing was trusted yet
        return ""


def remember_trust(folder: Path) -> None:
    """Ask no more whether the code of a folder is trusted."""
    from meshwright.engine.sql.folder import write_private

    try:
        _config_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_config_folder() / _TRUST_FILE, f"{_trusted()}{folder}\n")
    except OSError as error:
        problem = f"that the code of {folder} is trusted cannot be remembered"
        where = f"{error.filename or _config_folder()}: {error.strerror or error}"
        click.echo(f"mesh: warning: {problem}: {where}", err=True)


def _config_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "meshwright"


@dataclass
class DeclaredAgents:
    """The declarations of a folder's files, and the files that say more only when they run."""

    agents: list[Registration] = field(default_factory=list)
    prompts: dict[str, CodePrompt] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)
    needed: dict[str, str] = field(default_factory=dict)
    """The prompts that agents read, each with one of them."""
    variables: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    """The variables that classes have for each prompt; None where they are computed."""


def declared_agents(settings: Settings) -> DeclaredAgents:
    """Read the agents of a project's files and packages, by file name. Runs and imports nothing of them.

    Computed values stay unknown: agents made by a call, or with attributes that are no literals.
    """
    from meshwright.agents.loader import installed_agents, needs_prompt, project_file
    from meshwright.agents.prompts import CodePrompt

    folder = project_file(Path(), settings[AgentsSettings].dir)
    declared = DeclaredAgents()
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
        if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts[:-1]):
            _read_file(path, declared)
    if settings[AgentsSettings].include:
        _read_shipped(folder, settings[AgentsSettings].include, declared)
    for agent in installed_agents():  # their packages are trusted: somebody installed them
        declared.agents.append(agent.registration())
        if needs_prompt(agent):
            declared.needed[agent.prompt] = agent.agent_id
        declared.variables[agent.prompt] = tuple(agent.variables)
        if agent.prompt_text:
            declared.prompts[agent.prompt] = CodePrompt(agent.prompt_text, agent.__name__, agent.__module__)
    declared.agents.sort(key=lambda agent: agent.agent_id)
    return declared


def _read_shipped(folder: Path, include: Sequence[str], declared: DeclaredAgents) -> None:
    """Take in the agents that come with Meshwright and are wanted beside those of the folder."""
    from meshwright.agents.prompts import CodePrompt
    from meshwright.agents.shipped import shipped_folder, shipped_prompt

    if folder.resolve() == shipped_folder("actors").resolve():
        return
    for agent_id, (agent, path) in shipped_agents().items():
        if agent_id in include:
            declared.agents.append(agent)
            name = agent.metadata["prompt"]
            declared.prompts[name] = CodePrompt(shipped_prompt(name), agent.name, str(path))


def shipped_agents() -> dict[str, tuple[Registration, Path]]:
    """The agents that come with Meshwright by id, each with its file; none of them runs."""
    from meshwright.agents.shipped import shipped_folder

    agents: dict[str, tuple[Registration, Path]] = {}
    for path in sorted(shipped_folder("actors").glob("*.py")):
        _read_file(path, declared := DeclaredAgents())
        agents |= {agent.agent_id: (agent, path) for agent in declared.agents}
    return agents


def _read_file(path: Path, declared: DeclaredAgents) -> None:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        declared.unknown.append(path)
        return
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    literals = [
        _read_agent(path, list(_lineage(node, classes)), declared)
        for node in classes.values()
        if "agent_id" in _attributes(node)
    ]
    is_helper = path.name.startswith("_")
    if not all(literals) or not (literals or is_helper):
        declared.unknown.append(path)


def _lineage(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """A class and its bases in the same file."""
    yield node
    for base in node.bases:
        other = classes.get(base.id) if isinstance(base, ast.Name) else None
        if other is not None and other.lineno < node.lineno:
            yield from _lineage(other, classes)


def _read_agent(path: Path, lineage: Sequence[ast.ClassDef], declared: DeclaredAgents) -> bool:
    """Take in what a class and its bases declare; whether all of it that matters here is literal."""
    from meshwright.agents.prompts import CodePrompt
    from meshwright.core.capability import Registration

    node, declarations = lineage[0], [_attributes(cls) for cls in lineage]
    has: Mapping[str, ast.expr] = ChainMap(*declarations)
    try:
        agent_id = ast.literal_eval(has["agent_id"])
        named = (ast.literal_eval(own["prompt"]) for own in declarations if _names_prompt(own))
        prompt = next(named, agent_id)
        capabilities = tuple(_capabilities(has.get("capabilities")))
        described = {"description": (ast.get_docstring(node) or "").partition("\n")[0], "prompt": prompt}
        if "skills" in has:
            described["skills"] = ", ".join(ast.literal_eval(has["skills"]))
        agent = Registration(agent_id=agent_id, name=node.name, capabilities=capabilities, metadata=described)
    except (ValueError, TypeError, RecursionError):
        return False
    declared.agents.append(agent)
    if _reads_prompt(lineage):
        declared.needed[prompt] = agent_id
    declared.variables[prompt] = _keys(has.get("variables"))
    if "prompt_text" not in has:
        return True
    try:
        text = ast.literal_eval(has["prompt_text"])
    except ValueError:
        text = None
    declared.prompts[prompt] = CodePrompt(text if isinstance(text, str) else "", node.name, str(path))
    return isinstance(text, str)


def _names_prompt(own: Mapping[str, ast.expr]) -> bool:
    """Whether a class names a prompt; that of its own id is its default, which no other class inherits."""
    agent_id = own.get("agent_id")
    return "prompt" in own and (agent_id is None or ast.dump(own["prompt"]) != ast.dump(agent_id))


def _reads_prompt(lineage: Sequence[ast.ClassDef]) -> bool:
    from meshwright.agents.loader import READS_PROMPT

    parts = [part for cls in lineage for part in cls.body]
    functions = (part for part in parts if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
    if all(function.name != "run" for function in functions):
        return True
    names = (part for cls in lineage for part in ast.walk(cls) if isinstance(part, ast.Attribute))
    return any(name.attr in READS_PROMPT for name in names)


def _attributes(node: ast.ClassDef) -> dict[str, ast.expr]:
    assigned: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            assigned.update(dict.fromkeys(names, statement.value))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assigned |= {statement.target.id: statement.value} if statement.value else {}
    return assigned


def _keys(node: ast.expr | None) -> tuple[str, ...] | None:
    """The keys of a literal dict, whose values may be computed; None for anything else."""
    if node is None:
        return ()
    keys = node.keys if isinstance(node, ast.Dict) else [None]
    names = tuple(key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
    return names if len(names) == len(keys) else None


def _capabilities(node: ast.expr | None) -> Iterator[Capability]:
    """The capabilities that a literal names. Raises ValueError for anything else."""
    from meshwright.core.capability import Capability

    if node is not None and not isinstance(node, ast.Tuple | ast.List):
        raise ValueError("no literal")
    for call in node.elts if node else ():
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Capability":
            raise ValueError("no literal")
        fields: dict[str, Any] = {
            word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg
        }
        yield Capability(*map(ast.literal_eval, call.args), **fields)
