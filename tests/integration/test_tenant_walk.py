"""No command and no topic shows a tenant anything of another: every one is tried, with ids that are guessed.

The commands are those of `mesh`, with all that their parameters take, so that a new one is tried too; one
that needs a parameter which is not known here fails the test.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meshwright.cli.app import mesh as cli
from meshwright.core.access import Role
from tests.support.http_mesh import Api, http_mesh
from tests.support.tenants import CONFIG, SCHEDULE, SECRET, THREAD, Asker, Owned, check_untouched, fill

SHOWN = {
    ("tasks",),
    ("task",),
    ("inbox",),
    ("events",),
    ("allow",),
    ("costs",),
    ("schedules", "list"),
    ("schedules", "show"),
    ("config", "agents", "list"),
    ("config", "agents", "show"),
    ("keys", "list"),
}
"""Commands by which the owner sees what is its own: a walk that tries nothing finds nothing."""
NOT_TRIED = {"url", "data", "trust", "as_tenant", "follow", "watch", "proxy", "wait", "yes", "name"}
"""Options that choose the mesh or do not end, and those that stay in what the spy has itself."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Asker) as api:
        yield api


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that asks a running mesh, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        if any(parameter.name == "as_tenant" for parameter in command.params):
            yield (*path, name), command


def values(owned: Owned) -> dict[str, list[str]]:
    """What each parameter is tried with: what another tenant has, wherever it could be named."""
    tasks = [owned.finished, owned.waiting]
    return {
        "task_id": tasks,
        "task": tasks[:1],
        "after": tasks[:1],
        "question_id": [owned.question],
        "schedule_id": [SCHEDULE],
        "agent_id": [CONFIG],
        "key_id": [owned.key_id],
        "name": tasks[:1],
        "key": [owned.tenant_id],
        "requester": [f"{owned.tenant_id}-agent"],
        "requested_by": [f"{owned.tenant_id}-agent"],
        "thread": [THREAD],
        "thread_id": [THREAD],
        "tenant": [owned.tenant_id],
        "tenant_id": [owned.tenant_id],
        "whose": ["tag:guessed"],
        "by": ["task"],
        "agent": ["echo"],
    }


FIXED = {
    "text": "hi",
    "capability": "echoing",
    "reason": "no",
    "amount": "1",
    "allowance": "1/day",
}
"""What is taken for the other parameters that a command needs; further options are left out."""
BESIDES = {
    ("schedules", "create"): ["--every", "1h", "--agent", "echo", "--text", "hi"],
    ("config", "agents", "set"): ["--provider", "openai", "--model", "m"],
    ("erase",): ["--thread", THREAD],
}
"""What some commands need that no parameter says."""


def calls(path: tuple[str, ...], command: click.Command, owned: Owned) -> Iterator[list[str]]:
    """A command with each of the ids in the place of each parameter."""
    known = values(owned)
    needed = [*BESIDES.get(path, [])]
    least: list[list[str]] = [[]]
    whole: list[list[str]] = [[]]
    for parameter in command.params:
        name = parameter.name or ""
        assert not parameter.required or name in known or name in FIXED, f"{path}: say what {name} may be"
        found = known.get(name, [FIXED[name]] if name in FIXED else [])
        if isinstance(parameter, click.Argument):
            whole = [[*one, value] for one in whole for value in found]
            least = whole if parameter.required else least
        elif parameter.required or name == "yes":
            needed += [parameter.opts[0], *([] if name == "yes" else found[:1])]
    for arguments in (*least, *(whole if whole != least else ())):
        yield [*path, *arguments, *needed]
    for option in command.params:
        name = option.name or ""
        is_tried = isinstance(option, click.Option) and not option.required and name not in NOT_TRIED
        if is_tried and (option.is_flag or name in known):
            yield [*path, *whole[0], *needed, option.opts[0], *([] if option.is_flag else known[name][:1])]


async def test_no_command_shows_or_changes_anything_of_another_tenant(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # what a command writes, it writes here
    owned = await fill(api, "acme")
    spy = await api.mesh.keys.create("spy", tenant_id="other", roles=[Role.ADMIN])
    shown: set[tuple[str, ...]] = set()

    async def run(arguments: list[str], key: str) -> tuple[int, str]:
        known = {"MESH_URL": api.url, "MESH_ADMIN_TOKEN": key, "COLUMNS": "400"}
        done = await asyncio.to_thread(CliRunner().invoke, cli, arguments, env=known)
        return done.exit_code, f"{done.output}{done.exception or ''}"

    ids = owned.finished, owned.waiting, owned.question, owned.key_id
    marks = (SECRET, f"{owned.tenant_id}-agent", *ids)  # the spy may use other names itself
    tried = 0
    for path, command in commands(cli):
        taken: list[list[str]] = []  # what the command did not refuse as wrong use
        for arguments in calls(path, command, owned):
            status, text = await run(arguments, spy.key)
            taken += [arguments] if status != 2 else []
            for argument in arguments:  # what an answer repeats of the question
                text = text.replace(argument, "") if argument in marks else text
            assert not any(mark in text for mark in marks), (arguments, text)
            tried += 1
        assert taken, f"{path}: none of its calls was one that it takes: {text}"
        status, text = await run([*taken[0], "--as-tenant", owned.tenant_id], spy.key)
        assert status == 1 and "no other may be named" in text, (taken[0], text)
        if path in SHOWN:
            _, text = await run(taken[0], owned.key)
            assert any(mark in text for mark in owned.marks), (taken[0], text)
            shown.add(path)
    assert tried > 60 and shown == SHOWN, SHOWN - shown
    await check_untouched(api, owned)
