"""Writes the tables of the reference pages from the code: `python tools/reference.py`, or `--check` them.

A page has them between `<!-- reference: NAME -->` and `<!-- end -->`. Their texts are the help of commands,
the first paragraphs of the docstrings of settings and errors, the summaries of routes, and the payloads of
events. reference.toml has the cures of errors, and the places to which names link. Parts of installed
packages are left out. llms.txt gets the links of docs/README.md.
"""

import ast
import inspect
import json
import re
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import click
from fastapi import FastAPI
from pydantic import BaseModel

from meshwright.cli.app import COMMANDS, mesh
from meshwright.core.parts import ours
from meshwright.core.payloads import Payload
from meshwright.core.settings.model import built_in
from meshwright.edges.http.app import create_app
from meshwright.mesh.app import build_mesh

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "runtime/meshwright"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DATA = tomllib.loads((ROOT / "tools/reference.toml").read_text(encoding="utf-8"))
CONTENTS = ROOT / "llms.txt"
BLOCK = re.compile(r"(<!-- reference: (\w+) ?([\w /-]*) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
CONTENTS_HEAD = (
    "# Meshwright",
    "",
    "> A runtime in Python for LLM agents that does not lose work: tasks survive crashes and deploys, no "
    "paid call is repeated, people approve what matters. One actor model on SQLite, PostgreSQL or Dapr.",
    "",
    "All pages are Markdown. To write an agent, read "
    "[the skill](runtime/meshwright/cli/template/SKILL.md.txt) first: `mesh init` puts it into a project, "
    "beside AGENTS.md.",
    "",
)
WIDTH = 118
SHARED = {
    "--json",
    "--follow",
    "--since",
    "--limit",
    "--tenant",
    "--yes",
    "--quiet",
    "--url",
    "--data",
    "--trust",
}
FILTERS = (
    *("--status", "--agent", "--capability", "--thread", "--parent", "--requester", "--model", "--prompt"),
    *("--error", "--text", "--until"),
)
GROUPS = {
    "MANY": (*FILTERS, "--all", "--dry-run"),
    "FILTERS": FILTERS,
    "LIMITS": ("--max-steps", "--max-repeats", "--max-tokens", "--max-usd", "--max-seconds"),
}
"""Options that docs/cli.md explains once, by themselves or as a group."""
EVERY_PART = {
    "webhooks": {"notify": True},
    "mcp": {"docs": {"command": "docs"}},
    "channels": {"chat": {"kind": "slack", "agent": "any", "token": "any", "secret": "any"}},
    "external": {"any": {}},
}
"""Settings with which every part that has routes joins a mesh."""


def main() -> None:
    wanted = {path: page(path) for path in PAGES} | {CONTENTS: contents()}
    stale = {path: text for path, text in wanted.items() if text != path.read_text(encoding="utf-8")}
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(path.name for path in stale)}: stale; python tools/reference.py writes them")
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")


def page(path: Path) -> str:
    """Returns a page, with its tables as the code has them."""

    def table(block: re.Match[str]) -> str:
        lines = "\n".join(TABLES[block[2]](*block[3].split()))
        return f"{block[1]}\n{lines}\n\n{block[4]}"

    return BLOCK.sub(table, path.read_text(encoding="utf-8"))


def contents() -> str:
    """Returns llms.txt (https://llmstxt.org): each link of docs/README.md, with what its row is about."""
    head, *sections = (ROOT / "docs/README.md").read_text(encoding="utf-8").split("\n## ")
    lines = [*CONTENTS_HEAD, *(f"- [{title}]({resolved(to)})" for title, to in LINK.findall(head))]
    for section in sections:
        name, _, text = section.partition("\n")
        lines += ["", f"## {name}", ""]
        for line in text.splitlines():
            about = line.split(" | ")[0].removeprefix("| ") if line.startswith("| ") else ""
            note = f": {about}" if about else ""
            lines += [f"- [{title}]({resolved(to)}){note}" for title, to in LINK.findall(line)]
    return "\n".join(lines) + "\n"


def resolved(target: str) -> str:
    """Returns a link of docs/README.md as one from the root."""
    return target.removeprefix("../") if target.startswith("../") else f"docs/{target}"


def linked(name: str, shown: str) -> str:
    """Returns a name with its link, if it has one."""
    target = DATA["links"].get(name)
    return f"[{shown}]({target})" if target else shown


# Commands


def commands(heading: str) -> Iterator[str]:
    """Yields the commands below a heading of `mesh --help`, those of a noun in one line."""
    tree = command_tree()
    for name, entry in COMMANDS.items():
        if entry.heading == heading and not entry.short_for:
            parts = [
                usage(command, name, path)
                for path, command in tree.items()
                if f"{path} ".startswith(f"{name} ")
            ]
            known = ", ".join(f"`{part}`" for part in parts if part)
            yield f"- {linked(f'mesh {name}', f'`mesh {name}`')}: {entry.help} {known}".rstrip()


