"""`mesh models`: groups, deployments and prices, where a call goes, and tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.console.connect import Connection, require_folder, running_mesh, say_asked, talk
from meshwright.console.nouns import Noun
from meshwright.console.options import Target, json_option, mesh_options
from meshwright.console.output import echo_json, say, table
from meshwright.console.project import require_trust
from meshwright.console.timeline import drawing
from meshwright.core.display import Column, Document, local_time, seconds
from meshwright.core.errors import ConfigError, MeshError
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered, ModelCalled
from meshwright.models.last_tests import keep_results, read_results
from meshwright.models.settings import ModelsSettings
from meshwright.money.settings import LedgerSettings

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.core.events import Event
    from meshwright.core.settings import Settings
    from meshwright.models.overview import Deployments

_SOURCES = {"file": "", "list": " (list)", "local": " (local)", "default": " (default)"}
_FALLBACKS = {
    "fallbacks": "falls back to",
    "context_window_fallbacks": "if too long, to",
    "content_policy_fallbacks": "if forbidden, to",
}
_UNKNOWN = {"status": "unknown"}
_CALLS = 1000  # the last ones, from which health is read
_CIRCUITS = 100  # the last events of each type
_COOLED_DOWN, _REFUSED = DeploymentLeftAlone.event_types


@click.group(cls=Noun)
def models() -> None:
    """Show groups, deployments, tags and prices; say where a call goes.

    Those of the mesh that runs on the data or at --url, else of the settings here. Prices are dollars per
    million tokens, in and out. Health is that of the last call or `mesh models test`.
    """


@models.command("list")
@json_option
@mesh_options
def _list_models(target: Target, as_json: bool) -> None:
    """Show groups, deployments, tags and prices."""
    settings = _settings(target)
    overview = asyncio.run(_overview(target, settings))
    states = [*read_results(settings.data_dir).items(), *_called_health(target, settings).items()]
    health = dict(sorted(states, key=lambda state: datetime.fromisoformat(state[1]["at"])))
    for group in overview["groups"]:
        of_server = health.get("" if overview["file"] else group["group"])
        for row in group["deployments"]:
            row["health"] = health.get(row["deployment"]) or of_server or _UNKNOWN
    echo_json(overview) if as_json else click.echo(overview_text(overview))


@models.command()
@click.option("--model", "group", default="default", show_default=True, metavar="GROUP", help="The group.")
@click.option("--tags", default="", metavar="TAG,TAG", help="The tags of the call.")
@json_option
@mesh_options
def route(target: Target, group: str, tags: str, as_json: bool) -> None:
    """Say which deployments a call would reach, what follows, and why."""
    tag_list = [tag.strip() for tag in tags.split(",") if tag.strip()]

    async def ask() -> Document:
        settings = _settings(target)
        async with _running(target, settings) as client:
            if client is not None:
                return await client.deployment_route(group, tag_list)
        server = settings[ModelsSettings].base_url
        return {
            **_load_deployments(settings).route(group, tag_list),
            "answers": f"http {server}" if server else None,
        }

    route_document = asyncio.run(ask())
    echo_json(route_document) if as_json else _explain(route_document)


@models.command()
@click.option("--model", "group", metavar="GROUP", help="Only the deployments of this group.")
@json_option
@mesh_options
def test(target: Target, group: str | None, as_json: bool) -> int:
    """Call each usable deployment as agents do: plain, streamed, with a tool and its result.

    Also two calls of tools at once, an answer in a JSON schema and an unknown field; says of each what it saw
    and what to set. The mesh that runs on the data makes the calls, at most eight for each deployment, of at
    most 900 tokens of output together; tasks that wait for a deployment that answers go on. The results are
    kept for mesh doctor. Exit status 1 if agents cannot work with one."""
    settings = _settings(target)

    async def ask() -> tuple[list[Document], str]:
        async with _running(target, settings) as client:
            if client is not None:
                answers = (await client.status()).model or ""
                return await client.test_deployments(group), answers
        async with _deployments(settings) as here:
            return await here.test(group), here.answers

    with drawing() as canvas:
        canvas.doing("calling the deployments")
        results, answers = asyncio.run(ask())
    keep_results(settings.data_dir, results, answers)
    if as_json:
        echo_json(results)
    else:
        click.echo(table(_TESTED, results))
        _say_findings(results)
    return 0 if all(result["ok"] for result in results) else 1


def _settings(target: Target) -> Settings:
    from meshwright.core.settings import load_settings

    settings = load_settings(Path(), data_dir=target.data)
    require_folder(target.data, settings)
    return settings


@asynccontextmanager
async def _running(target: Target, settings: Settings) -> AsyncIterator[Client | None]:
    """The mesh that runs; None, once the project is trusted, if there is none or its keys are not ours."""
    async with running_mesh(target.url or settings, tenant=target.tenant) as mesh:
        client = None
        try:
            if mesh is not None and (target.url or (await mesh.client.status()).model is not None):
                client = mesh.client
                say_asked(mesh.where, always=True)
        except MeshError:
            if target.url is not None:
                raise
        if client is None:
            require_trust(settings)
            say_asked(None, settings.data_dir, instead="as the settings here say")
        yield client


@asynccontextmanager
async def _deployments(settings: Settings) -> AsyncIterator[Deployments]:
    """The deployments that the settings here choose. Raises ConfigError where nothing answers."""
    from meshwright.agents.context.text import count_tokens
    from meshwright.models.overview import Deployments
    from meshwright.models.select import choose_model

    path = _config_file(settings)
    owns_file = path == settings[ModelsSettings].config  # else it is the one that comes with Meshwright
    model = choose_model(settings, path, count_tokens=count_tokens, owns_file=owns_file)
    try:
        yield Deployments(model, path, settings[LedgerSettings].default_price)
    finally:
        await model.close()


def _config_file(settings: Settings) -> Path:
    from meshwright.agents.loader import project_file

    return project_file(Path(), settings[ModelsSettings].config)


async def _overview(target: Target, settings: Settings) -> Document:
    async with _running(target, settings) as client:
        if client is not None:
            return await client.deployments()
    try:
        async with _deployments(settings) as here:
            return {**await here.overview(), "warnings": _warnings(settings)}
    except ConfigError as problem:
        if (problem.path and problem.line) or not _config_file(settings).is_file():
            raise  # the file itself is broken: nothing can be said of it
        return {**await _load_deployments(settings).overview(), "answers": f"none: {problem}", "warnings": []}


def _load_deployments(settings: Settings) -> Deployments:
    from meshwright.models.offline_model import OfflineModel
    from meshwright.models.overview import Deployments

    return Deployments(OfflineModel(), _config_file(settings), settings[LedgerSettings].default_price)


def _warnings(settings: Settings) -> list[str]:
    from meshwright.agents.loader import prompt_variables, prompts_folder
    from meshwright.agents.prompts import Prompts, PromptSources
    from meshwright.agents.shipped import find_warnings
    from meshwright.mesh.app import load_agents
    from meshwright.models.config import read_config

    path = _config_file(settings)
    if settings[ModelsSettings].base_url or not path.is_file():
        return []
    agents = load_agents(settings, Path())
    prompts = PromptSources([Prompts(prompts_folder(Path(), settings), own=prompt_variables(agents))])
    return list(map(str, find_warnings(read_config(path), prompts, agents)))


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
    Column("deployment", "model", cut=6, least=27),
    Column("id", write=_own_id, cut=4),
    Column("tags", "tags", ", ".join, cut=1),
    Column("in", write=partial(_price, "input")),
    Column("out", write=partial(_price, "output")),
    Column("health", "health", _state, cut=2),
    Column("missing", "missing", ", ".join, least=17),
)


def overview_text(overview: Document) -> str:
    """The text of `mesh models`: who answers, the deployments, fallbacks and warnings."""
    rows = [{**row, "group": group["group"]} for group in overview["groups"] for row in group["deployments"]]
    chains = [
        f"{group['group']} {_FALLBACKS[kind]} {', then '.join(groups)}"
        for group in overview["groups"]
        for kind, groups in group["fallbacks"].items()
        if groups
    ]
    reasons = [
        f"{row['deployment']}: {row['health']['status']}: {row['health']['reason']}"
        for row in rows
        if row["health"].get("reason")
    ]
    groups_table = table(_GROUPS, rows) if rows else ""
    parts = [f"answers: {overview['answers']}", groups_table, "\n".join(reasons), "\n".join(chains)]
    return "\n\n".join([*filter(None, parts), *(f"warning: {warning}" for warning in overview["warnings"])])


def _explain(document: Document) -> None:
    if document["answers"]:
        file = Path(document["file"]).name
        say(f"answers: {document['answers']}, which does not read {file}; that file says:")
    for line in _explained(document):
        say(line, indent=len(line) - len(line.lstrip()) + 2)


def _explained(document: Document, indent: str = "") -> Iterator[str]:
    head = f"{document['when']}: " if document["when"] else ""
    yield f"{indent}{head}group {document['group']}: {document['why']}"
    for deployment in (*document["asked"], *document["instead"]):
        yield f"{indent}  {deployment['model']}  {deployment['why']}"
    for deployment in document["left_out"]:
        yield f"{indent}  not {deployment['model']}: set {', '.join(deployment['missing'])}"
    if document["problem"]:
        yield f"{indent}  No deployment is available: {document['problem']}"
    for fallback in document["fallbacks"]:
        yield from _explained(fallback, f"{indent}  ")


def _say_findings(results: list[Document]) -> None:
    """Say what was seen, once for the deployments that are alike in it."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        for finding in result.get("findings", ()):  # a mesh of an earlier version has none
            names.setdefault((finding["name"], finding["behaviour"], finding["remedy"]), []).append(
                result["deployment"]
            )
    for (name, seen, remedy), deployments in names.items():
        of = "" if len(deployments) == len(results) else f"{', '.join(deployments)}: "
        say(f"{name:<13}  {of}{seen}{f'. {remedy}' if remedy else ''}", indent=15)


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


