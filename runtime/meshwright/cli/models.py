"""`mesh models`, `mesh models route` and `mesh models test`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.connect import Connection, running_mesh, talk
from meshwright.cli.options import Target, data_option, json_option, require_trust
from meshwright.cli.output import Column, Document, echo_json, local_time, seconds, table
from meshwright.core.errors import ConfigError, HostError, MeshError
from meshwright.sql.folder import make_private, read_private, write_private

if TYPE_CHECKING:
    from meshwright.core.messages import Event
    from meshwright.models.config import LiteLLMConfig
    from meshwright.models.port import Adapter
    from meshwright.settings import Settings

_SOURCES = {"file": "", "list": " (list)", "local": " (local)", "default": " (default)"}
_FALLBACKS = {
    "fallbacks": "falls back to",
    "context_window_fallbacks": "if too long, to",
    "content_policy_fallbacks": "if forbidden, to",
}
_OTHER_SETTINGS = (
    "the running mesh was started with other settings than this shell has (here: %s): to see its groups and "
    "prices, set here what it was started with, such as LITELLM_BASE_URL, MESH_MODEL or keys of providers"
)
_HEALTH_FILE = "models.json"
_CALLS = 1000  # the last ones, from which health is read
_CIRCUITS = 100  # the last events of each type
_COOLED_DOWN = "deployment.cooled_down"
_CIRCUIT_EVENTS = (_COOLED_DOWN, "deployment.refused", "deployment.recovered")


@click.group(invoke_without_command=True)
@json_option
@data_option
@click.pass_context
def models(ctx: click.Context, as_json: bool, data: Path | None) -> None:
    """Show groups, deployments, tags and prices; say where a call goes.

    Prices are dollars per million tokens, in and out. Health is that of the
    last call or `mesh models test`.
    """
    if ctx.invoked_subcommand is None:
        project = _ModelsOfProject(data)
        found = asyncio.run(project.overview(_health(project.settings, data)))
        echo_json(found) if as_json else click.echo(overview_text(found))


@models.command()
@click.option("--model", "group", default="default", show_default=True, metavar="GROUP", help="The group.")
@click.option("--tags", default="", metavar="TAG,TAG", help="The tags of the call.")
@json_option
def route(group: str, tags: str, as_json: bool) -> None:
    """Say which deployments a call would reach, what follows, and why."""
    wanted = [tag.strip() for tag in tags.split(",") if tag.strip()]
    found = _ModelsOfProject(None).explain(group, wanted)
    echo_json(found) if as_json else click.echo("\n".join(_explained(found)))


@models.command()
@click.option("--model", "group", metavar="GROUP", help="Only the deployments of this group.")
@json_option
@data_option
def test(group: str | None, as_json: bool, data: Path | None) -> int:
    """Call each usable deployment plainly, streamed and with a tool.

    Each call is of a few tokens. Exit status 1 if one fails."""
    project = _ModelsOfProject(data)
    found = asyncio.run(project.test(group))
    _keep_health(project.settings, found)
    echo_json(found) if as_json else click.echo(table(_TESTED, found))
    return 0 if all(result["ok"] for result in found) else 1


class _ModelsOfProject:
    """Answers questions about the models of a project. Reads files; only `test` calls a model."""

    def __init__(self, data: Path | None) -> None:
        from meshwright.agents.loader import project_file
        from meshwright.settings import load_settings

        self.settings = load_settings(Path(), data_dir=data)
        require_trust(self.settings)
        self._path = project_file(Path(), self.settings.models.config)

    async def overview(self, health: Mapping[str, Document]) -> Document:
        """Groups, deployments, prices, what each misses, and warnings; asks the server where there is one."""
        from meshwright.models.config import read_config
        from meshwright.models.overview import groups_document
        from meshwright.models.prices import Prices

        model, problem = self._model()
        answers = model.name if model else f"none: {problem}"
        running = await _running_model(self.settings)
        if running is not None and not _is_same(running, answers):
            if model is not None:
                await model.close()
            return {"answers": running, "file": None, "groups": [], "warnings": [_OTHER_SETTINGS % answers]}
        try:
            config = server = await _server(model)
        finally:
            if model is not None:
                await model.close()
        if config is None and model is not None:
            config = model.config  # of one model that is named, there is no file
        if config is None and self._path.is_file():
            config = read_config(self._path)
        groups: list[Document] = []
        if config is not None:
            prices = Prices(config, self.settings.ledger.default_price, os.environ)
            states = _by_group(config, health) if server else health
            groups = groups_document(config, prices, None if server else os.environ, states)
        return {
            "answers": answers,
            "file": None if server or config is None else str(config.path),
            "groups": groups,
            "warnings": [] if server or config is None else self._warnings(config),
        }

    def explain(self, group: str, tags: list[str]) -> Document:
        """Where a call of a group with tags goes, by the file. Raises ConfigError, and ModelRefused."""
        from meshwright.models.config import read_config
        from meshwright.models.overview import explanation

        return {"file": str(self._path), **explanation(read_config(self._path), os.environ, group, tags)}

    async def test(self, group: str | None) -> list[Document]:
        """Call each usable deployment as agents do. Raises ConfigError where there is none of the group."""
        from meshwright.models.overview import probe_all

        model, problem = self._model()
        if model is None:
            raise problem or ConfigError("no model answers")
        try:
            server = await _server(model)
            probed, names = model.alone(group, server.groups if server else ())
            try:
                return await probe_all(probed, names, model.prices(self.settings.ledger.default_price))
            finally:
                await probed.close()
        finally:
            await model.close()

    def _model(self) -> tuple[Adapter | None, ConfigError | None]:
        from meshwright.context.text import count_tokens
        from meshwright.models.select import choose_model

        try:
            return choose_model(self.settings, self._path, count_tokens=count_tokens), None
        except ConfigError as problem:
            if problem.path and problem.line:  # the file itself is broken: nothing can be said of it
                raise
            return None, problem

    def _warnings(self, config: LiteLLMConfig) -> list[str]:
        from meshwright.agents.loader import load_agents, project_file, prompts_folder
        from meshwright.agents.tags import warnings_of
        from meshwright.prompts import Prompts

        prompts = Prompts(prompts_folder(Path(), self.settings))
        agents = load_agents(project_file(Path(), self.settings.agents.dir), Path())
        return list(map(str, warnings_of(config, prompts, agents)))


async def _running_model(settings: Settings) -> str | None:
    """What answers in the running mesh of the data folder; None where none runs, or it does not say."""
    async with running_mesh(settings) as mesh:
        if mesh is None:
            return None
        try:
            return (await mesh.client.status()).model
        except MeshError:  # its keys are not ours
            return None


def _is_same(running: str, own: str) -> bool:
    """Whether a running mesh has the models that the settings here choose; only it knows the agents' own."""
    both_offline = running.startswith("offline") and own.startswith("offline")
    return both_offline or running == own or running.startswith(f"{own}; by name ")