def short_forms() -> Iterator[str]:
    """Yields the commands that are short for others."""
    shorts = ((name, entry.short_for) for name, entry in COMMANDS.items() if entry.short_for)
    yield ", ".join(f"`{name}` (`{long}`)" for name, long in shorts) + "."


@cache
def command_tree() -> dict[str, click.Command]:
    """Returns the commands by their words, each once: under its long form, or where it comes first."""
    found = [node for name in COMMANDS for node in below(name, command_of(name))]
    places: dict[click.Command, str] = {}
    for name, entry in COMMANDS.items():
        places.setdefault(command_of(name), entry.short_for or name)
    for path, command in found:
        places.setdefault(command, path)
    return {path: command for path, command in found if places[command] == path}


def command_of(name: str) -> click.Command:
    command = mesh.get_command(click.Context(mesh), name)
    assert command is not None, name
    return command


def below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, verb in command.commands.items():
            yield from below(f"{path} {name}", verb)


def usage(command: click.Command, noun: str, path: str) -> str:
    """Returns the words of a command after its noun, with its arguments and options."""
    if isinstance(command, click.Group):
        return ""
    context = click.Context(command)
    arguments = [param.make_metavar(context) for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    names = [next(name for name in option.opts if name.startswith("--")) for option in options]
    names = [name for name in names if name not in SHARED]
    for group, members in GROUPS.items():
        if {*members} <= {*names}:
            names = [*(name for name in names if name not in members), group]
    return " ".join([*path.removeprefix(noun).split(), *arguments, *names])


# Settings


def settings() -> Iterator[str]:
    """Yields a mesh.toml of all settings with their defaults and docstrings."""
    kind = built_in()
    values = kind()
    tables = [name for name in kind.model_fields if isinstance(getattr(values, name), BaseModel | Mapping)]
    yield "```toml"
    yield from fields(kind, values, "", leave_out=tables)
    for name in tables:
        target = DATA["links"].get(f"[{name}]")
        yield f"\n[{name}]{f'  # {target}' if target else ''}"
        if isinstance(table := getattr(values, name), BaseModel):
            yield from fields(type(table), table, f"{name}.")
        else:
            yield from items(name, kind.model_fields[name].annotation)
    yield "```"


def fields(
    kind: type[BaseModel], values: BaseModel, table: str, leave_out: Sequence[str] = ()
) -> Iterator[str]:
    """Yields the fields of a table; one without a default is commented out, as are tables in it."""
    texts = docstrings(kind)
    variables = {field: name for name, field in getattr(kind, "variables", {}).items()}
    if table and kind.model_config.get("extra") == "allow":
        yield from comment(" ".join((kind.__doc__ or "").partition("\n\n")[0].split()))
    for name, field in kind.model_fields.items():
        if name not in leave_out:
            value = getattr(values, name)
            below = items(f"{table}{name}", field.annotation)
            line = f"# {name} =" if value is None else f"{name} = {toml(value)}"
            yield from comment(texts[name])
            yield from below or [f"{line}  # {variables[name]}" if name in variables else line]


def items(name: str, annotation: Any) -> list[str]:
    """Returns the fields of the tables that a setting consists of, as a comment; nothing for another one."""
    origin, item = get_origin(annotation), next(models(annotation), None)
    if item is None:
        return []
    head = f"[[{name}]]" if origin is tuple else f"[{name}.NAME]" if origin is Mapping else f"[{name}]"
    return comment(f"{head}: {', '.join(item.model_fields)}.")


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models in a type."""
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield part
        yield from models(part)


def docstrings(kind: type[BaseModel | Payload]) -> dict[str, str]:
    """Returns the docstrings of the fields of a model, as its source has them."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        is_ours = base.__module__.startswith("meshwright.") and base.__module__ != "meshwright.core.settings"
        if is_ours and issubclass(base, BaseModel | Payload):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            body = tree.body if isinstance(tree, ast.ClassDef) else []
            for field, text in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and doc_of(text):
                    texts[field.target.id] = doc_of(text)
    return texts


def doc_of(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) else None
    return " ".join(text.partition("\n\n")[0].split()) if isinstance(text, str) else ""


def comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        entries = (f"{json.dumps(name)} = {toml(entry)}" for name, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))


# Routes


def routes() -> Iterator[str]:
    """Yields the paths with their methods: the summary of each, and the roles of which a caller needs one."""
    paths = application().openapi()["paths"]
    tags = list(dict.fromkeys(tag_of(methods) for methods in paths.values()))
    yield from ("path | method, what it does, role", "---|---")
    for path, methods in sorted(paths.items(), key=lambda item: tags.index(tag_of(item[1]))):
        parts = (
            f"`{method.upper()}` {route['summary']}{roles_of(route)}" for method, route in methods.items()
        )
        yield f"{linked(path, f'`{path}`')} | {'; '.join(parts)}"


