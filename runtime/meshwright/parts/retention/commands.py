"""`mesh prune`."""

from __future__ import annotations

from collections import Counter

import click

from meshwright.kit import (
    Connection,
    Document,
    Target,
    confirm,
    echo_json,
    json_option,
    mesh_options,
    talk,
    yes_option,
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@yes_option
@json_option
@mesh_options
def prune(target: Target, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have old tasks leave the lists, and erase their contents.

    [retention] of mesh.toml says after how many days, by status; a running mesh does it by itself, hourly.
    Open tasks stay, with all that they belong to. Events stay as long as keep_events_days says. The records
    of pruned tasks go after records_days more: then nothing is left of them but sums of costs.
    """

    async def ask(mesh: Connection) -> Document:
        if not (dry_run or yes):
            planned = await mesh.client.prune(dry_run=True)
            confirm(f"This erases the contents of old tasks for good: {_counted(planned)}.")
        report = await mesh.client.prune(dry_run=dry_run)
        while report["has_more"]:
            more = await mesh.client.prune()
            counts = Counter(report["tasks"]) + Counter(more["tasks"])
            report = {**more, "tasks": dict(counts), "records": report["records"] + more["records"]}
        return report

    report = talk(target, ask, need="change")
    if as_json:
        echo_json(report)
        return
    click.echo(f"{'would prune' if dry_run else 'pruned'}: {_counted(report)}")


def _counted(report: Document) -> str:
    counts = [f"{count:,} {status}" for status, count in sorted(report["tasks"].items())] or ["no task"]
    if report["records"]:
        counts.append(f"the records of {report['records']:,} pruned before")
    return ", ".join(counts)
