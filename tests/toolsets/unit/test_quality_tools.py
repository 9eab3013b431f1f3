"""The tools for judging code, over a project whose tests fail at times."""

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.sandbox.port import Sandbox, SandboxResult
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.testing import MeshUnderTest, mesh_for, tool_call
from meshwright.toolsets.quality import QualityTools
from meshwright.toolsets.reports import SuiteCommand, grouped, suite_command, suite_result
from tests.support.repositories import CALC, repository

FILES = {
    **CALC,
    "test_chance.py": (
        "import os\nimport unittest\n\n\nclass Chance(unittest.TestCase):\n"
        "    def test_chance(self):\n        self.assertEqual(int(os.environ.get('RUN', '0')) % 2, 0)\n"
    ),
}


class Tester(Agent):
    """Tests."""

    agent_id = "tester"
    capabilities = (Capability("qa-review"),)
    toolsets = (QualityTools,)
    prompt_text = "You test."


@pytest.fixture(scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MeshUnderTest]:
    source = repository(tmp_path_factory.mktemp("source") / "calc", FILES)
    async with mesh_for(Tester, trees={"calc": {"repository": str(source)}}) as mesh:
        number_runs(mesh.mesh.get(Sandbox))
        yield mesh


def number_runs(box: Any) -> None:
    """Say to each program of the box which one it is: by chance for a test, since it cannot keep a count."""
    run, numbers = box.run, itertools.count(1)

    async def run_numbered(*args: Any, env: Mapping[str, str], **options: Any) -> SandboxResult:
        return await run(*args, env={**env, "RUN": str(next(numbers))}, **options)

    box.run = run_numbered


async def results(mesh: MeshUnderTest, *calls: Any) -> list[Any]:
    mesh.model.replies(*calls, "Done.")
    outcome = await mesh.ask("tester", "Is it good?")
    assert outcome.success, outcome.error
    said = [message.content for message in mesh.model.requests[-1].messages if message.role == "tool"]
    return [json.loads(text) if text.startswith(("{", "[")) else text for text in said]


@pytest.mark.needs("git", "bwrap")
async def test_failures_are_counted_and_grouped(mesh: MeshUnderTest) -> None:
    steady, unsteady, ran = await results(
        mesh,
        tool_call("flaky", test="test_calc.py", times=3),
        tool_call("flaky", test="test_chance.py", times=4),
        tool_call("run_tests"),
    )
    assert (unsteady["flaky"], unsteady["failed"]) == (True, 2)
    assert (steady["flaky"], steady["failed"]) == (False, 3)
    assert steady["tests"] == ["test_calc.Sums.test_add"]
    [unknown] = await results(mesh, tool_call("analyse_output", output_id=ran["output_id"]))
    assert "There is no output" in unknown["error"], "it is of another task"


@pytest.mark.needs("git", "bwrap")
async def test_an_output_is_read_in_its_task_alone(mesh: MeshUnderTest) -> None:
    def analyse(request: ModelRequest) -> ModelReply:
        found = json.loads(request.messages[-1].content)
        call = tool_call("analyse_output", output_id=found["output_id"])
        return ModelReply(tool_calls=(call.model_copy(update={"id": "a1"}),), model="scripted")

    groups = (await results(mesh, tool_call("run_tests", path="test_calc.py"), analyse))[-1]
    assert [(group["place"].rpartition("/")[2], group["count"]) for group in groups] == [
        ("test_calc.py:8", 1)
    ]


JUNIT = '<testsuite><testcase classname="a.B" name="c">{}</testcase></testsuite>'


@pytest.mark.parametrize(
    ("status", "report", "passed", "failed"),
    [
        (0, JUNIT.format(""), True, []),
        (1, JUNIT.format('<failure message="no">a.py:3: no</failure>'), False, [("a.B.c", "a.py", 3)]),
        (0, JUNIT.format('<error message="x.py:1"/>'), False, [("a.B.c", "x.py", 1)]),
        (0, "", False, []),
        (0, "<testsuite", False, []),
        (0, '<!DOCTYPE a [<!ENTITY b "c">]>' + JUNIT.format(""), False, []),
        (2, JUNIT.format(""), False, []),
        (None, JUNIT.format(""), False, []),
    ],
)
def test_tests_pass_only_by_status_and_report(
    status: int | None, report: str, passed: bool, failed: list[tuple[str, str, int]]
) -> None:
    command = pytest_command()
    result = suite_result(command, status, "", report)
    assert result["passed"] is passed
    assert [(fault["name"], fault["file"], fault["line"]) for fault in result["failed"]] == failed


