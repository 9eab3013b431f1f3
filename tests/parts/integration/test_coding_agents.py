"""Coding agents as workers, by an agent of the Agent Client Protocol that does every wrong thing."""

import pytest

from meshwright.agents.trees.leases import Trees
from meshwright.core.errors import ConfigError
from meshwright.parts.coding import doctor
from meshwright.parts.coding.component import CodingComponent
from meshwright.parts.coding.doctor import check_age
from meshwright.parts.coding.settings import CodingProgram
from meshwright.testing import MeshUnderTest
from tests.support.coding_agents import PROGRAM, Fixer, Up, data, delegated, proposal_of, up
from tests.support.repositories import CALC

__all__ = ["data", "up"]
pytestmark = pytest.mark.needs("git", "bwrap")


async def test_the_change_is_tested_and_committed_once_a_person_approves(up: Up) -> None:
    async with up() as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add.")
        [question] = await mesh.questions()
        assert "+    return a + b" in str(question)
        await mesh.answer(question, {"approve": True})
        outcome = await mesh.client.outcome(receipt.task_id)
        assert outcome.result["changed"] == ["M calc.py"]
        assert outcome.result["branch"] == f"mesh/{receipt.task_id}"
        names = mesh.events(task_id=receipt.task_id).names
        assert [name for name in names if name.startswith("coding.")] == [
            "coding.session",
            "coding.call",
            "coding.turn",
        ]


async def failure_of(mesh: MeshUnderTest, text: str) -> str:
    """The code and message of a task that fails."""
    receipt = await mesh.client.submit("fixer", text)
    outcome = await mesh.client.outcome(receipt.task_id)
    assert not outcome.success
    assert outcome.error is not None
    return f"{outcome.error.type}: {outcome.error.message}"


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        ("[lies]", "NothingDelivered: fixer changed nothing, and says: I have fixed it"),
        ("[dies]", "(its program ended by status 3: a fault of the program)"),
        ("[floods]", "CodingAgentFailed: fixer: the coding agent floods its connection"),
        ("[long line]", "CodingAgentFailed: fixer: a message is over 8,000,000 bytes"),
        ("[refuses]", "CodingAgentFailed: fixer refused the request. It says: no"),
        (
            "[odd end]",
            "CodingAgentFailed: fixer: the coding agent ended its turn with 'because', which is no reason",
        ),
    ],
)
async def test_an_agent_that_does_not_deliver_fails_by_name(up: Up, words: str, failure: str) -> None:
    async with up() as mesh:
        assert failure in await failure_of(mesh, f"Have add() add. {words}")


async def test_an_agent_that_never_ends_is_cancelled_and_then_killed(up: Up) -> None:
    async with up(max_seconds=0.5) as mesh:
        assert "did not answer session/prompt" in await failure_of(mesh, "Have add() add. [never ends]")


async def test_an_agent_of_another_version_is_refused(up: Up) -> None:
    async with up(flaws="version") as mesh:
        assert "speaks version 7 of the Agent Client Protocol, not 1" in await failure_of(
            mesh, "Have add() add."
        )


async def test_children_end_with_the_session_and_nothing_outside_is_written(up: Up) -> None:
    async with up() as mesh:
        outcome = await delegated(mesh, "Have add() add. [leaves children] [writes outside]")
        assert outcome.result["changed"] == ["M calc.py"]
        assert "wrote" not in outcome.result["text"]
    assert not (PROGRAM.parent / "outside").exists()


async def test_a_program_that_stays_at_the_end_of_its_input_still_writes_its_transcript(up: Up) -> None:
    async with up(flaws="stays") as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add.")
        await proposal_of(mesh, receipt.task_id)
        [transcript] = mesh.mesh.get(Trees).folder.rglob("transcript.txt")
        assert transcript.read_text() == "whole"


async def test_a_session_that_dies_is_taken_up_where_the_agent_can(up: Up) -> None:
    async with up() as mesh:
        outcome = await delegated(mesh, "Have add() add. [dies once]")
        assert "Prompts: 2" in outcome.result["text"]
        sessions = mesh.events("coding.session").payloads
        assert [event["how"] for event in sessions] == ["new", "resumed"]


