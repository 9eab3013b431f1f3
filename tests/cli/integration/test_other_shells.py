"""A shell beside a running mesh has none of its secrets, and all of its commands."""

import base64
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from meshwright.cli.app import mesh as mesh_command
from tests.support.running_mesh import mesh_up, run

SETTINGS = """\
[models]
adapter = "offline"
api_key = "env:X_TOKEN"
cache_redis_url = "env:X_TOKEN"
[keys]
admin_token = "env:X_TOKEN"
[mqtt]
password = "env:X_TOKEN"
[oidc]
client_secret = "env:X_TOKEN"
[secrets]
keys = ["env:X_KEY"]
[mcp.crm]
url = "https://127.0.0.1:1/mcp"
client_id = "mesh"
client_secret = "env:X_TOKEN"
headers = { X-Token = "env:X_TOKEN" }
[sinks.scores]
kind = "langfuse"
url = "https://127.0.0.1:1"
key = "env:X_PAIR"
[tools.research]
engine = "brave"
url = "http://127.0.0.1:1"
key = "env:X_TOKEN"
[webhooks.sources.github]
kind = "github"
secret = "env:X_TOKEN"
token = "env:X_TOKEN"
[[webhooks.rules]]
source = "github"
agent = "seeker"
text = "{{issue.title}}"
[[webhooks.push]]
url = "https://127.0.0.1:1/hook"
secret = "env:X_SIGNED"
[channels.chat]
kind = "http"
agent = "seeker"
url = "https://127.0.0.1:1/replies"
secret = "env:X_SIGNED"
[dapr]
broker_url = "env:X_URL"
redis_password = "env:X_TOKEN"
[dapr.publishers.shop]
password = "env:X_TOKEN"
"""
AGENT = """\
from meshwright import Agent, Capability
from meshwright.toolsets.research import ResearchTools


class Seeker(Agent):
    agent_id = "seeker"
    capabilities = (Capability("seeking"),)
    toolsets = (ResearchTools,)
    prompt_text = "You seek."
"""
SECRETS = {
    "X_TOKEN": "t" * 40,
    "X_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
    "X_PAIR": "public:private",
    "X_SIGNED": f"whsec_{base64.b64encode(bytes(32)).decode()}",
    "X_URL": "mqtt://mesh:hidden@127.0.0.1:1",
}
VALUES = {
    "agent_id": "seeker",
    "agent": "seeker",
    "whose": "seeker",
    "allowance": "1/day",
    "amount": "1",
    "value": "1",
    "version": "1",
    "shell": "bash",
    "source": "github",
}
"""Arguments by name; all others are the id of a task, or the name of a file of JSON."""
MORE: dict[tuple[str, ...], tuple[str, ...]] = {
    ("task", "answer"): ("yes",),
    ("inbox", "answer"): ("yes",),
    ("answer",): ("yes",),
    ("inbox", "deny"): ("--reason", "no"),
    ("deny",): ("--reason", "no"),
    ("task", "dead-letters", "redrive"): ("--all", "--yes"),
    ("dead-letters", "redrive"): ("--all", "--yes"),
    ("keys", "create"): ("--name", "ada", "--yes"),
    ("keys", "open"): ("--yes",),
    ("erase",): ("--requester", "nobody", "--yes"),
    ("config", "agents", "set"): ("--provider", "ollama", "--model", "llama3.1"),
    ("schedules", "create"): ("--every", "1d", "--agent", "seeker", "--text", "Seek."),
    ("evaluate",): ("--agent", "seeker", "--metric", "contains"),
    ("memory", "edit"): ("--text", "It is slow on Mondays."),
    ("restore",): ("--data", "restored"),
    ("migrate",): ("--from", "sqlite:.mesh", "--to", "sqlite:elsewhere"),
    ("prune",): ("--yes",),
}
"""Options without which a command does nothing."""
NAMES_THEM = {("up",), ("worker",), ("doctor",), ("check", "project")}


def commands(
    command: click.Command = mesh_command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of `mesh`, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, (*path, name))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "seeker.py").write_text(AGENT)
    (tmp_path / "mesh.toml").write_text(SETTINGS)
    (tmp_path / "file.json").write_text('{"input": "Is it slow?", "expected": "Yes."}')
    return tmp_path


async def test_every_command_works_without_the_secrets_of_the_mesh(project: Path) -> None:
    async with mesh_up(Path(".mesh"), cwd=project, **SECRETS) as running:
        task_id = await running.submit("Seek.", capability="seeking")
        wrong = []
        for path, command in commands():
            arguments = [
                str(project / ("file.json" if parameter.type.exists else "copy"))
                if isinstance(parameter.type, click.Path) and path != ("init",)
                else VALUES.get(str(parameter.name), task_id)
                for parameter in command.params
                if isinstance(parameter, click.Argument)
            ]
            done = run(*path, *arguments, *MORE.get(path, ()), cwd=project, HOME=str(project))
            names_one = "the environment has no" in done.stdout + done.stderr
            if done.returncode == 2 or names_one != (path in NAMES_THEM):
                wrong.append((path, done.stdout, done.stderr))
    assert wrong == []


def test_mesh_up_names_the_line_of_the_first_secret_that_is_missing(project: Path) -> None:
    for command in ("up", "worker"):
        done = run(command, cwd=project)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "mesh: mesh.toml:12: secrets.keys[0]: env:X_KEY: the environment has no X_KEY\n"


def test_doctor_lists_each_missing_secret_once_and_checks_the_rest(project: Path) -> None:
    (project / "mesh.toml").write_text(SETTINGS.replace("env:X_TOKEN", "plain" * 8))
    done = run("doctor", cwd=project, **{name: SECRETS[name] for name in ("X_KEY", "X_SIGNED", "X_URL")})
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert [line.split()[:4] for line in failed] == [
        ["FAIL", "secrets", "mesh.toml:21:", "sinks.scores.key:"]
    ], done.stdout
    assert "ok    agents" in done.stdout and done.stdout.endswith("1 of the checks failed.\n")


async def test_tasks_are_listed_where_no_mesh_runs_and_its_secrets_are_missing(project: Path) -> None:
    async with mesh_up(Path(".mesh"), cwd=project, **SECRETS) as running:
        task_id = await running.submit("Seek.", capability="seeking")
        await running.outcome(task_id)
    done = run("task", "list", cwd=project)
    assert (done.returncode, task_id in done.stdout) == (0, True), done.stderr
    assert "without [secrets], [oidc]" in done.stderr
    refused = run("ask", "seeker", "Seek.", cwd=project)
    assert refused.stderr.endswith("mesh.toml:12: secrets.keys[0]: env:X_KEY: the environment has no X_KEY\n")
