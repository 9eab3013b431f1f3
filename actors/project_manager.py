"""project-manager: sees work on a repository through, from INTAKE to ACCEPTED, with other agents."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.toolsets.code import ProposingTools

from ._reviews import Review, Verdict

CHANGES = ("bug-fix", "backend-coding", "component-generation", "screen-generation", "test-generation")
ADVICE = ("tech-consultation", "technical-research", "api-design", "ui-design", "test-planning")
REVIEWER = "architect-agent"  # which changes nothing, and so is the author of nothing
KNOWN = "KNOWN_FAILURES: "
MAX_ROUNDS = 3
MAX_QUESTIONS = 3  # about the goal
MAX_LISTED_CHARS = 6_000  # of the files that the planner sees


class Goal(BaseModel):
    """The goal of a request, or the question to ask first where the request leaves it open."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, max_length=72, description="the change, in the imperative")
    goal: str = Field(description="one sentence")
    done_when: str = Field(description="how one will see that it is done")
    tests: list[str] = Field(
        default_factory=list[str],
        max_length=8,
        description="files or folders of tests that must pass at the end",
    )
    question: str = Field(default="", description="only if the goal cannot be told without its answer")


class Part(BaseModel):
    """A part of the work that one agent finishes on its own."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=40)
    capability: Literal[CHANGES + ADVICE]  # type: ignore[valid-type]
    text: str = Field(description="all that the agent has to know")
    needs: list[str] = Field(
        default_factory=list[str], description="names of earlier parts whose results it uses"
    )


class Plan(BaseModel):
    """The parts of the work, in order."""

    model_config = ConfigDict(extra="forbid")

    parts: list[Part] = Field(min_length=1, max_length=12)


class Fault(NamedTuple):
    """Why a round failed; `kind` is the same where it failed in the same way."""

    reason: str
    kind: str


class ProjectManager(Agent):
    """Plans, delegates, has the result tested and reviewed, and proposes it to a person.

    Its state is a fact of the run: INTAKE, PLANNING, IMPLEMENTATION, QA, REVIEW, and at the end ACCEPTED,
    REJECTED or STUCK. The tests of the goal, and those that a verdict names, are run again by this code.
    """

    agent_id = "project-manager"
    capabilities = (Capability("project-management"), Capability("task-orchestration"))
    toolsets = (ProposingTools,)
    delegates_to = (*CHANGES, *ADVICE, "qa-review", REVIEWER)

    async def run(self, run: Run) -> dict[str, Any]:
        """Work in rounds until a person accepts the result, or says no, or three rounds have failed."""
        await run.state("INTAKE")
        files = (await run.call("list"))[:MAX_LISTED_CHARS]
        failing = failures_of(await tests(run))
        facts = f"Files:\n{files}\n\nTests that fail before any change: {listed(failing)}"
        goal = await understood(run, facts)
        known: list[str] = []
        faults: list[Fault] = []
        for _ in range(MAX_ROUNDS):
            await run.state("PLANNING", faults[-1].reason if faults else "")
            fault = await fault_in_round(run, goal, facts, failing, known)
            if fault is None:
                return await proposed(run, goal)
            known.append(f"It failed: {fault.reason}")
            is_repeated = fault.kind in [earlier.kind for earlier in faults]
            if is_repeated and len(faults) + 1 < MAX_ROUNDS:
                known.append(f"A person has decided: {await decided(run, goal, fault)}")
            faults.append(fault)
        await run.state("STUCK", faults[-1].reason)
        text = f"Not done after {MAX_ROUNDS} rounds. The last one failed: {faults[-1].reason}"
        return {"state": "STUCK", "text": text, "known": known}


async def fault_in_round(
    run: Run, goal: Goal, facts: str, failing: set[str], known: list[str]
) -> Fault | None:
    """Plan, have it done, tested and reviewed; None where nothing is wrong with the result."""
    try:
        plan = await planned(run, goal, facts, known)
        await run.state("IMPLEMENTATION", ", ".join(part.name for part in plan.parts))
        await implemented(run, goal, plan, known)
        await run.state("QA")
        if fault := await fault_in_tests(run, goal, failing):
            return fault
        await run.state("REVIEW")
        return await fault_in_review(run, goal)
    except ToolFailed as error:  # an agent that failed: another plan may do without it
        return Fault(str(error), str(error))


async def understood(run: Run, facts: str) -> Goal:
    """The goal, once a person has answered the question that was open."""
    asked = f"State the goal of this request.\n\n{run.task.text}\n\n{facts}"
    goal = await run.ask(asked, shape=Goal)
    for _ in range(MAX_QUESTIONS):
        if not goal.question:
            break
        answer = await run.ask_person(goal.question, about={"request": run.task.text})
        asked += f"\n\nAsked: {goal.question}\nAnswered by a person: {answer}"
        goal = await run.ask(asked, shape=Goal)
    return goal


async def planned(run: Run, goal: Goal, facts: str, known: list[str]) -> Plan:
    """A plan that can be followed. Raises ToolFailed where the second one is no better."""
    text = f"Plan this work.\n{said(goal)}\nRequest: {run.task.text}\n\n{facts}\n\n{KNOWN}{listed(known)}"
    plan = await run.ask(text, shape=Plan)
    if fault := fault_in_plan(plan):
        plan = await run.ask(f"{text}\n\nThe last plan cannot be followed: {fault}.", shape=Plan)
    if fault := fault_in_plan(plan):
        raise ToolFailed(f"The plan cannot be followed: {fault}")
    return plan


def fault_in_plan(plan: Plan) -> str:
    """Why a plan cannot be followed; empty where it can."""
    earlier: set[str] = set()
    for part in plan.parts:
        if part.name in earlier:
            return f"two parts are called {part.name!r}"
        if missing := [name for name in part.needs if name not in earlier]:
            return f"{part.name!r} needs {missing[0]!r}, which is no earlier part"
        earlier.add(part.name)
    if not any(part.capability in CHANGES for part in plan.parts):
        return "no part changes anything"
    return ""


async def implemented(run: Run, goal: Goal, plan: Plan, known: list[str]) -> None:
    """Have the parts done in order, each with the answers that it needs."""
    answers: dict[str, str] = {}
    for part in plan.parts:
        results = [f"{name}: {answers[name]}" for name in part.needs]
        text = (
            f"{part.text}\n\nThis is a part of a larger work.\n{said(goal)}\n{KNOWN}{listed(known)}\n"
            f"Results of other parts: {listed(results)}\nCommit nothing: that is decided at the end."
        )
        answers[part.name] = await run.delegate(capability=part.capability, text=text)


async def fault_in_tests(run: Run, goal: Goal, failing: set[str]) -> Fault | None:
    """Ask a tester, and run the tests of the goal, those of the verdict, and all of them again."""
    verdict = await run.delegate(
        capability="qa-review",
        text="Does the change in this tree do what it should, and does it break nothing?\n"
        f"{said(goal)}\nTests that failed before it: {listed(failing)}",
        payload={"answer_as": "verdict"},
        shape=Verdict,
    )
    now = failures_of(await tests(run))
    kind = f"QA {listed(now)}"
    if not verdict.passed:
        return Fault(f"The tester found: {listed(verdict.findings)}\nTests that fail: {listed(now)}", kind)
    if not verdict.evidence:
        return Fault("The tester named no tests that show it", kind)
    if broken := now - failing:
        return Fault(f"Tests fail that passed before: {listed(broken)}", kind)
    for path in dict.fromkeys((*goal.tests, *verdict.evidence)):
        if failed := failures_of(await tests(run, path)):
            return Fault(f"Tests that show it fail in {path}: {listed(failed)}", kind)
    return None


async def fault_in_review(run: Run, goal: Goal) -> Fault | None:
    """Have the change reviewed by an agent that has no part in it."""
    text = f"Review the change in this tree.\n{said(goal)}"
    review = await run.delegate(REVIEWER, text, payload={"answer_as": "review"}, shape=Review)
    return None if review.approved else Fault(f"{REVIEWER} found: {listed(review.findings)}", "REVIEW")


async def decided(run: Run, goal: Goal, fault: Fault) -> str:
    """The decision of a person about what failed twice in the same way, for this work and later ones."""
    question = f"This failed twice in the same way. How shall it go on?\n{fault.reason[:2_000]}"
    answer = await run.ask_person(question, about={"goal": goal.goal})
    text = f"{goal.title}: {answer}"
    await run.step("decision", partial(run.remember, text, "project", kind="decision", subject=goal.title))
    return answer


async def proposed(run: Run, goal: Goal) -> dict[str, Any]:
    """Commit what a person approves, with the diff before their eyes."""
    try:
        made = await run.call("propose", title=goal.title, body=goal.goal)
    except ToolFailed as error:
        state = "STUCK" if error.was_begun else "REJECTED"
        await run.state(state, str(error))
        return {"state": state, "text": f"{await head_of(run)}: {error}"}
    await run.state("ACCEPTED")
    return {"state": "ACCEPTED", "text": f"{goal.title}: committed on {made['branch']}", **made}


async def head_of(run: Run) -> str:
    """Whether the tree has a commit: one may be made, and recording it fail."""
    tree = await run.tree()
    head = await tree.head()
    return f"The last commit on {tree.branch} is {head}" if head != tree.lease.base else "Not committed"


async def tests(run: Run, path: str = "") -> Any:
    """The result of tests, run now; a text where they cannot be run."""
    try:
        return await run.call("run_tests", path=path)
    except ToolFailed as error:
        return str(error)


def failures_of(result: Any) -> set[str]:
    """The names of the tests that failed; of a run that tells none, that it failed."""
    if not isinstance(result, dict):
        return {f"the tests cannot be run: {result}"[:500]}
    if result["passed"]:
        return set()
    return {failure["name"] for failure in result["failed"]} or {f"status {result['status']}"}


def said(goal: Goal) -> str:
    """A goal for others."""
    return f"Goal: {goal.goal}\nDone when: {goal.done_when}\nTests of it: {listed(goal.tests)}"


def listed(texts: Iterable[str]) -> str:
    """Texts as a list, or `none`."""
    lines = sorted(texts) if isinstance(texts, set) else list(texts)
    return "".join(f"\n- {line}" for line in lines) or "none"
