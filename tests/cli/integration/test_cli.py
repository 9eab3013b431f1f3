"""How `mesh` starts, helps, and fails: from outside, as a person at a shell sees it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.cli.app import COMMANDS, mesh
from meshwright.core import __version__
from tests.support.running_mesh import run

HEAVY = {
    "importlib.metadata",
    "pydantic",
    "fastapi",
    "uvicorn",
    "aiohttp",
    "rich",
    "asyncio",
    "litellm",
    "opentelemetry",
    "sqlite3",
}


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = "import sys; from meshwright.cli import main; main(); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stderr.split())
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


def test_no_arguments_show_the_help() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: mesh")


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"mesh {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_what_the_list_says(name: str) -> None:
    command = mesh.get_command(mesh.make_context("mesh", [name]), name)
    assert command is not None and command.help is not None
    assert command.help.partition("\n")[0] == COMMANDS[name].help


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["akc"], "mesh: there is no command 'akc'; did you mean: mesh ask"),
        (["aks"], "mesh: there is no command 'aks'; did you mean: mesh ask"),
        (["xyzzy"], "mesh: there is no command 'xyzzy'; mesh --help lists them"),
        (["--jsn"], "mesh: No such option '--jsn'; mesh --help lists them"),
        (["ask", "simple-agent"], 'a task needs words: mesh ask simple-agent "..." (or --payload JSON)'),
        (["ask", "a", ""], "mesh: Invalid value for 'TEXT': it is empty; type: mesh ask [OPTIONS] AGENT"),
        (["ask", "a", "-"], "Invalid value for 'TEXT': it is empty"),
        (["submit", "research"], 'a task needs words: mesh submit research "..."'),
        (["submit", "research", " "], "TEXT': it is empty; type: mesh submit"),
        (["submit", "--capability", "research", " "], "TEXT': it is empty; type: mesh submit"),
        (["submit", "--capability", "research"], 'words: mesh submit --capability research "..."'),
        (["ask", "a", "b", "--tread", "x"], "No such option '--tread'; did you mean --thread\n"),
        (["ask", "a", "b", "--timeout", "0"], "'--timeout': '0' is not a number above 0 up to 86400; type:"),
        (["ask", "a", "b", "--max-steps", "0"], "'0' is not a whole number from 1 to 100000"),
        (["ask", "a", "b", "--max-tokens", "x"], "'x' is not a whole number of 1 or more"),
        (["submit", "a", "b", "--max-usd", "x"], "'--max-usd': 'x' is no amount of dollars, such as 0.50"),
        (["inbox", "--follow", "--ended"], "--follow shows all that is open: leave out --ended"),
        (["ask", "a", "b", "--url", "localhost:8000"], "does not start with http:// or https://"),
        (
            ["submit", "research", "--payload", '{"a'],
            "Invalid value for '--payload': not JSON: Unterminated string",
        ),
        (["submit", "research", "--payload", "[]"], "not a JSON object"),
        (["tasks", "--status", "done"], "'done' is not one of 'accepted'"),
        (["answer", "t"], "give the answer either as TEXT or with --value JSON; type: mesh answer"),
        (["answer", "t", "a", "--value", "1"], "give the answer either as TEXT or with --value JSON"),
        (["answer", "t", "--value", "{"], "Invalid value for '--value': not JSON"),
        (["up", "--port", "70000"], "'70000' is not a whole number from 0 to 65535"),
        (["up", "--port", "abc"], "'--port': 'abc' is not a whole number from 0 to 65535"),
    ],
)
def test_wrong_use_gets_one_line_that_says_what_to_type(arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


@pytest.mark.parametrize(
    ("arguments", "lists"),
    [
        (["config"], False),
        (["prompts"], False),
        (["secrets"], False),
        (["mqtt"], False),
        (["keys"], True),
        (["config", "agents"], True),
        (["money"], True),
        (["task"], True),
        (["inbox"], True),
    ],
)
def test_a_group_without_a_command_prints_its_list_or_its_help(
    arguments: list[str], lists: bool, tmp_path: Path
) -> None:
    done = run(*arguments, *(["--data", str(tmp_path)] if lists else []))
    assert done.returncode == 0
    assert ("\nCommands:\n" in done.stdout) != lists


def test_an_option_of_a_list_is_not_ignored_before_another_command() -> None:
    done = run("schedules", "--url", "http://127.0.0.1:9", "pause", "digest")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Give its options after mesh schedules pause" in done.stderr


def test_a_mesh_that_does_not_answer_is_one_line() -> None:
    done = run("tasks", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("mesh: no mesh answers at http://127.0.0.1:1 (")
    assert done.stderr.endswith("start one with: mesh up\n") and done.stderr.count("\n") == 1


def test_a_broken_setting_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("\ndata_dri = 1\n")
    done = run("tasks", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mesh.toml:2: there is no setting 'data_dri'; did you mean 'data_dir'?" in done.stderr


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("ask", "simple-agent", "hello", "--data", str(tmp_path / "file" / "data"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"mesh: the data folder {tmp_path}/file/data cannot be made: File exists; "
        "choose another folder with --data DIR\n"
    )


def test_a_budget_without_its_name_is_told_the_field(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text('[[ledger.budgets]]\nlimit_usd = "5"\nwindow = "day"\n')
    assert run("agents", cwd=tmp_path).stderr == "mesh: mesh.toml:1: ledger.budgets[0].name: is missing\n"


def test_a_remedy_goes_on_in_lower_case(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "broken.py").write_text("import nothing_such\n")
    done = run("ask", "x", "hello", cwd=tmp_path)
    assert "; fix the file, or move it out of actors/" in done.stderr


def test_a_mesh_that_was_killed_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "mesh.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
    done = run("tasks", "--data", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, 'no such tasks; mesh ask AGENT "..." makes one\n')


def test_the_environment_may_name_the_mesh() -> None:
    assert "no mesh answers at http://127.0.0.1:1 " in run("agents", MESH_URL="http://127.0.0.1:1").stderr


def test_an_agent_that_is_not_there_is_answered_with_one_that_is(tmp_path: Path) -> None:
    done = run("ask", "reserch-agent", "Hello", "--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.endswith("'reserch-agent' is registered; did you mean: mesh ask researcher-agent\n")
    assert done.stderr.count("\n") == 1


def test_a_task_for_a_mesh_that_does_not_run_waits_for_one(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    given = run("submit", "--capability", "general-query", "-", *where, stdin="Hello")
    task_id = given.stdout.strip()
    assert given.stderr.endswith(f"the task waits in {tmp_path} until one does: mesh up --data {tmp_path}\n")
    assert json.loads(run("task", task_id, "--json", *where).stdout)["status"] == "dispatched"
    assert run("ask", "simple-agent", "Hello again", *where).returncode == 0
    assert json.loads(run("task", task_id, "--json", *where).stdout)["status"] == "succeeded"


def test_what_a_task_says_to_type_next_finds_the_same_mesh(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    task_id = run("submit", "--capability", "general-query", "Hello", *where).stdout.strip()
    last = run("task", task_id, *where).stdout.splitlines()[-1]
    assert last == f"events      mesh events --task {task_id} --data {tmp_path}"


def test_a_limit_of_a_task_is_on_its_timeline_and_its_page(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    done = run("ask", "architect-agent", "What is in README.md?", "--max-steps", "1", *where)
    assert "limit       max_steps (1) is reached: the model has to answer" in done.stderr
    [task] = json.loads(run("tasks", "--json", *where).stdout)
    page = run("task", task["task_id"], *where).stdout
    assert "limits      max_steps 1 (the task) reached, max_repeats 25 ([agents] of mesh.toml)\n" in page


def test_what_a_command_reads_it_leaves_alone(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    run("submit", "--capability", "general-query", "Hello", *where)
    before = run("events", "--json", *where).stdout
    assert "task.dispatched" in before
    run("tasks", *where)
    run("agents", *where)
    assert run("events", "--json", *where).stdout == before


def test_events_that_nobody_has_seen_are_said_to_be_none(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    done = run("events", "--type", "nonsense", *where)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no such events; mesh events --data {tmp_path} shows the last of all\n"


def test_events_leave_out_those_that_only_programs_read(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    run("ask", "-q", "simple-agent", "Hello", *where)
    assert "trace.spans" not in run("events", *where).stdout
    assert "trace.spans" in run("events", "--all", *where).stdout
    spans = run("events", "--type", "trace.spans", *where).stdout
    assert "trace.spans" in spans
    assert len(run("events", "--limit", "3", *where).stdout.splitlines()) == 3


def test_events_are_a_table_of_one_order(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    run("ask", "-q", "simple-agent", "Hello", *where)
    lines = run("events", *where).stdout.splitlines()
    of_the_task = [line for line in lines if " task." in line or " attempt." in line or " model." in line]
    assert {line.split()[5] for line in of_the_task} == {"simple-agent"}
    assert len({line.index("simple-agent") for line in of_the_task}) == 1
    [ended] = [line for line in lines if " attempt.ended " in line]
    assert re.search(r"simple-agent +succeeded  0\.\d\d s  \$0$", ended)


def test_agents_that_nobody_runs_are_not_said_to_be_online(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path))
    assert re.search(r"^simple-agent +not running +general-query", run("agents", *where).stdout, flags=re.M)
    agents = json.loads(run("agents", "--json", *where).stdout)
    assert {(agent["status"], agent["last_seen"]) for agent in agents} == {("not running", None)}


def test_a_prompt_that_cannot_be_used_is_told_on_the_road(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/simple-agent.prompt").write_text("---\ntemperature: hot\n---\nHello\n")
    done = run("ask", "simple-agent", "Hello", cwd=tmp_path)
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("mesh: ")]
    assert (done.returncode, warning.count("simple-agent.prompt:2: ")) == (0, 1)
    assert warning.startswith("mesh: warning: ") and "; a built-in prompt takes its place; write " in warning


def test_nothing_is_to_be_followed_where_no_mesh_runs(tmp_path: Path) -> None:
    done = run("events", "--follow", "--data", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "start one with: mesh up" in done.stderr


def test_prompts_are_checked_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/simple-agent.prompt").write_text("---\ntemperature: hot\n---\nHello\n")
    done = run("prompts", "check", cwd=tmp_path)
    assert done.returncode == 1
    assert "prompts/simple-agent.prompt:2: " in done.stdout
    assert "researcher-agent.prompt: researcher-agent has no prompt" in done.stdout
    assert run("prompts", "check").stdout.endswith(" prompts checked, no problems.\n")


BROKEN = """
import sys
from meshwright.cli import app; from meshwright.console import output
output.table = None
sys.exit(app.run(["agents", "--data", sys.argv[1]]))
"""


def test_an_unexpected_error_is_one_line_and_its_traceback_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    kept = tmp_path / "last-error.txt"
    assert done.returncode == 1
    assert (
        done.stderr == f"mesh: unexpected TypeError: 'NoneType' object is not callable (traceback: {kept})\n"
    )
    assert kept.read_text().startswith("Traceback (most recent call last):")


def test_an_agent_that_prints_leaves_stdout_to_the_answer(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/printer.py").write_text(
        "from meshwright import Agent, Capability, Run\n"
        "print('imported')\n"
        "class Printer(Agent):\n"
        "    agent_id = 'printer'\n"
        "    capabilities = (Capability('printing'),)\n"
        "    async def run(self, run: Run) -> str:\n"
        "        print('printed')\n"
        "        return 'the answer'\n"
    )
    asked = run("ask", "printer", "hi", cwd=tmp_path)
    assert asked.stdout == "the answer\n"
    assert {"imported", "printed"} <= set(asked.stderr.split())
    waited = run("submit", "printer", "hi", "--wait", "--json", cwd=tmp_path)
    assert json.loads(waited.stdout)["result"] == {"text": "the answer"}


def test_mesh_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"MESH_DEBUG": "1"}
    )
    assert "Traceback (most recent call last):" in done.stderr
    assert not (tmp_path / "last-error.txt").exists()


ODD = """
from meshwright import Agent, Capability, Run