def pytest_command() -> SuiteCommand:
    command = suite_command((), str, ("python3", "-m", "pytest"), "")
    assert command is not None
    return command


@pytest.mark.parametrize(
    ("names", "given", "path", "argv"),
    [
        (["go.mod"], (), "", ("go", "test", "-json", "./...")),
        (["go.mod"], (), "sub/a_test.go", ("go", "test", "-json", "./sub")),
        (["package.json"], (), "", ("npm", "test", "--silent")),
        (["package.json"], (), "a.test.js", ("npm", "test", "--silent", "--", "a.test.js")),
        (["Cargo.toml"], (), "", ("cargo", "test", "--offline")),
        (["README.md"], ("make", "check"), "", ("make", "check")),
    ],
)
def test_the_command_is_told_from_the_files(
    names: list[str], given: tuple[str, ...], path: str, argv: tuple[str, ...]
) -> None:
    command = suite_command(names, lambda name: '{"scripts": {"test": "jest"}}', given, path)
    assert command is not None
    assert command.argv == argv


def test_files_that_say_nothing_have_no_command() -> None:
    assert suite_command(["README.md"], str, (), "") is None


def test_results_of_go_name_the_innermost_tests() -> None:
    events = [
        {"Action": "output", "Package": "p", "Test": "TestA", "Output": "    a_test.go:7: no\n"},
        {"Action": "fail", "Package": "p", "Test": "TestA"},
        {"Action": "fail", "Package": "p"},
    ]
    command = suite_command(["go.mod"], str, (), "")
    assert command is not None
    result = suite_result(command, 1, "\n".join(map(json.dumps, events)) + "\nnot json", "")
    assert [(fault["name"], fault["file"], fault["line"]) for fault in result["failed"]] == [
        ("p.TestA", "a_test.go", 7)
    ]
    assert command.render('{"Action":"output","Output":"one\\n"}\n[1]\ntwo\n') == "one\n[1]\ntwo\n"


def test_the_place_of_a_failure_is_one_of_the_project() -> None:
    message = "at calc.test.js:5:10\nat node_modules/x/index.js:7:1\n/usr/lib/python3/x.py:3"
    result = suite_result(pytest_command(), 1, "", JUNIT.format(f"<failure>{message}</failure>"))
    assert [(fault["file"], fault["line"]) for fault in result["failed"]] == [("calc.test.js", 5)]


@pytest.mark.parametrize(
    "part", ["FAIL: a (b)\n" + "-" * 70 + "\n", "a/b.c-", "\n=====", 'File "', "not ok 1 - ", '{"Action":']
)
def test_output_that_never_ends_a_failure_costs_little(part: str) -> None:
    output = part * (1_000_000 // len(part))
    for names in (["go.mod"], ["package.json"], ["tests"]):
        command = suite_command(names, lambda name: '{"scripts": {"test": "jest"}}', (), "")
        assert command is not None
        assert suite_result(command, 1, output, "")["passed"] is False
    assert isinstance(grouped(output), list)


def test_failures_of_one_line_are_one_group() -> None:
    trace = 'Traceback (most recent call last):\n  File "{}", line {}, in f\nValueError: {}\n'
    output = (
        trace.format("a.py", 3, "one") + trace.format("b.py", 4, "two") + trace.format("a.py", 3, "three")
    )
    assert [(group["place"], group["count"]) for group in grouped(output)] == [("a.py:3", 2), ("b.py:4", 1)]


@pytest.mark.parametrize(("count", "passed"), [(0, False), (10, True)])
def test_a_run_without_a_test_has_not_passed(count: int, passed: bool) -> None:
    command = suite_command(["calc.py"], lambda name: "", (), "")
    assert command is not None
    ended = f"\n{'-' * 70}\nRan {count} tests in 0.000s\n\nOK\n"
    assert suite_result(command, 0, ended, "") == {"passed": passed, "status": 0, "failed": []}
