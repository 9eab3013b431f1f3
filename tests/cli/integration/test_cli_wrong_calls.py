"""Wrong calls of `mesh`: each is answered in one sentence with the remedy, which fits 80 columns."""

import io
import re
import shlex
from pathlib import Path

import pytest

from meshwright.cli.app import run

ACTOR = '''
from meshwright import Agent, Capability, Run


class Asker(Agent):
    """Asks nothing."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        return "yes"
'''
NO_TASK = "There is no task 'NOPE'; mesh tasks lists those there are"
NO_QUESTION = "No task has a question 'NOPE'; mesh inbox lists those there are"
AWAY = "no mesh answers at http://127.0.0.1:1 (Connection refused); start one with: mesh up"
AMOUNT = "is no amount of dollars, such as 0.50"
BUDGET = "write it like 5.00/day"
WRONG = f"""
taks                               | 2 | there is no command 'taks'; did you mean: mesh task
logs                               | 2 | there is no command 'logs'; did you mean: mesh events --task ID
top                                | 2 | there is no command 'top'; did you mean: mesh watch
xyzzy                              | 2 | there is no command 'xyzzy'; mesh --help lists them
aks x y                            | 2 | did you mean: mesh ask
help nothing                       | 2 | mesh --help lists them
agent                              | 2 | did you mean: mesh agents
--jsn                              | 2 | No such option '--jsn'; mesh --help lists them
task lsit                          | 2 | there is no command 'lsit' of mesh task; did you mean: mesh task list
task list extra                    | 2 | unexpected extra argument (extra); type: mesh task list [OPTIONS]
task list --status done            | 2 | 'done' is not one of 'accepted', 'dispatched'
task list --prompt nobody          | 1 | There is no prompt 'nobody', and no task ever named it
task list --error Nope             | 1 | There is no error 'Nope', and no task ever named it
events --agent nobody              | 1 | There is no agent 'nobody', and no task ever named it
task list --limit 0                | 2 | '0' is not a whole number from 1 to 500
task list --limit x                | 2 | 'x' is not a whole number from 1 to 500
task list --stauts failed          | 2 | No such option '--stauts'; did you mean --status
task list --follow --until 1h      | 2 | --follow shows what is new: leave out --until
task list --follow                 | 1 | nothing more happens there; start one with: mesh up
task list --since soon             | 2 | 'soon' is not a time; say 24h, 7d or 2026-01-01T00:00Z
events --follow --until 1h         | 2 | --follow shows what is new: leave out --until
task show                          | 2 | Missing argument 'ID'; type: mesh task show [OPTIONS] ID
task show NOPE                     | 1 | {NO_TASK}
task NOPE                          | 1 | {NO_TASK}
task NOPE --steps x!               | 2 | a step is a number, or a path such as 3.1
task NOPE --steps                  | 1 | {NO_TASK}
task NOPE --attempt 2              | 2 | --attempt says whose steps are shown: add --steps
task NOPE --steps --attempt 0      | 2 | '0' is not a whole number of 1 or more
task steps                         | 2 | Missing argument 'ID'; type: mesh task steps [OPTIONS] ID [N]
task steps NOPE 1                  | 1 | {NO_TASK}
task cancel                        | 2 | name tasks, or give a filter such as --agent ID, or --all
task cancel NOPE                   | 1 | {NO_TASK}
task cancel NOPE --all             | 2 | name tasks, or give a filter such as --agent ID, or --all
task cancel --agent workr --yes    | 1 | There is no agent 'workr'
retry NOPE --from 3                | 1 | {NO_TASK}
retry --all --status failed        | 2 | these exclude each other: name tasks, or give a filter
retry --all --from 3               | 2 | a step is one of one task: name that by its ID
retry NOPE --from there!           | 2 | a step is a number, or a path such as 3.1
retry NOPE --attempt 2             | 2 | --attempt says whose step is meant: add --from STEP
task tree NOPE                     | 1 | {NO_TASK}
dead-letters redrive               | 2 | name a group, or give a filter such as --agent ID, or --all
task --json cancel NOPE            | 2 | Give its options after mesh task cancel
task answer NOPE                   | 2 | give the answer either as TEXT or with --value JSON
cancel NOPE                        | 1 | {NO_TASK}
ask                                | 2 | Missing argument 'AGENT'; type: mesh ask [OPTIONS] AGENT TEXT
ask asker                          | 2 | a task needs words: mesh ask asker "..." (or --payload JSON)
ask asker ''                       | 2 | 'TEXT': it is empty
ask asker -                        | 2 | 'TEXT': it is empty
ask asker two words                | 2 | put the text in quotes, such as: mesh ask simple-agent
ask nobody hi                      | 1 | no agent 'nobody' is registered; there are asker
ask askr hi                        | 1 | did you mean: mesh ask asker
ask asker hi --tread x             | 2 | No such option '--tread'; did you mean --thread
ask asker hi --timeout 0           | 2 | '0' is not a number above 0 up to 86400
ask asker hi --timeout soon        | 2 | 'soon' is not a number above 0 up to 86400
ask asker hi --deadline -1         | 2 | '-1' is not a number above 0 up to 604800
ask asker hi --max-steps 0         | 2 | '0' is not a whole number from 1 to 100000
ask asker hi --max-usd free        | 2 | 'free' {AMOUNT}
ask asker hi --max-seconds x       | 2 | 'x' is not a number above 0
ask asker hi --budget lots         | 2 | 'lots' {AMOUNT}
ask asker hi --on-empty panic      | 2 | 'panic' is not one of 'fail', 'wait', 'ask', 'cheaper'
ask asker hi --priority 11         | 2 | '11' is not a whole number from 0 to 10
ask asker hi --file nope.png       | 2 | cannot read nope.png: No such file or directory
ask asker hi --after NOPE          | 1 | {NO_TASK}
ask asker hi --url localhost:80    | 2 | 'localhost:80' does not start with http:// or https://
ask asker hi --url http://127.0.0.1:1 | 1 | {AWAY}
ask asker hi --url http://a --data b  | 2 | name different meshes: leave one of them out
submit                             | 2 | Missing argument 'AGENT'
submit asker                       | 2 | a task needs words: mesh submit asker "..." (or --payload JSON)
submit --capability asking         | 2 | a task needs words: mesh submit --capability asking "..."
submit asking hi                   | 1 | it is a capability: mesh submit --capability asking "..."
submit --capability flying hi      | 1 | no agent has the capability 'flying'; known are asking
submit asker hi --payload {{       | 2 | '--payload': not JSON
submit asker hi --payload []       | 2 | not a JSON object, such as {{"text": "..."}}
submit nobody hi --capability asking | 1 | no agent 'nobody' is registered
submit asker hi --shape '{{"type":7}}' | 1 | shape: must be a JSON schema; $: type must be one or several of
inbox NOPE                         | 1 | {NO_QUESTION}
inbox lst                          | 2 | did you mean: mesh inbox list
inbox --follow --ended             | 2 | --follow shows all that is open: leave out --ended
inbox --follow                     | 1 | start one with: mesh up
approve                            | 2 | name a question, or give a filter such as --agent ID, or --all
approve NOPE                       | 1 | {NO_QUESTION}
deny NOPE                          | 2 | Missing option '--reason'; type: mesh deny [OPTIONS] [ID]...
deny NOPE --reason x               | 1 | {NO_QUESTION}
answer NOPE a --value 1            | 2 | give the answer either as TEXT or with --value JSON
answer NOPE --value {{             | 2 | '--value': not JSON
answer NOPE yes                    | 1 | {NO_QUESTION}
events --task NOPE                 | 1 | {NO_TASK}
events --limit 0                   | 2 | '0' is not a whole number from 1 to 1000
events --follow                    | 1 | nothing more happens there; start one with: mesh up
money cost                         | 2 | did you mean: mesh money costs
money raise                        | 2 | mesh money raise [OPTIONS] NAME [AMOUNT]
money raise nothing 5              | 1 | mesh budgets lists the budgets, mesh tasks the tasks
money raise nothing five           | 2 | 'five' {AMOUNT}
allow asker                        | 2 | say what WHOSE may spend, like 5/day, or --remove
allow asker lots                   | 1 | {BUDGET}
allow asker 5/year                 | 1 | {BUDGET}
allow --remove                     | 2 | say WHOSE allowance to remove; mesh allow lists them
allow nobody 5/day                 | 1 | The mesh has no agent 'nobody'; it has asker
allow nobody --remove              | 1 | mesh allow lists those there are
costs --by colour                  | 2 | 'colour' is nothing to sum costs by; say one of
costs --since soon                 | 2 | 'soon' is not a time; say 24h, 7d or 2026-01-01T00:00Z
budgets rise x 1                   | 2 | did you mean: mesh budgets raise
schedules shw x                    | 2 | did you mean: mesh schedules show
schedules show nope                | 1 | There is no schedule 'nope'; mesh schedules lists those there are
schedules create x                 | 2 | give one of --cron, --every and --at
schedules create x --every soon --agent asker  | 2 | 'soon' is no duration, such as 90s, 15m, 1h30m or 1d
schedules create x --every 5m --text hi        | 2 | give either --agent or --capability
schedules create x --cron '* *' --agent asker --text hi | 1 | write five fields: minute, hour
schedules create x --every 5m --agent asker --text hi --zone A/B | 1 | name one like Europe/Berlin, or UTC
schedules pause nope               | 1 | mesh schedules lists those there are
schedules --json pause nope        | 2 | Give its options after mesh schedules pause
keys create                        | 2 | --name ada, or for an agent of the mesh --agent ID
keys create --name a --role king   | 2 | Roles are viewer, contents, submitter
keys create --name a --expires soon --yes | 1 | write it like 1h or 30d
keys create --name a --budget lots --yes  | 1 | {BUDGET}
keys create --name ada             | 2 | Add --yes to confirm
keys revoke nope                   | 1 | mesh keys list shows them by their ids
keys lst                           | 2 | did you mean: mesh keys list
agents show nobody                 | 1 | mesh agents lists those there are
agents show askr                   | 1 | did you mean: mesh agents show asker
probe --port 1                     | 1 | name the port of the mesh or worker: --port N
config agents set asker            | 2 | mesh config agents set --help lists the options
config agents set asker --model x  | 2 | asker has no configuration yet: add --provider NAME
config agents set asker --key-env NO_SUCH_KEY | 1 | export it there, or type it with --key
config agents set asker --temperature hot     | 2 | 'hot' is not a number from 0 up to 2
config nothing                     | 2 | mesh config --help lists them
models rout                        | 2 | did you mean: mesh models route
models route --model nope          | 1 | has no model group 'nope'; groups are default
models --url http://127.0.0.1:1    | 1 | {AWAY}
erase                              | 2 | Name one of --requester NAME, --thread ID and --task ID
erase --task NOPE                  | 2 | Add --yes to confirm
erase --task NOPE --yes            | 1 | mesh tasks lists those there are
secrets rotat                      | 2 | did you mean: mesh secrets rotate
webhooks test nope actors/asker.py | 1 | There is no source 'nope'; mesh.toml has none
prompts chek                       | 2 | did you mean: mesh prompts check
check --url http://a               | 2 | No such option '--url'; mesh check project --help lists them
task --stautus failed              | 2 | No such option '--stautus'; did you mean --status
check nothing                      | 2 | mesh check --help lists them
mqtt acls                          | 2 | did you mean: mesh mqtt acl
bridge install --mqtt http://x     | 2 | is no URL like mqtt://127.0.0.1:1883 or mqtts://broker
completion powershell              | 2 | 'powershell' is not one of 'bash', 'zsh', 'fish'
watch --url http://127.0.0.1:1     | 1 | {AWAY}
status --data nope                 | 1 | there is no folder nope, and so no mesh in it; name one that has data
up --port 70000                    | 2 | '70000' is not a whole number from 0 to 65535
up --store oracle                  | 2 | 'oracle' is not one of 'sqlite', 'memory', 'dapr'
up --replicas 2                    | 2 | --per-agent and --replicas are for --store dapr
worker                             | 2 | Give --database URL, or on Dapr --app APP-ID
demo x                             | 2 | unexpected extra argument (x); type: mesh demo [OPTIONS]
"""
CALLS = [tuple(map(str.strip, line.split("|"))) for line in WRONG.strip().splitlines()]
ASKED = ("mesh: asking the mesh at ", "mesh: no mesh runs on .mesh; ")
"""How the line begins that says which mesh a command asks."""
LIBRARY_WORDS = (
    r"Traceback|unexpected [A-Z]|\[Errno|object at|NoneType|valid (float|int)|Input should|pydantic"
)


class Terminal(io.StringIO):
    """A terminal that nobody types at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "actors").mkdir()
    (folder / "actors/asker.py").write_text(ACTOR)
    return folder


def test_there_are_ninety_of_them() -> None:
    assert len({call for call, _, _ in CALLS}) == len(CALLS) >= 90


@pytest.mark.parametrize(("call", "status", "remedy"), CALLS, ids=[call for call, _, _ in CALLS])
def test_a_wrong_call_is_answered_with_the_remedy(
    call: str, status: str, remedy: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = io.StringIO(), Terminal()
    monkeypatch.chdir(project)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "MESH_TRUST": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert (run(shlex.split(call)), out.getvalue()) == (int(status), ""), err.getvalue()
    lines = [line for line in err.getvalue().splitlines() if not line.startswith(ASKED)]
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("mesh: ") and all(line.startswith("      ") for line in lines[1:])
    said = " ".join(line.removeprefix("mesh: ").strip() for line in lines)
    assert remedy in said
    assert not re.search(LIBRARY_WORDS, said)
