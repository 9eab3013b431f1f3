"""`mesh evaluate`, which evaluates an agent on a file, and `mesh evaluations`, which shows evaluations."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import click

from meshwright.component import Column
from meshwright.console.project import trust_option
from meshwright.core.display import number
from meshwright.kit import (
    AMOUNT,
    Backoff,
    Connection,
    Document,
    InvalidInput,
    NotFound,
    Target,
    WholeNumber,
    completes,
    completes_ids,
    dollars,
    echo_json,
    json_option,
    mesh_options,
    resource_group,
    short,
    table,
    talk,
    terminal_width,
)
from meshwright.parts.evaluations.display import EVALUATIONS

evaluations = resource_group(EVALUATIONS)
_WIDTH = 80


def _figure(value: float | None) -> str:
    return "-" if value is None else number(round(value, 4))


def _some(count: int) -> str:
    return str(count or "")


def _least(figure: Document) -> str:
    return f"{figure['least']:g} {'met' if figure['is_met'] else 'missed'}" if "least" in figure else ""


_FIGURES = (
    Column("figure", "name", cut=9),
    Column("kind", "kind", cut=1),
    Column("mean", "mean", _figure),
    Column("lowest", "lowest", _figure, cut=3, least=6),
    Column("highest", "highest", _figure, cut=2, least=7),
    Column("items", "count", str),
    Column("missing", "missing", _some),
    Column("kappa", "kappa", _figure, cut=4, least=5),
    Column("least", write=_least),
)


@evaluations.command("show")
@click.argument("name", metavar="ID", shell_complete=completes_ids(EVALUATIONS))
@json_option
@mesh_options
def _show(target: Target, name: str, as_json: bool) -> None:
    """Show the progress, the cost and the figures of an evaluation."""
    evaluation = talk(target, lambda mesh: mesh.client.call("GET", EVALUATIONS.item_path(name)), need="state")
    echo_json(evaluation) if as_json else _print(evaluation)


def _pairs(ctx: click.Context, parameter: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    """The least mean of each figure. Raises BadParameter."""
    numbers: dict[str, float] = {}
    for pair in texts:
        name, _, value = pair.rpartition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            numbers[name] = float("nan")
        if not name or not isfinite(numbers[name]):
            raise click.BadParameter(f"{pair!r} is no NAME=VALUE, such as correctness=7", ctx, parameter)
    return numbers


class _Items(NamedTuple):
    """The items of a file, and the line that each stands on."""

    items: list[Document]
    places: list[str]

    def find_place(self, field: str) -> str:
        """The line of a field of the request: `data.items.3.input` is one of the fourth item."""
        match = re.fullmatch(r"data\.items\.(\d+)\.(.+)", field)
        return f"{self.places[int(match[1])]}: {match[2]}: " if match else ""


def _lines(ctx: click.Context, parameter: click.Parameter, path: Path) -> _Items:
    """The items of a file, one JSON object on each line. Raises BadParameter, with the line."""
    items, places, place = list[Document](), list[str](), 0
    try:
        for place, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
            if line.strip():
                item = json.loads(line)
                if not isinstance(item, dict):
                    raise click.BadParameter(f"{path}:{place}: it is no JSON object", ctx, parameter)
                items.append(item)
                places.append(f"{path}:{place}")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} cannot be read: {error}", ctx, parameter) from None
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "it is nested too deep")
        raise click.BadParameter(f"{path}:{place}: {reason}", ctx, parameter) from None
    if not items:
        raise click.BadParameter(f"{path} has no items", ctx, parameter)
    return _Items(items, places)


@click.command()
@click.argument(
    "items",
    metavar="FILE.jsonl",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_lines,
)
@click.option(
    "--agent", metavar="NAME", shell_complete=completes("agent"), help="Answers the lines without an output."
)
@click.option(
    "--criterion",
    "criteria",
    multiple=True,
    metavar="NAME[=TEXT]",
    help="What a judge goes by; TEXT says what it means.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="length, readability, sentiment, factuality, exact, contains, regex, or one of yours.",
)
@click.option(
    "--min",
    "least",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_pairs,
    help="Exit with 1 where the mean is less.",
)
@click.option("--judge", metavar="AGENT", help="Default: judge.")
@click.option("--judge-model", metavar="GROUP", help="The models that the judge calls.")
@click.option("--votes", type=WholeNumber(1, 9), metavar="N", help="Judgements of each; their median counts.")
@click.option("--pairwise", is_flag=True, help="Compare each output with the line's other, in both orders.")
@click.option("--allow-same-model", is_flag=True, help="Let models judge their own answers.")
@click.option("--budget", type=AMOUNT, metavar="USD", help="The most that each of its tasks may cost.")
@click.option("--name", metavar="TEXT", default="", help="What the evaluation is called.")
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write JUnit XML.",
)
@trust_option
@json_option
@mesh_options
def evaluate(
    target: Target,
    items: _Items,
    agent: str | None,
    criteria: Sequence[str],
    metrics: Sequence[str],
    least: dict[str, float],
    junit: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Evaluate an agent on a file of questions, for CI.

    \b
    mesh evaluate q.jsonl --agent support --metric contains --min contains=0.9
    mesh evaluate q.jsonl --agent support --criterion brevity --min brevity=7

    Each line of the file is a JSON object with input, and for some metrics expected or context. The agent
    answers each input by a task; then the answers are measured, and judged by the agent of --judge, one task
    for each criterion. The exit status is 1 where a --min is missed or an item has failed.
    """
    parts = [text.partition("=") for text in criteria]
    requested = [{"name": name, "description": description} for name, _, description in parts]
    names = [*metrics, *(criterion["name"] for criterion in requested)]
    if not names:
        raise click.UsageError("name a --criterion or a --metric", click.get_current_context())
    if unknown := least.keys() - {*names}:
        problem = f"--min names {min(unknown)!r}, which is no --criterion and no --metric of this call"
        raise click.UsageError(problem, click.get_current_context())
    body = {
        "name": options["name"],
        "data": {"items": items.items},
        "agent_id": agent,
        "criteria": requested,
        "metrics": [*metrics],
        "judge": _judge(options),
        "budget_usd": options["budget"],
    }
    evaluation, rows = talk(target, lambda mesh: _evaluate(mesh, body, items), need="work", begins=True)
    for figure in evaluation["figures"]:
        if figure["name"] in least:
            figure["least"] = least[figure["name"]]
            figure["is_met"] = figure["mean"] is not None and figure["mean"] >= figure["least"]
    if junit is not None:
        try:
            junit.write_bytes(render_junit(evaluation, rows))
        except OSError as error:
            raise click.ClickException(f"{junit} cannot be written: {error.strerror}") from None
    echo_json(evaluation) if as_json else _print(evaluation, rows)
    return int(
        bool(evaluation["failed"]) or not all(figure.get("is_met", True) for figure in evaluation["figures"])
    )