def _called_health(target: Target, settings: Settings) -> dict[str, Document]:
    async def last_calls(mesh: Connection) -> list[Event]:
        events = await mesh.client.events(limit=_CALLS, event_type=ModelCalled.event_type)
        for event_type in (_COOLED_DOWN, _REFUSED, DeploymentRecovered.event_type):
            events += await mesh.client.events(limit=_CIRCUITS, event_type=event_type)
        return sorted(events, key=lambda event: event.seq or 0)

    if target.url is None and not settings.data_dir.is_dir():
        return {}
    try:
        events = talk(target, last_calls)
    except MeshError:  # the data is in use, or its events are not for us: what was called is not known
        return {}
    return {deployment: health for event in events for deployment, health in _health_from(event)}


def _health_from(event: Event) -> Iterator[tuple[str, Document]]:
    """The deployments with their health after an event; a call that was cancelled says nothing of its own."""
    at = event.time.isoformat()
    if (call := ModelCalled.read(event)) is not None:
        for deployment, error in zip_longest(call.failed_at, call.failed_with, fillvalue="failed"):
            yield deployment, {"status": error, "at": at}
        if (
            call.deployment
            and call.outcome != "cancelled"
            and not (call.failed_at and call.outcome == "failed")
        ):
            yield call.deployment, {"status": call.error or "ok", "at": at}
        return
    if (pause := DeploymentLeftAlone.read(event)) is not None:
        status = f"refused {pause.status or ''}".strip()
        if event.event_type == _COOLED_DOWN:
            status = "cooling down"
        message = pause.error.message if pause.error is not None else ""
        yield pause.deployment, {"status": status, "at": at, "reason": pause.reason or message}
        return
    yield DeploymentRecovered.from_payload(event.payload).deployment, {"status": "ok", "at": at}
