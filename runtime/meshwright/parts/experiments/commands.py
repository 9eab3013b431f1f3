"""`mesh experiments`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meshwright.component import Column
from meshwright.kit import (
    Document,
    Target,
    WholeNumber,
    completes_ids,
    dollars,
    echo_json,
    json_option,
    mesh_options,
    resource_group,
    say,
    table,
    talk,
    terminal_width,
)
from meshwright.parts.experiments.display import EXPERIMENTS

experiments = resource_group(EXPERIMENTS)
_ID = click.argument("experiment_id", metavar="ID", shell_complete=completes_ids(EXPERIMENTS))
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_VERDICTS = {"better": "better", "worse": "worse", "same": "no difference that matters"}


def _verdict(variant: Document) -> str:
    missing = variant["missing"]
    return _VERDICTS.get(variant["verdict"], "" if missing is None else f"open, {missing:,} more of each")


def _range(low: str, high: str) -> Callable[[Document], str]:
    return lambda row: "" if row[low] is None else f"{_digits(row[low])}..{_digits(row[high])}"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _chance(p_value: float | None) -> str:
    return "" if p_value is None else "<.0001" if p_value < 1e-4 else f"{p_value:.4f}"


VARIANTS = (
    Column("variant", "variant"),
    Column("ended", "ended", str),
    Column("open", "open", str),
    Column("cost", "cost_usd", dollars),
    Column("verdict", write=_verdict, cut=1),
)
FIGURES = (
    Column("metric", "metric", cut=2, least=10),
    Column("variant", "variant", cut=1),
    Column("n", "count", str),
    Column("mean", "mean", _digits),
    Column("95 %", write=_range("low", "high"), cut=3, least=14),
    Column("difference", write=_range("difference_low", "difference_high"), cut=4, least=14),
    Column("p", "p_value", _chance),
)


@experiments.command("create")
@click.argument("file", metavar="FILE.json", type=_FILE)
@json_option
@mesh_options
def _create(target: Target, file: Path, as_json: bool) -> None:
    """Make an experiment of a file, which is the body of POST /v1/experiments. It does nothing yet."""
    path, body = EXPERIMENTS.path, _read_json(file)
    experiment = talk(
        target, lambda mesh: mesh.client.call("POST", path, body=body), need="change", begins=True
    )
    if as_json:
        echo_json(experiment)
    else:
        click.echo(f"made: {experiment['experiment_id']}  mesh experiments run {experiment['experiment_id']}")


@experiments.command("run")
@_ID
@click.option("--inputs", metavar="FILE.json", type=_FILE, help="A list of payloads to try each variant on.")
@click.option("--repeats", type=WholeNumber(1, 100), default=1, help="How often, with --inputs.")
@json_option
@mesh_options
def _run(target: Target, experiment_id: str, inputs: Path | None, repeats: int, as_json: bool) -> None:
    """Choose a variant for each new task of the agent from now on; or try the variants on inputs."""
    path = f"{EXPERIMENTS.item_path(experiment_id)}/run"
    body: Document = {} if inputs is None else {"inputs": _read_json(inputs), "repeats": repeats}
    run = talk(target, lambda mesh: mesh.client.call("POST", path, body=body), need="change")
    if as_json:
        echo_json(run)
    else:
        tasks = f" ({len(run['task_ids']):,} tasks)" if inputs is not None else ""
        click.echo(f"{run['experiment']['name']} runs over {run['experiment']['runs_over']}{tasks}")


@experiments.command("results")
@_ID
@json_option
@mesh_options
def _results(target: Target, experiment_id: str, as_json: bool) -> None:
    """Show each variant's metrics, and how far they are from those of the first one."""
    path = f"{EXPERIMENTS.item_path(experiment_id)}/results"
    results = talk(target, lambda mesh: mesh.client.call("GET", path), need="state")
    if as_json:
        echo_json(results)
        return
    experiment = results["experiment"]
    reason = f": {experiment['reason']}" if experiment["reason"] else ""
    say(f"{experiment['name']} on {experiment['agent_id']}, {experiment['status']}{reason}")
    width = terminal_width()
    click.echo(f"\n{table(VARIANTS, results['variants'], width=width)}")
    if results["figures"]:
        click.echo(f"\n{table(FIGURES, results['figures'], width=width)}")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{file} is no JSON: {error}") from None
