"""Commands beside a mesh that runs: completion in a shell, the live screen, and which mesh a command asks."""

import asyncio
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshwright.engine.sql.folder import lock_folder, make_private
from tests.support.running_mesh import MESH, RunningMesh, mesh, mesh_up, run, start

ACTOR = '''
from meshwright import Agent, Capability, Run


class Asker(Agent):
    """Asks how far to go."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        return str(await run.ask_person("How far shall it go?"))
'''


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMesh]:
    """A mesh with a task that waits for a person."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "actors").mkdir()
    (folder / "actors/asker.py").write_text(ACTOR)
    async with mesh_up(folder / "data", MESH_AGENTS__DIR=str(folder / "actors")) as running:
        task_id = await running.submit("Roll out", agent_id="asker", capability="asking")
        await running.until(
            lambda event: event["event_type"] == "task.waiting" and event["task_id"] == task_id
        )
        yield running


async def completed(words: str, **environment: str) -> list[str]:
    """The completions of a line in bash, whose last word is what is completed."""
    *before, last = words.split(" ")
    script = f'''
eval "$({sys.executable} -m meshwright.cli completion bash)"
COMP_WORDS=({" ".join(before)} "{last}")
COMP_CWORD={len(before)}
_mesh_completion {Path(sys.executable).parent / "mesh"}
printf "%s\\n" "${{COMPREPLY[@]}}"
'''
    process = await start(["bash", "-c", script], environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode().split()


async def heard(words: str, known: str = "", **environment: str) -> list[str]:
    """The completions that a mesh gives, with a known one of them.

    A shell waits three seconds for the mesh, so on a busy machine it asks again.
    """
    async with asyncio.timeout(120):
        while not (offered := await completed(words, **environment)) or (known and known not in offered):
            pass
    return offered


async def test_bash_completes_commands_agents_and_ids_of_the_mesh_that_runs(running: RunningMesh) -> None:
    [task] = await running.client.tasks()
    where = {"MESH_URL": running.url}
    assert await heard("mesh ta") == ["task", "tasks"]
    assert await heard("mesh ask ", **where) == ["asker"]
    assert await heard("mesh submit as", **where) == ["asker"]
    assert await heard("mesh submit --capability as", **where) == ["asking"]
    assert await heard(f"mesh task show {task.task_id[:4]}", **where) == [task.task_id]
    assert await heard(f"mesh cancel {task.task_id[-6:]}", **where) == [task.task_id]
    assert "list" in await heard("mesh task ", task.task_id, **where)


async def test_completion_without_a_mesh_reads_the_files_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/asker.py").write_text(f"{ACTOR}\nraise SystemExit('it was run')\n")
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_DATA_DIR": str(tmp_path / "data")}
    assert await completed("mesh ask as", **environment) == ["asker"]
    assert await completed("mesh task show 01", **environment) == []
    assert await completed("mesh ask as", MESH_URL="http://127.0.0.1:1") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0 and f"_MESH_COMPLETE={shell}_complete" in done.stdout
    if shell == "fish":
        assert 'string split --max 1 ","' in done.stdout, "descriptions end at their first comma"
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=done.stdout, text=True, check=False).returncode == 0


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


async def shown(terminal: int, *until: str) -> str:
    """The text that appears on a terminal, up to where it has all of these."""
    text = ""
    while not all(words in text for words in until):
        text += (await asyncio.to_thread(os.read, terminal, 4096)).decode(errors="replace")
    return text


async def reading(pid: int) -> None:
    """Wait until a process sleeps in a read of its terminal: Python holds back what comes just before."""
    while Path(f"/proc/{pid}/wchan").read_text() not in ("wait_woken", "n_tty_read"):
        await asyncio.sleep(0.01)


async def test_a_task_is_followed_to_its_answer(running: RunningMesh) -> None:
    task_id = await running.submit("Further", agent_id="asker", capability="asking")
    where = ("--url", running.url)
    following = await start(
        [*MESH, "task", task_id, "--follow", *where], {}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert following.stdout is not None and following.stderr is not None
    while b"for a person: How far shall it go?" not in await following.stderr.readline():
        pass
    assert (await mesh("answer", task_id, "to the end", *where)).status == 0
    assert (await following.stdout.read(), await following.wait()) == (b"to the end\n", 0)
    again = await mesh("task", task_id, "-f", *where)
    assert (again.status, again.out) == (0, "to the end\n")


async def test_a_question_without_a_terminal_ends_with_how_to_answer_it(running: RunningMesh) -> None:
    where = ("--url", running.url)
    done = await mesh("ask", "asker", "Piped", *where)
    assert (done.status, done.out) == (1, "") and "How far shall it go?" in done.err
    [way] = re.findall(r"^answer +mesh (answer \w+) ", done.err, flags=re.M)
    [task_id] = re.findall(r"mesh: task (\w+) waits for a person; it goes on once", done.err)
    assert (await mesh(*way.split(), "to the end", *where)).status == 0
    assert (await running.outcome(task_id))["result"] == {"text": "to the end"}


async def test_a_question_is_answered_by_the_id_of_its_wait(running: RunningMesh) -> None:
    task_id = await running.submit("Waiting", agent_id="asker", capability="asking")
    await running.until(lambda event: event["event_type"] == "task.waiting" and event["task_id"] == task_id)
    listed = json.loads((await mesh("inbox", "--json", "--url", running.url)).out)
    [wait_id] = [question["wait_id"] for question in listed if question["task_id"] == task_id]
    done = await mesh("answer", wait_id, "to the end", "--url", running.url)
    assert done.status == 0, done.err
    assert (await running.outcome(task_id))["result"] == {"text": "to the end"}


async def test_ctrl_d_at_a_question_ends_with_how_to_answer_it(running: RunningMesh) -> None:
    with terminal() as (ours, theirs):
        command = [*MESH, "ask", "asker", "Typed", "--url", running.url]
        process = await start(command, {}, stdin=theirs, stdout=theirs, stderr=theirs)
        await shown(ours, "answer: ")
        os.write(ours, b"\x04")
        said = await shown(ours, "waits for a person")
        os.close(theirs)
        assert await process.wait() == 1
    assert re.search(r"answer +mesh answer \w+ \"\.\.\.\"", said), said
    await running.client.cancel((await running.client.tasks(limit=1))[0].task_id)


async def test_the_list_of_tasks_follows_them_through_each_change(running: RunningMesh) -> None:
    command = [*MESH, "task", "list", "--follow", "--json", "--since", "1h", "--url", running.url]
    following = await start(command, {}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert following.stdout is not None
    assert json.loads(await following.stdout.readline())["status"] == "waiting"
    task_id = await running.submit("Onwards", agent_id="asker", capability="asking")
    await running.until(lambda event: event["event_type"] == "task.waiting" and event["task_id"] == task_id)
    seen = {}
    while seen.get(task_id) != "waiting":
        task = json.loads(await following.stdout.readline())
        seen[task["task_id"]] = task["status"]
    await running.client.cancel(task_id)
    assert '"cancelled"' in (line := (await following.stdout.readline()).decode()) and task_id in line
    following.send_signal(2)
    assert await following.wait() == 130


async def test_a_table_of_tasks_that_is_followed_changes_in_its_place(running: RunningMesh) -> None:
    with terminal() as (ours, theirs):
        command = [*MESH, "tasks", "--follow", "--status", "cancelled", "--url", running.url]
        process = await start(command, {"COLUMNS": "80"}, stdin=theirs, stdout=theirs, stderr=theirs)
        await shown(ours, "status")
        task_id = await running.submit("Off", agent_id="asker", capability="asking")
        await running.client.cancel(task_id)
        assert "\x1b[J" in await shown(ours, f"{task_id[-6:]}")
        process.send_signal(2)
        os.close(theirs)
        assert await process.wait() == 130


async def test_watch_draws_a_screen_that_changes_and_gives_the_terminal_back(running: RunningMesh) -> None:
    with terminal() as (ours, theirs):
        command = [*MESH, "watch", "--url", running.url]
        process = await start(
            command, {"COLUMNS": "100", "LINES": "40"}, stdin=theirs, stdout=theirs, stderr=theirs
        )
        first = await shown(ours, "How far shall it go?", "last events", "asker")
        assert "\x1b[?1049h" in first and "open tasks: 1 (1 waiting)" in first
        other = await running.submit("Again", agent_id="asker", capability="asking")
        await shown(ours, "open tasks: 2 (2 waiting)")
        await running.client.cancel(other)
        await shown(ours, "open tasks: 1 (1 waiting)")
        process.send_signal(2)
        os.close(theirs)
        assert "\x1b[?1049l" in await shown(ours, "\x1b[?1049l")
        assert await process.wait() == 130


async def test_watch_prints_once_where_there_is_no_terminal(running: RunningMesh) -> None:
    text = await mesh("watch", "--url", running.url)
    assert (text.status, text.err) == (0, "")
    assert "How far shall it go?" in text.out and "\x1b" not in text.out
    open_tasks = text.out.partition("open tasks\n")[2].partition("last events")[0]
    assert "Roll out" in open_tasks and "$" not in open_tasks  # the cost is known once it has ended
    found = json.loads((await mesh("watch", "--json", "--url", running.url)).out)
    assert [agent["agent_id"] for agent in found["agents"]] == ["asker"]
    assert found["tasks"][0]["status"] == "waiting" and found["events"]


async def test_a_terminal_without_a_screen_or_without_our_letters_is_no_fault(running: RunningMesh) -> None:
    with terminal() as (ours, theirs):
        command = [*MESH, "watch", "--limit", "1", "--url", running.url]
        process = await start(command, {"TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs)
        assert "\x1b[?1049h" not in await shown(ours, "last events")
        os.close(theirs)
        assert await process.wait() == 0
    inbox = await mesh("inbox", "--url", running.url, PYTHONIOENCODING="latin-1")
    [question] = await running.client.inbox()
    assert (inbox.status, question.task_id[-6:] in inbox.out) == (0, True), inbox.err


async def test_a_command_asks_the_mesh_that_runs_and_says_so(running: RunningMesh) -> None:
    where = ("--data", str(running.data))
    first = (await mesh("check", *where)).out.splitlines()[0]
    assert first.startswith(f"ok    running     the mesh at {running.url}, ")
    assert (await mesh("models", *where)).err == f"mesh: asking the mesh at {running.url}\n"
    route = await mesh("models", "route", "--url", running.url)
    assert (route.status, route.err) == (0, f"mesh: asking the mesh at {running.url}\n")
    assert (await mesh("tasks", *where)).err == ""
    with terminal() as (ours, theirs):
        process = await start([*MESH, "tasks", *where], {}, stderr=theirs, stdout=subprocess.PIPE)
        assert f"mesh: asking the mesh at {running.url}" in await shown(ours, running.url)
        os.close(theirs)
        await process.communicate()


async def test_one_ctrl_c_ends_a_question_and_a_no_is_no_success(running: RunningMesh) -> None:
    for answer, status in ((None, 130), (b"n\n", 1)):
        with terminal() as (ours, theirs):
            command = [*MESH, "keys", "open", "--data", str(running.data)]
            process = await start(command, {}, stdin=theirs, stdout=theirs, stderr=theirs)
            await shown(ours, "Continue? [y/N]:")
            await reading(process.pid)
            process.send_signal(2) if answer is None else os.write(ours, answer)
            assert await process.wait() == status
            os.close(theirs)


async def test_without_rights_the_command_says_which_key_it_needs_and_asks_nobody_else(
    running: RunningMesh,
) -> None:
    there, here = ("--url", running.url), ("--data", str(running.data))
    made = await mesh("keys", "create", "--name", "eve", "--role", "viewer", "--yes", *here)
    try:
        none = await mesh("tasks", *there)
        assert none.status == 1 and "put a key of that mesh into MESH_ADMIN_TOKEN" in none.err
        viewer = {"MESH_ADMIN_TOKEN": made.out.strip()}
        for command in (["models"], ["models", "test"], ["models", "route"]):
            refused = await mesh(*command, *there, **viewer)
            assert (refused.status, refused.out) == (1, ""), command
            assert "eve has viewer; use a key that has it: mesh keys create" in refused.err
        other = await mesh("tasks", "--tenant", "acme", *there, **viewer)
        assert other.status == 1 and other.err.endswith("leave --tenant out\n")
    finally:
        await mesh("keys", "open", "--yes", *here)


async def test_a_command_waits_for_a_mesh_that_starts(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "asker.py").write_text(ACTOR)
    with lock_folder(make_private(tmp_path / ".mesh")):  # as one has it that does not listen yet
        command = [*MESH, "ask", "asker", "Hello"]
        asking = await start(command, {}, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asking.stderr is not None
        assert b"which may be starting; waiting for it" in await asking.stderr.readline()
    async with mesh_up(tmp_path / ".mesh", cwd=tmp_path) as running:
        assert await asking.wait() == 1  # since it asks a person
        assert [task.status for task in await running.client.tasks()] == ["waiting"]