async def _server(model: Adapter | None) -> LiteLLMConfig | None:
    """What the server behind a model is made of, where there is one."""
    from meshwright.models.config import LiteLLMConfig

    found = None if model is None else await model.listed()
    if found is None:
        return None
    return LiteLLMConfig(Path("server"), tuple(found), {"enable_tag_filtering": True}, {}, {})


def _by_group(config: LiteLLMConfig, health: Mapping[str, Document]) -> dict[str, Document]:
    """The health of a server's deployments, which can only be called by their group."""
    from meshwright.models.routing import deployment_id

    known = {deployment_id(found): health.get(found["model_name"]) for found in config.deployments}
    return {**health, **{name: state for name, state in known.items() if state is not None}}


def _price(field: str, row: Document) -> str:
    price = row["price"]
    if price is None:
        return "?"
    return price[field] + (_SOURCES[price["source"]] if field == "output" else "")


def _own_id(row: Document) -> str:
    """The id of a deployment as far as group and model do not say it."""
    own: str = row.get("deployment") or ""
    return "" if own == row["group"] else own.removeprefix(f"{row['group']}/{row['model']}")


def _state(health: Document) -> str:
    return f"{health['status']} {local_time(health.get('at'))}".strip()


_GROUPS = (
    Column("group", "group", cut=4),
    Column("deployment", "model", cut=3),
    Column("id", write=_own_id, cut=4),
    Column("tags", "tags", ", ".join, cut=1),
    Column("in", write=partial(_price, "input")),
    Column("out", write=partial(_price, "output")),
    Column("health", "health", _state, cut=2),
    Column("missing", "missing", ", ".join),
)