def _judge(options: dict[str, Any]) -> Document:
    names = {"judge": "agent_id", "judge_model": "model", "votes": "votes"}
    chosen = {field: options[name] for name, field in names.items() if options[name] is not None}
    return {**chosen, "pairwise": options["pairwise"], "allow_same_model": options["allow_same_model"]}


async def _evaluate(mesh: Connection, body: Document, items: _Items) -> tuple[Document, list[Document]]:
    """Make the evaluation, wait for its end, and return it with its items."""
    client = mesh.client
    try:
        created = await client.resource(EVALUATIONS.name).create(**body)
    except (InvalidInput, NotFound) as error:
        place = items.find_place(error.field or "")
        problem = error.message.removeprefix(f"{error.field}: ") if place else error.message
        raise click.UsageError("; ".join(filter(None, (place + problem, error.remedy)))) from None
    path = EVALUATIONS.item_path(created["evaluation_id"])
    click.echo(f"evaluation {created['evaluation_id']}: {created['items']} items", err=True)
    pauses = Backoff(0.1, 2.0, jitter=0.0)
    while True:
        evaluation = await client.call("GET", path)
        if evaluation["status"] == "done":
            return evaluation, await client.items(f"{path}/items")
        await asyncio.sleep(pauses.next())


def _print(evaluation: Document, rows: Sequence[Document] = ()) -> None:
    if evaluation["figures"]:
        click.echo(table(_FIGURES, evaluation["figures"], width=terminal_width() or _WIDTH))
    failed = f", {evaluation['failed']} failed" if evaluation["failed"] else ""
    click.echo(
        f"{evaluation['done']} of {evaluation['items']} items{failed}, {dollars(evaluation['cost_usd'])}"
    )
    for item in rows:
        if item["status"] == "failed":
            click.echo(f"item {item['number']} failed: {item['figures']['error']}", err=True)
    for warning in evaluation["warnings"]:
        click.echo(f"note: {warning}", err=True)


def render_junit(evaluation: Document, items: Sequence[Document]) -> bytes:
    """An evaluation as JUnit XML with its items; figures that have a `least` are cases."""
    from xml.etree import ElementTree

    bound = [figure for figure in evaluation["figures"] if "least" in figure]
    missed = sum(not figure["is_met"] for figure in bound)
    name = short(evaluation["name"] or evaluation["evaluation_id"])
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(items) + len(bound)),
        failures=str(missed),
        errors=str(evaluation["failed"]),
    )
    for item in items:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.items", name=_title(item))
        if item["status"] == "failed":
            ElementTree.SubElement(case, "error", message=short(item["figures"]["error"]))
        ElementTree.SubElement(case, "system-out").text = _figures(item)
    for figure in bound:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.figures", name=figure["name"])
        if not figure["is_met"]:
            mean = "none" if figure["mean"] is None else number(figure["mean"])
            ElementTree.SubElement(
                case, "failure", message=f"the mean is {mean}, less than {figure['least']:g}"
            )
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _title(item: Document) -> str:
    request = (item.get("texts") or {}).get("input") or ""
    return f"{item['number']}: {short(request)}" if request else str(item["number"])


def _figures(item: Document) -> str:
    figures = item["figures"] or {"metrics": {}, "criteria": {}}
    values = figures["metrics"] | {
        name: judgement["value"] for name, judgement in figures["criteria"].items()
    }
    return "\n".join(
        f"{name}: {'none' if value is None else number(value)}" for name, value in values.items()
    )
