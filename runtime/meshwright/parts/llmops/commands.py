"""`mesh registry`: versions of prompts, with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from meshwright.agents.settings import PromptsSettings
from meshwright.component import Column
from meshwright.kit import (
    Conflict,
    Connection,
    Document,
    NotFound,
    Target,
    WholeNumber,
    completes_ids,
    echo_json,
    for_terminal,
    json_option,
    local_time,
    mesh_options,
    resource_group,
    show,
    talk,
)
from meshwright.parts.llmops.display import PROMPTS, render_labels, render_number

registry = resource_group(PROMPTS)
_NAME = click.argument("name", metavar="NAME", shell_complete=completes_ids(PROMPTS))
_VERSION = click.option("--version", type=WholeNumber(1), metavar="N", help="Default: the newest.")
_LABEL = click.option("--label", metavar="LABEL", help="The version that a label points at.")


def _labels_at(prompt: Document) -> str:
    return ", ".join(label for label, version in prompt["labels"].items() if version == prompt["version"])


def _short(digest: str) -> str:
    return digest[:12]


_VERSIONS = (
    Column("version", write=render_number),
    Column("digest", "digest", _short),
    Column("labels", write=_labels_at, cut=2),
    Column("author", "author"),
    Column("when", "created_at", local_time),
    Column("message", "message", cut=1),
)


def _find_version(target: Target, name: str, version: int | None, label: str | None) -> Document:
    """A version with its text: by its number or a label, else the newest."""
    if version is not None and label is not None:
        raise click.UsageError("give either --version or --label", click.get_current_context())
    path = PROMPTS.item_path(name)
    query = {"version": version} if version else {"label": label} if label else {}
    return talk(target, lambda mesh: mesh.client.call("GET", path, **query), need="state")


@registry.command("show")
@_NAME
@_VERSION
@_LABEL
@json_option
@mesh_options
def _show(target: Target, name: str, version: int | None, label: str | None, as_json: bool) -> None:
    """Print a version of a prompt as a file: its parameters as front matter, and its template."""
    prompt = _find_version(target, name, version, label)
    if as_json:
        echo_json(prompt)
    else:
        click.echo(for_terminal(prompt["text"]), nl=not prompt["text"].endswith("\n"))


@registry.command("promote")
@_NAME
@_VERSION
@_LABEL
@click.option("--branch", metavar="BRANCH", help="The new branch. Default: promote-NAME-vN.")
@click.option("--message", metavar="TEXT", help="The subject of the commit.")
@json_option
@mesh_options
def _promote(
    target: Target,
    name: str,
    version: int | None,
    label: str | None,
    branch: str | None,
    message: str | None,
    as_json: bool,
) -> None:
    """Commit a version as the project's prompt file, on a new branch.

    The branch begins at what is checked out. Your files, your index and other branches stay as they are.
    """
    from meshwright.agents.prompts.history import promote

    file = _own_prompts() / f"{name}.prompt"
    prompt = _find_version(target, name, version, label)
    number, digest = prompt["version"], prompt["digest"]
    why = f"{prompt['message']}\n\n" if prompt["message"] else ""
    origin = f"Registered by {prompt['author']} as v{number}, digest {digest}."
    subject = message or f"Promote prompt {name} v{number}"
    promotion = promote(
        file, prompt["text"], branch or f"promote-{name}-v{number}", f"{subject}\n\n{why}{origin}\n"
    )
    if as_json:
        echo_json({"name": name, "version": number, "digest": digest, **promotion._asdict()})
        return
    new = ", a new file," if promotion.is_new else ""
    click.echo(f"{promotion.path}{new} is {name} v{number} ({digest[:12]}) in the branch {promotion.branch}")
    click.echo(f"commit: {promotion.commit}")
    push = f"git push -u {promotion.remote} {promotion.branch}, and open a pull request"
    click.echo(f"next: {push if promotion.remote else f'git merge {promotion.branch}'}")
    if "production" in prompt["labels"]:
        click.echo(f"then: mesh registry unlabel {name} production, since agents use that before the file")


def _own_prompts() -> Path:
    """The folder of the project's prompt files. Raises NotFound outside of a project."""
    from meshwright.agents.loader import prompts_folder
    from meshwright.component import load_settings

    settings = load_settings(Path())
    own = Path.cwd() / settings[PromptsSettings].dir
    if prompts_folder(Path.cwd(), settings) != own:
        problem = f"{Path.cwd()} has neither agents nor prompts of its own"
        raise NotFound(problem, remedy="run it in the folder of the project")
    return own


@registry.command("versions")
@_NAME
@json_option
@mesh_options
def _versions(target: Target, name: str, as_json: bool) -> None:
    """List the versions of a prompt, the newest first."""
    path = f"{PROMPTS.item_path(name)}/versions"
    versions = talk(target, lambda mesh: mesh.client.items(path), need="state")
    show(versions, _VERSIONS, as_json=as_json, empty="")


@registry.command("add")
@click.argument("file", metavar="FILE.prompt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="Default: that of the file.")
@click.option("--message", metavar="TEXT", default="", help="What changed, and why.")
@json_option
@mesh_options
def _add(target: Target, file: Path, name: str | None, message: str, as_json: bool) -> None:
    """Register a prompt file, or make the next version of its prompt. That changes nothing live.

    mesh registry label NAME production VERSION makes a version live.
    """
    from meshwright.agents.prompts.prompt import fields_and_body
    from meshwright.component import parse_prompt

    prompt_name, data = name or file.stem, file.read_bytes()
    parse_prompt(prompt_name, data, str(file))  # names file and line; the mesh knows its agents' variables
    parameters, template = fields_and_body(data.decode("utf-8-sig"))
    body: dict[str, Any] = {"template": template, "parameters": parameters, "message": message}

    async def add(mesh: Connection) -> Document:
        prompts = mesh.client.resource(PROMPTS.name)
        try:
            return await prompts.create(name=prompt_name, **body)
        except Conflict:
            return await prompts.put(prompt_name, **body)

    added = talk(target, add, need="change", begins=True)
    if as_json:
        echo_json(added)
    else:
        click.echo(f"registered: {prompt_name} v{added['version']} ({added['digest'][:12]})")


@registry.command("label")
@_NAME
@click.argument("label", metavar="LABEL")
@click.argument("version", type=WholeNumber(1), metavar="VERSION")
@json_option
@mesh_options
def _label(target: Target, name: str, label: str, version: int, as_json: bool) -> None:
    """Point a label at a version. Agents use `production` from their next attempt on."""
    path, body = _path_of_label(name, label), {"version": version}
    prompt = talk(target, lambda mesh: mesh.client.call("PUT", path, body=body), need="change")
    echo_json(prompt) if as_json else click.echo(f"{name}: {render_labels(prompt)}")


@registry.command("unlabel")
@_NAME
@click.argument("label", metavar="LABEL")
@mesh_options
def _unlabel(target: Target, name: str, label: str) -> None:
    """Delete a label. Without `production` agents use their prompt files again."""
    talk(target, lambda mesh: mesh.client.call("DELETE", _path_of_label(name, label)), need="change")
    click.echo(f"{name} has no {label} any more")


def _path_of_label(name: str, label: str) -> str:
    return f"{PROMPTS.item_path(name)}/labels/{quote(label, safe='')}"