def overview_text(found: Document) -> str:
    """What `mesh models` shows: who answers, the deployments, fallbacks and warnings."""
    rows = [{**row, "group": group["group"]} for group in found["groups"] for row in group["deployments"]]
    chains = [
        f"{group['group']} {_FALLBACKS[kind]} {', then '.join(groups)}"
        for group in found["groups"]
        for kind, groups in group["fallbacks"].items()
        if groups
    ]
    reasons = [
        f"{row['deployment']}: {row['health']['status']}: {row['health']['reason']}"
        for row in rows
        if row["health"].get("reason")
    ]
    shown = table(_GROUPS, rows) if rows else ""
    parts = [f"answers: {found['answers']}", shown, "\n".join(reasons), "\n".join(chains)]
    return "\n\n".join([*filter(None, parts), *(f"warning: {warning}" for warning in found["warnings"])])


def _explained(found: Document, indent: str = "") -> Iterator[str]:
    head = f"{found['when']}: " if found["when"] else ""
    yield f"{indent}{head}group {found['group']}: {found['why']}"
    for deployment in (*found["asked"], *found["instead"]):
        yield f"{indent}  {deployment['model']}  {deployment['why']}"
    for deployment in found["left_out"]:
        yield f"{indent}  not {deployment['model']}: set {', '.join(deployment['missing'])}"
    if found["problem"]:
        yield f"{indent}  No deployment is available: {found['problem']}"
    for fallback in found["fallbacks"]:
        yield from _explained(fallback, f"{indent}  ")


def _tested_cost(result: Document) -> str:
    if not result["ok"]:
        return ""
    return "?" if result["cost_usd"] is None else f"${Decimal(result['cost_usd']).normalize():f}"


def _tested_by(result: Document) -> str:
    if not result["ok"]:
        return result["error"]["message"]
    return result["model"] if result["tools"] else f"{result['model']} (takes no tools)"


def _tested_tokens(result: Document) -> str:
    usage: Any = result["ok"] and result["usage"]
    return f"{usage['prompt_tokens']} + {usage['completion_tokens']}" if usage else ""


def _verdict(ok: bool) -> str:
    return "ok" if ok else "failed"


_TESTED = (
    Column("deployment", "deployment"),
    Column("", "ok", _verdict),
    Column("time", "latency_ms", seconds),
    Column("tokens", write=_tested_tokens),
    Column("cost", write=_tested_cost),
    Column("", write=_tested_by),
)


def _health(settings: Settings, data: Path | None) -> dict[str, Document]:
    """How each deployment was last, by its id: when it was tested, or called by a mesh since."""
    states = [*_tested_health(settings).items(), *_called_health(settings, data).items()]
    return dict(sorted(states, key=lambda state: datetime.fromisoformat(state[1]["at"])))


def _called_health(settings: Settings, data: Path | None) -> dict[str, Document]:
    async def last_calls(mesh: Connection) -> list[Event]:
        found = await mesh.client.events(limit=_CALLS, event_type="model.called")
        for event_type in _CIRCUIT_EVENTS:
            found += await mesh.client.events(limit=_CIRCUITS, event_type=event_type)
        return sorted(found, key=lambda event: event.seq or 0)

    if not settings.data_dir.is_dir():
        return {}
    try:
        events = talk(Target(None, data), last_calls)
    except HostError:  # the data is in use, or cannot be read: what was called is not known
        return {}
    return {
        name: _health_from(event)
        for event in events
        if isinstance(name := event.fields.get("deployment"), str)
        and name
        and event.fields.get("outcome") != "cancelled"
    }


def _health_from(event: Event) -> Document:
    """What an event of a call or a circuit says of its deployment's health."""
    at, error = event.time.isoformat(), event.fields.get("error")
    if not isinstance(error, dict):
        return {"status": error or "ok", "at": at}
    name = f"refused {event.fields.get('status') or ''}".strip()
    if event.event_type == _COOLED_DOWN:
        name = "cooling down"
    return {"status": name, "at": at, "reason": event.fields.get("reason") or error.get("message", "")}


def _tested_health(settings: Settings) -> dict[str, Document]:
    try:
        known = json.loads(read_private(settings.data_dir / _HEALTH_FILE))
    except (OSError, ValueError):  # no test was made here, or the file is not ours
        return {}
    return known if isinstance(known, dict) else {}


def _keep_health(settings: Settings, found: list[Document]) -> None:
    now = datetime.now(UTC).isoformat()
    states = {
        result["deployment"]: {"status": "ok" if result["ok"] else result["error"]["type"], "at": now}
        for result in found
    }
    path = make_private(settings.data_dir) / _HEALTH_FILE
    write_private(path, json.dumps({**_tested_health(settings), **states}, ensure_ascii=False, indent=2))