async def test_a_session_is_loaded_where_the_agent_only_claims_that_it_resumes(up: Up) -> None:
    async with up(flaws="claims-resume") as mesh:
        outcome = await delegated(mesh, "Have add() add. [dies once]")
        assert "Prompts: 2" in outcome.result["text"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", "resumed"]


async def test_permissions_for_two_tools_with_the_same_input_are_two_questions(up: Up) -> None:
    async with up() as mesh:
        await mesh.client.submit("fixer", "Have add() add. [asks of tools]")
        for name, is_allowed in (("buy", True), ("sell", False)):
            [question] = await mesh.questions()
            assert f"Allow: {name}" in str(question.subject)
            await mesh.answer(question, {"approve": is_allowed})
        [proposal] = await mesh.questions()
        assert "+['yes', 'no']" in str(proposal)


async def test_a_session_that_cannot_be_taken_up_begins_again_from_the_tree(up: Up) -> None:
    async with up(flaws="no-load") as mesh:
        outcome = await delegated(mesh, "Have add() add. [dies once]")
        assert "Prompts: 1" in outcome.result["text"]
        sessions = mesh.events("coding.session").payloads
        assert [event["how"] for event in sessions] == ["new", "restarted"]


async def test_a_permission_is_asked_once_and_the_session_goes_on(up: Up) -> None:
    async with up() as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add. [asks twice] [noise]")
        [question] = await mesh.questions()
        assert "fixer asks for a permission: Edit calc.py" in str(question)
        await mesh.answer(question, {"approve": True})
        [proposal] = await mesh.questions()
        assert "+    return a + b" in str(proposal)
        await mesh.answer(proposal, {"approve": False})
        outcome = await mesh.client.outcome(receipt.task_id)
        assert "denied" in outcome.result["not_committed"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", "resumed"]


async def test_a_permission_is_not_asked_again_by_a_program_that_died_with_it(up: Up) -> None:
    async with up() as mesh:
        outcome = await delegated(mesh, "Have add() add. [asks] [dies once allowed]")
        assert outcome.result["changed"] == ["M calc.py"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == [
            "new",
            "resumed",
            "resumed",
        ]
        assert [event["allowed"] for event in mesh.events("coding.permission").payloads] == [True]
        assert len(mesh.events("task.waiting")) == 2


@pytest.mark.parametrize(
    ("words", "answer"), [("[asks]", "I was not allowed to"), ("[asks or stops]", "nothing")]
)
async def test_a_permission_that_is_denied_is_an_answer(up: Up, words: str, answer: str) -> None:
    async with up() as mesh:
        receipt = await mesh.client.submit("fixer", f"Have add() add. {words}")
        [question] = await mesh.questions()
        await mesh.answer(question, {"approve": False, "reason": "not today"})
        outcome = await mesh.client.outcome(receipt.task_id)
        assert outcome.error is not None
        assert f"says: {answer}. It was denied: Edit calc.py (not today)" in outcome.error.message


async def test_a_change_that_breaks_tests_goes_back_to_the_agent(up: Up) -> None:
    tests = "import unittest\n\nimport other\n\n\nclass Ones(unittest.TestCase):\n    def test_one(self):\n"
    files = {**CALC, "other.py": "def one():\n    return 1\n"}
    files["test_other.py"] = f"{tests}        self.assertEqual(other.one(), 1)\n"
    async with up(files=files, max_turns=1) as mesh:
        assert "TestsBroken: fixer left tests" in await failure_of(mesh, "Have add() add. [breaks tests]")
    async with up(files=files) as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add. [breaks tests]")
        assert "TestsBroken" not in str(await mesh.questions())
        turns = mesh.events("coding.turn", task_id=receipt.task_id)
        assert len(turns) == 2


async def checked(mesh: MeshUnderTest) -> str:
    """The answer of doctor about the coding agent."""
    [check] = mesh.mesh.get(CodingComponent).checks()
    return str(await check.ask())


async def test_doctor_names_an_agent_that_cannot_be_used_and_how_to_install_it(up: Up) -> None:
    async with up() as mesh:
        assert await checked(mesh) == "fake 1.2.3, resumes sessions"
    async with up(flaws="no-load") as mesh:
        assert await checked(mesh) == "fake 1.2.3, begins again after a stop"
    async with up(flaws="version") as mesh:
        with pytest.raises(ConfigError, match="speaks version 7"):
            await checked(mesh)
    async with up(program="codex", command="") as mesh:
        with pytest.raises(ConfigError, match="needs codex-acp, which is not installed"):
            await checked(mesh)


async def test_doctor_names_an_agent_that_answers_the_first_request_alone(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 2.0)
    async with up(flaws="falls-silent") as mesh:
        with pytest.raises(ConfigError, match="did not answer session/new within 2 seconds"):
            await checked(mesh)


async def test_an_agent_that_names_another_table_is_a_warning(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up() as mesh:
        assert mesh.mesh.warnings == ()
    monkeypatch.setattr(Fixer, "coder", "codxe")
    async with up() as mesh:
        [warning] = mesh.mesh.warnings
        assert (
            "there is no table [coding.codxe]; write it in mesh.toml, or name one as coder: fixer" in warning
        )


def test_a_version_that_is_too_old_is_named() -> None:
    table = CodingProgram(program="codex")
    check_age("codex", table, "codex-acp 0.16.0, resumes sessions")
    with pytest.raises(ConfigError, match=r"too old: codex-acp 0.9.1, and 0.16 is needed.*npm install -g"):
        check_age("codex", table, "codex-acp 0.9.1")
