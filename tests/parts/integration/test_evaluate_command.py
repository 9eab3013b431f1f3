"""`mesh evaluate`: thresholds, exit statuses, JUnit XML, and a table that fits; `mesh task score`."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.running_mesh import Done, mesh, mesh_up, run

_AGENTS = '''
import json

from meshwright import Agent, Capability, Run, ToolFailed


class Capitals(Agent):
    """Knows one capital."""

    agent_id = "capitals"
    capabilities = (Capability("capitals"),)
    remembers = False

    async def run(self, run: Run) -> str:
        if "fail" in run.task.text:
            raise ToolFailed("told to fail")
        return "It is Paris."


class Strict(Agent):
    """Judges by code, in words around its JSON."""

    agent_id = "strict"
    capabilities = (Capability("judging-by-code"),)
    remembers = False

    async def run(self, run: Run) -> str:
        material = json.loads(run.task.text)["material"]
        score = 9 if "Paris" in material["expected_answer"] else 2
        return "My verdict: " + json.dumps({"reason": "the capital", "score": score})
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "agents.py").write_text(_AGENTS)
    lines = [
        {"input": {"text": "Capital of France?", "language": "en"}, "expected": "Paris", "label": True},
        {"input": "Capital of <Italy>\u0007?", "expected": "Rome", "label": False},
    ]
    (tmp_path / "q.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


def evaluate(project: Path, *arguments: str, name: str = "q.jsonl") -> Done:
    environment = {"MESH_TRUST": "1", "MESH_MODELS__ADAPTER": "offline"}
    ended = run("evaluate", name, "--data", "data", *arguments, cwd=project, **environment)
    return Done(ended.returncode, ended.stdout, ended.stderr)


def test_an_agent_is_evaluated_on_a_file(project: Path) -> None:
    ended = evaluate(
        project, "--agent", "capitals", "--metric", "contains", "--criterion", "correctness=Is it right?",
        "--judge", "strict", "--min", "contains=0.5", "--min", "correctness=6", "--junit", "out.xml",
    )  # fmt: skip
    assert ended.status == 1, ended
    rows = {line.split()[0]: line for line in ended.out.splitlines()}
    assert (
        "0.5 met" in rows["contains"] and "6 missed" in rows["correctness"] and " 5.5 " in rows["correctness"]
    )
    assert all(len(line) <= 80 for line in ended.out.splitlines()) and "2 of 2 items, $0" in ended.out
    suite = ElementTree.parse(project / "out.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "0")
    [failure] = suite.iter("failure")
    assert failure.get("message") == "the mean is 5.5, less than 6"
    assert [case.get("name") for case in suite][1] == "2: Capital of <Italy>\\u0007?"
    again = evaluate(
        project, "--agent", "capitals", "--metric", "contains", "--min", "contains=0.5", "--json"
    )
    assert again.status == 0 and json.loads(again.out)["figures"][0]["is_met"]


def test_an_item_that_fails_fails_the_call(project: Path) -> None:
    (project / "fails.jsonl").write_text('{"input": "fail"}\n\n{"input": "Capital?"}\n')
    ended = evaluate(
        project, "--agent", "capitals", "--metric", "length", "--junit", "o.xml", name="fails.jsonl"
    )
    assert ended.status == 1 and "item 1 failed: ToolFailed" in ended.err
    assert ElementTree.parse(project / "o.xml").getroot().get("errors") == "1"


@pytest.mark.parametrize(
    ("arguments", "name", "said"),
    [
        (["--agent", "capitals"], "q.jsonl", "--criterion or a --metric"),
        (["--metric", "length"], "q.jsonl", "no output"),
        (["--agent", "ghost", "--metric", "length"], "q.jsonl", "ghost"),
        (["--agent", "capitals", "--metric", "none"], "q.jsonl", "no metric 'none'"),
        (["--agent", "capitals", "--metric", "length", "--min", "exact=1"], "q.jsonl", "--min names 'exact'"),
        (["--agent", "capitals", "--metric", "length", "--min", "length"], "q.jsonl", "NAME=VALUE"),
        (["--agent", "capitals", "--criterion", "c"], "q.jsonl", "judge"),
        (["--agent", "capitals", "--metric", "length"], "wrong.jsonl", "wrong.jsonl:2"),
        (
            ["--agent", "capitals", "--metric", "length"],
            "field.jsonl",
            "field.jsonl:3: expected: must be text; type",
        ),
        (["--agent", "capitals", "--metric", "length"], "empty.jsonl", "no items"),
    ],
)
def test_wrong_calls_exit_with_2(project: Path, arguments: list[str], name: str, said: str) -> None:
    (project / "wrong.jsonl").write_text('{"input": "x"}\n[1]\n')
    (project / "field.jsonl").write_text('{"input": "x"}\n\n{"input": "x", "expected": 7}\n')
    (project / "empty.jsonl").write_text("\n")
    ended = evaluate(project, *arguments, name=name)
    assert (ended.status, said in ended.err) == (2, True), ended


async def test_a_task_is_scored_and_evaluations_are_listed(project: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    async with mesh_up(Path(data), cwd=project, MESH_TRUST="1", MESH_MODELS__ADAPTER="offline") as running:
        task_id = (await running.client.ask("capitals", "Capital?")).task_id
        scored = await mesh("task", "score", task_id[-6:], "thumbs", "-1", "--comment", "No.", "--data", data)
        assert (scored.status, scored.out) == (0, f"…{task_id[-6:]} scored: thumbs -1\n"), scored
        events = (await mesh("events", "--task", task_id, "--data", data)).out
        assert "scored" in events and "thumbs -1" in events
        wanted = {
            "data": {"items": [{"output": "x"}]},
            "metrics": ["length"],
            "evaluation_id": "e",
            "name": "mine",
        }
        assert (await running.post("/v1/evaluations", wanted)).status == 201
        await running.until(lambda event: event["event_type"] == "evaluation.ended")
        assert "mine" in (await mesh("evaluations", "--data", data)).out
        assert "length" in (await mesh("evaluations", "e", "--data", data)).out
