"""Commands for tasks: `mesh ask`, `submit`, `tasks`, `task` and `cancel`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlencode

import click

from meshwright.cli.steps import save_files, show_steps, step_path, task_bounds, task_page
from meshwright.console import output
from meshwright.console.connect import Connection, talk, whole_id
from meshwright.console.filters import (
    ENDED,
    MATCH,
    OPEN,
    REASON,
    TASKS,
    filter_options,
    follow_tasks,
    given_filter,
)
from meshwright.console.nouns import completes
from meshwright.console.options import (
    AMOUNT,
    FILE,
    JSON_OBJECT,
    Target,
    WholeNumber,
    follow_option,
    from_stdin,
    json_option,
    limit_option,
    limit_options,
    mesh_options,
    quiet_option,
    raw_option,
    task_budget_options,
    time_options,
)
from meshwright.console.output import document
from meshwright.console.project import trust_option
from meshwright.core import display
from meshwright.core.display import Document
from meshwright.core.errors import NotFound
from meshwright.core.task_events import WaitKind
from meshwright.money.display import estimated

if TYPE_CHECKING:
    from meshwright.core.messages import Receipt

_WAITS = get_args(WaitKind)
_NO_TASKS = 'no such tasks; mesh ask AGENT "..." makes one'


def _request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """AGENT, TEXT and the first options of a task, in the order in which all doors name its fields."""

    @wraps(command)
    def call(*, agent_id: str | None, text: str | None, capability: str | None, **options: Any) -> Any:
        context = click.get_current_context()
        if capability is not None and text is None and agent_id is not None:  # TEXT stands alone
            parameter = next(parameter for parameter in context.command.params if parameter.name == "text")
            agent_id, text = None, from_stdin(context, parameter, agent_id)
        if agent_id is None and capability is None:
            raise click.MissingParameter(ctx=context, param_hint="'AGENT'", param_type="argument")
        if files := options.pop("files"):
            options["payload"] |= {"files": [*files]}
        if text is None and not options["payload"] and not options["estimate"]:
            whom = agent_id or f"--capability {capability}"
            words = f'a task needs words: {context.command_path} {whom} "..." (or --payload JSON)'
            raise click.UsageError(words, context)
        return command(agent_id=agent_id, text=text or "", capability=capability, **options)

    option: Any = call
    for add_option in reversed(_REQUEST):
        option = add_option(option)
    return option


_REQUEST = (
    click.argument("agent_id", metavar="AGENT", required=False, shell_complete=completes("agent")),
    click.argument("text", metavar="TEXT", required=False, callback=from_stdin),
    click.option(
        "--payload", type=JSON_OBJECT, default="{}", help="More of the request; TEXT is its `text`."
    ),
    click.option(
        "--shape",
        type=JSON_OBJECT,
        help="A JSON schema, in which the agent's model answers: an answer that does not fit is a failure.",
    ),
    click.option(
        "--thread", "thread_id", metavar="ID", help="Continue this conversation: the agent sees its history."
    ),
    click.option("--budget", "budget_usd", type=AMOUNT, help="Dollars that it may cost, in all."),
    click.option(
        "--file",
        "files",
        type=FILE,
        multiple=True,
        help="A picture or another file for the model, or its URL. May be given several times.",
    ),
    click.option(
        "--capability",
        metavar="NAME",
        shell_complete=completes("capability"),
        help="The best agent that can do this gets it; AGENT may be left out.",
    ),
    click.option("--priority", type=WholeNumber(0, 10), default=5, show_default=True, help="10 goes first."),
)


_after_option = click.option(
    "--after",
    metavar="ID",
    shell_complete=completes("task"),
    help="Begin once this task has ended, however it did; an end of its id will do.",
)
_repository_option = click.option(
    "--repository",
    metavar="NAME",
    help="The repository of [trees] that it works on, where there are several.",
)


@click.command()
@_request_options
@_after_option
@_repository_option
@task_budget_options
@time_options
@quiet_option
@raw_option
@json_option
@mesh_options
@trust_option
@limit_options
def ask(
    target: Target,
    agent_id: str | None,
    text: str,
    quiet: bool,
    raw: bool,
    as_json: bool,
    estimate: bool,
    after: str | None,
    **fields: Any,
) -> int:
    """Ask an agent, follow its progress, print the answer.

    TEXT is the request; - reads it from stdin. With --capability the best agent for it is asked.
    Progress goes to stderr, only the answer to stdout; a terminal draws Markdown. Uses a running mesh if
    there is one; otherwise the command runs a mesh of its own. If a person is asked and there is no terminal,
    it says how to answer, and ends with status 1.
    """
    from meshwright.console.timeline import print_answer, watch

    if estimate:
        return _estimate(target, as_json=as_json, agent_id=agent_id, capability=fields["capability"])

    async def ask_it(mesh: Connection) -> Document:
        receipt = await _submit(mesh, agent_id, text, after, fields)
        return await watch(mesh, receipt.task_id, quiet=quiet)

    with output.answer_alone():
        outcome = talk(target, ask_it, need="work", begins=True)
    return print_answer(outcome, as_json=as_json, raw=raw)


async def _submit(
    mesh: Connection, agent_id: str | None, text: str, after: str | None, fields: dict[str, Any]
) -> Receipt:
    fields["after"] = after and await whole_id(mesh, after)
    try:
        return await mesh.client.submit(agent_id or "", text, **fields)
    except NotFound as error:
        if agent_id is None or error.field == "after":
            raise
        raise await with_names(mesh, agent_id, error) from None


def _estimate(target: Target, *, as_json: bool, **whose: str | None) -> int:
    async def estimate_it(mesh: Connection) -> Document:
        return document(await mesh.client.estimate(**whose))

    estimate = talk(target, estimate_it, need="state")
    click.echo(json.dumps(estimate) if as_json else estimated(estimate))
    return 0


async def with_names(mesh: Connection, agent_id: str, error: NotFound) -> NotFound:
    """The error that an agent is not known, with the one that was probably meant, or all there are."""
    from meshwright.console.project import shipped_agents
    from meshwright.core.errors import nearest

    if agent_id in shipped_agents():
        remedy = f'it comes with Meshwright: include = ["{agent_id}"] below [agents] of mesh.toml adds it'
        return NotFound(error.message, remedy=remedy, field=error.field)
    agents = [agent for agent in await mesh.client.agents() if agent.kind == "agent"]
    names = [agent.agent_id for agent in agents]
    close = nearest(agent_id, names)
    command = click.get_current_context().command_path
    if agent_id in {capability.name for agent in agents for capability in agent.capabilities}:
        remedy = f'it is a capability: {command} --capability {agent_id} "..."'
        return NotFound(error.message, remedy=remedy, field=error.field)
    remedy = f"did you mean: {command} {close}" if close else f"there are {', '.join(names) or 'none'}"
    if not close and not mesh.is_running and set(names) <= set(shipped_agents()):
        remedy += f"; none is of {Path.cwd()}: go to the folder of the project that has it"
    return NotFound(error.message, remedy=remedy, field=error.field)


@click.command()
@_request_options
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key is the same task.")
@click.option("--wait", is_flag=True, help="Follow its progress and print its answer, as mesh ask does.")
@_after_option
@_repository_option
@task_budget_options
@time_options
@quiet_option
@raw_option
@json_option
@mesh_options
@trust_option
@limit_options
def submit(
    target: Target,
    agent_id: str | None,
    text: str,
    wait: bool,
    quiet: bool,
    raw: bool,
    as_json: bool,
    estimate: bool,
    after: str | None,
    **fields: Any,
) -> int:
    """Submit a task, and print its id.

    TEXT is the request; - reads it from stdin. With --capability (mesh agents lists them) the best agent for
    it gets it.
    """
    from meshwright.console.timeline import print_answer, watch

    if estimate:
        return _estimate(target, as_json=as_json, agent_id=agent_id, capability=fields["capability"])

    async def submit_it(mesh: Connection) -> Document:
        receipt = await _submit(mesh, agent_id, text, after, fields)
        if wait:
            return await watch(mesh, receipt.task_id, quiet=quiet, stays=True)
        chosen = f"{receipt.dispatched_to} (score {display.number(receipt.score)})"
        if not receipt.dispatched_to:
            chosen = f"begins once task {fields['after']} has ended"
        hint = f"mesh task {receipt.task_id}{mesh.options} shows it"
        if not quiet:
            output.say(f"{receipt.status}: {chosen}; {hint}", err=True)
        if not mesh.is_running:
            until = f"until one does: mesh up{mesh.options}"
            output.say(f"no mesh is running: the task waits in {mesh.where} {until}", err=True)
        return document(receipt)

    with output.answer_alone():
        result = talk(target, submit_it, need="work" if wait else "change", begins=True)
    if wait:
        return print_answer(result, as_json=as_json, raw=raw)
    click.echo(json.dumps(result) if as_json else result["task_id"])
    return 0


@click.command()
@filter_options(*OPEN, *ENDED)
@click.option(
    "--waits-for",
    type=click.Choice(_WAITS),
    metavar="KIND",
    help=f"Only of tasks that wait for this now: {', '.join(_WAITS)}.",
)
@click.option(
    "--waits-for-model",
    metavar="NAME",
    help="Only of tasks that wait for this model now: its group, or a deployment.",
)
@click.option(
    "--order",
    type=click.Choice(["created", "changed"]),
    default="created",
    show_default=True,
    help="The newest first, or those that changed last.",
)
@limit_option(20)
@follow_option
@json_option
@mesh_options
def tasks(target: Target, limit: int, follow: bool, as_json: bool, order: str, **of_task: Any) -> None:
    """List tasks, newest first.

    --since and --until are of their last change. --text shows what was found. With --follow the list changes
    with the tasks: where stdout is no terminal each change is a line, with --json one object.
    """
    if follow and of_task["until"] is not None:
        raise click.UsageError("--follow shows what is new: leave out --until", click.get_current_context())
    filters: dict[str, Any] = {"order": order, **given_filter(of_task)}

    async def show(mesh: Connection) -> None:
        if follow:
            await follow_tasks(mesh, (*TASKS, REASON), filters, limit=limit, as_json=as_json)
        items = [document(task) for task in await mesh.client.tasks(limit=limit, **filters)]
        columns = (*TASKS, REASON) if any(task["reason"] for task in items) else TASKS
        if filters.get("text"):
            columns = (*TASKS, MATCH)
            query = urlencode({"text": filters["text"], "limit": 1})
            if count := (await mesh.client.call("GET", f"/tasks?{query}"))["unindexed"]:
                output.say(f"The newest {count:,} tasks are still being indexed: search again", err=True)
        empty = "no such tasks; mesh tasks lists all" if given_filter(of_task) else _NO_TASKS
        output.show(items, columns, as_json=as_json, empty=empty)

    talk(target, show)


_attempt_option = click.option(
    "--attempt", type=WholeNumber(1), metavar="N", help="The attempt whose steps are shown (default: all)."
)


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completes("task"))
@click.option(
    "--steps",
    "step",
    is_flag=False,
    flag_value="",
    callback=step_path,
    metavar="[N]",
    help="List its steps; with a number, show all that was said at that step.",
)
@_attempt_option
@click.option("--scores", is_flag=True, help="Show the scores of the agents that were not chosen too.")
@click.option(
    "--save",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the files of its outcome into this folder; none is overwritten.",
)
@click.option(
    "--export",
    type=click.Choice(["html", "json"]),
    help="Print it with its steps and all that it delegated as one page or document; secrets are redacted.",
)
@follow_option
@raw_option
@json_option
@mesh_options
def show(
    target: Target,
    task_id: str,
    step: str | None,
    attempt: int | None,
    scores: bool,
    folder: Path | None,
    export: str | None,
    follow: bool,
    raw: bool,
    as_json: bool,
) -> int:
    """Show one task with its attempts and outcome.

    The files of its outcome are listed. --follow shows its progress to its end, and its answer. --steps lists
    what its agent did, --steps N shows what was said at one step; with --json each step is one line. ID may
    be the end or the beginning of an id that only one task has.
    """
    if attempt is not None and step is None:
        raise click.UsageError(
            "--attempt says whose steps are shown: add --steps", click.get_current_context()
        )

    if follow:
        from meshwright.console.timeline import print_answer, watch

        async def follow_it(mesh: Connection) -> Document:
            view = await mesh.client.task(await whole_id(mesh, task_id))
            if view.outcome is None:
                mesh.require_running()
            return await watch(mesh, view.task_id, quiet=False, stays=True)

        return print_answer(talk(target, follow_it, need="state"), as_json=as_json, raw=raw)

    async def show_it(mesh: Connection) -> None:
        whole = await whole_id(mesh, task_id)
        if step is not None:
            await show_steps(mesh, whole, step, attempt, as_json=as_json)
        elif export is not None:
            click.echo(await _export(mesh, whole, export), nl=False)
        elif folder is not None:
            outcome = (await mesh.client.task(whole)).outcome
            await save_files(mesh.client, whole, () if outcome is None else outcome.files, folder)
        else:
            view = await mesh.client.task(whole)
            more = () if as_json else await task_bounds(mesh, view)
            click.echo(task_page(mesh, view, as_json=as_json, raw=raw, scores=scores, more=more))

    talk(target, show_it, need="state")
    return 0


async def _export(mesh: Connection, task_id: str, form: str) -> str:
    from meshwright.mesh.identity.export import render_page

    export = await mesh.client.export(task_id)
    return render_page(export) if form == "html" else f"{json.dumps(export, ensure_ascii=False, indent=2)}\n"


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=completes("task"))
@click.argument("step", required=False, callback=step_path, metavar="[N]")
@_attempt_option
@json_option
@mesh_options
def steps(target: Target, task_id: str, step: str | None, attempt: int | None, as_json: bool) -> None:
    """List what the agent of a task did; with N show all that was said at that step.

    With --json each step is one line.
    """

    async def show_them(mesh: Connection) -> None:
        await show_steps(mesh, await whole_id(mesh, task_id), step or "", attempt, as_json=as_json)

    talk(target, show_them, need="state")