def tag_of(methods: Mapping[str, Any]) -> str:
    return next(iter(methods.values()))["tags"][0]


def roles_of(route: Mapping[str, Any]) -> str:
    """Returns the roles of a route, as the end of its description says them."""
    roles = re.search(r"Takes the role ([\w ]+?)(?:,|\.)", route.get("description", ""))
    return f" ({roles[1].replace(' or', ',')})" if roles else ""


def body(method: str, path: str) -> Iterator[str]:
    """Yields the fields of the body of a route."""
    document = application().openapi()
    content = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]
    schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    for name, field in schema["properties"].items():
        yield f"- {linked(f'{path} {name}', f'`{name}`')}: {field['description']}"


@cache
def application() -> FastAPI:
    """Returns the API of a mesh that has every part, and no agents."""
    with tempfile.TemporaryDirectory() as folder:
        parts = build_mesh(built_in()(data_dir=Path(folder), **EVERY_PART), project=Path(folder), agents=[])
        ours = [part for part in parts.components if type(part).__module__.startswith("meshwright.")]
        parts.components = ours
        return create_app(parts)


# Events


def events() -> Iterator[str]:
    """Yields the types of events with their payloads, those with the same fields in one line."""
    kinds = (kind for part in ours() if part.events for kind in part.load(part.events))
    for kind in sorted(kinds, key=lambda kind: kind.event_types):
        types = ", ".join(linked(name, f"`{name}`") for name in kind.event_types)
        about = ": ".join(filter(None, (kind.event_listed or ", ".join(payload(kind)), about_of(kind))))
        yield f"- {types}: {about}"


def payload(kind: type[Payload]) -> Iterator[str]:
    """Yields the fields of a payload, with their docstrings in brackets."""
    texts = docstrings(kind)
    for name in kind.__struct_fields__:
        if name not in kind.event_unlisted:
            yield f"{name} ({texts[name]})" if name in texts else name


def about_of(kind: type[Payload]) -> str:
    """Returns the docstring of a payload as the end of a sentence."""
    text = (vars(kind).get("__doc__") or "").partition("\n\n")[0].removesuffix(".")
    return text[:1].lower() + text[1:]


# Errors


class Error(NamedTuple):
    """A class of errors; `status` is 0 where its base says it."""

    name: str
    base: str
    cause: str
    status: int


def errors(section: str) -> Iterator[str]:
    """Yields the errors of a section with causes and cures. Exits where code and cures do not agree."""
    known = known_errors()
    check(known)
    found = DATA["errors"][section]
    columns = ["error", "HTTP", "cause", "cure"] if found.get("http") else ["error", "cause", "cure"]
    yield from (" | ".join(columns), "|".join(["---"] * len(columns)))
    for name, cure in sorted(found["cures"].items()):
        cause = found.get("causes", {}).get(name) or known[name].cause
        status = [str(status_of(name, known))] if found.get("http") else []
        yield " | ".join([f"`{name}`", *status, cause, cure])


def check(known: Mapping[str, Error]) -> None:
    sections = [section for section in DATA["errors"].values() if isinstance(section, dict)]
    cured = {name for section in sections for name in section["cures"]}
    without_class = {name for section in sections for name in section.get("causes", {})} - {*known}
    internal = {*DATA["errors"]["internal"]}
    if problems := sorted(({*known} | without_class) ^ (cured | internal) | (cured & internal)):
        sys.exit(f"Error without a cure, or cure without an error: {', '.join(problems)}")


def status_of(name: str, known: Mapping[str, Error]) -> int:
    """Returns the HTTP status of an error, its own or the one of the nearest base that has one."""
    return known[name].status or status_of(known[name].base, known)


@cache
def known_errors() -> dict[str, Error]:
    """Returns the errors of the code by the names that users see."""
    found = {error.name: error for path in sorted(SOURCE.rglob("*.py")) for error in errors_of(path)}
    known = {"MeshError"}
    while more := {name for name, error in found.items() if error.base in known} - known:
        known |= more
    return {name: found[name] for name in known}


def errors_of(path: Path) -> Iterator[Error]:
    """Yields the classes of a file that have a base and no code of their own."""
    source = path.read_text(encoding="utf-8")
    if "class " not in source:
        return
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
            values = {
                target.id: getattr(statement.value, "value", None)
                for statement in node.body
                if isinstance(statement, ast.Assign)
                for target in statement.targets
                if isinstance(target, ast.Name)
            }
            if "code" not in values:
                cause = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                status = values.get("status")
                number = status if isinstance(status, int) else 0
                yield Error(node.name.lstrip("_"), node.bases[0].id.lstrip("_"), cause, number)


TABLES = {
    "commands": commands,
    "short_forms": short_forms,
    "settings": settings,
    "routes": routes,
    "body": body,
    "events": events,
    "errors": errors,
}

if __name__ == "__main__":
    main()