class Odd(Agent):
    agent_id = "odd"
    capabilities = (Capability("oddity"),)

    async def run(self, run: Run) -> str:
        raise ValueError("no file \\udcff of that name")
"""


def test_a_task_ends_whose_failure_no_file_can_hold_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/odd.py").write_text(ODD)
    done = run("ask", "odd", "Hello", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["error"]["message"] == "no file ? of that name (actors/odd.py:9)"
    assert r"no file \udcff of that name" in (tmp_path / ".mesh/last-error.txt").read_text()


LOGGING = """
import logging, pathlib
from meshwright.console.process import log_service
log_service(pathlib.Path("data"), "", "auto")
logging.getLogger("anyone").warning("nobody reads this")
print("it goes on")
"""


def test_what_logs_goes_on_where_nobody_reads_stderr(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOGGING], stdout=subprocess.PIPE, stderr=writing, text=True, cwd=tmp_path
        )
    finally:
        os.close(writing)
    assert done.stdout == "it goes on\n"


def test_the_shell_completes_commands() -> None:
    done = run(COMP_WORDS="mesh eve", COMP_CWORD="1", _MESH_COMPLETE="bash_complete")
    assert done.stdout == "plain,events\n"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("ask", "simple-agent", "-"), "stdin"),
        (("ask", "simple-agent", b"caf\xe9"), "TEXT"),
        (("submit", "--capability", "general-query", b"caf\xe9"), "TEXT"),
        (("submit", "--capability", "general-query", "--payload", b'{"text": "caf\xe9"}'), "--payload"),
        (("answer", "abc", b"caf\xe9"), "TEXT"),
        (("answer", "abc", "--value", b'"caf\xe9"'), "--value"),
        (("deny", "abc", "--reason", b"caf\xe9"), "--reason"),
        (("schedules", "create", "daily", "--text", b"caf\xe9"), "--text"),
    ],
)
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_a_text_that_is_not_utf_8_is_refused_by_name(
    arguments: tuple[str | bytes, ...], what: str, locale: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "meshwright.cli", *arguments]
    done = subprocess.run(
        command, input=b"caf\xe9 \xff", capture_output=True, cwd=tmp_path, env=os.environ | {"LC_ALL": locale}
    )
    assert (
        done.stderr.decode() == f"mesh: {what} is not UTF-8; convert it, as with iconv -f latin1 -t utf-8\n"
    )
    assert done.returncode == 1
