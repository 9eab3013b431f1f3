"""The walker: a plan is the same walk each time, its oracle sees each wrong, and findings are shrunk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_struct

from meshwright.core.files import TaskFile
from meshwright.core.messages import Fault
from meshwright.engine.work.people import Approval, Repetition
from tests.support.walker.acts import Act, Moment
from tests.support.walker.asks import Asks, ModelCall
from tests.support.walker.files import FileWorld, WorldFiles
from tests.support.walker.history import Answered, History, Plan
from tests.support.walker.oracle import findings_of
from tests.support.walker.programs import Generator, Job, Op, Request, all_ops, edited, lines_of
from tests.support.walker.shrink import shrunk
from tests.support.walker.simulation import SimulatedLoop, simulate
from tests.support.walker.walk import run_walk
from tests.support.walker.world import PRICE, Effect, World

QUIET = Moment("quiet")
MAIL, PAY, DEPLOY = Request("mail", "A", 1), Request("pay", "B", 2), Request("deploy", "C", 1)
PROGRAM = {
    "j0": Job(
        "a0x",
        (_tools := tuple(Op("tool", request=it) for it in (MAIL, PAY, DEPLOY))) + (Op("delegate", job="j1"),),
    ),
    "j1": Job("a1x", (Op("converse", rounds=((Op("tool", request=MAIL),),)), Op("ask", name="q1"))),
}
PLAN = Plan(1, PROGRAM, (Act("wait", QUIET, way="10"),))


def history() -> History:
    return run_walk(PLAN)


def test_a_plan_is_the_same_walk_each_time() -> None:
    first, second = run_walk(Plan.of(7)), run_walk(Plan.of(7))
    assert first.lines == second.lines
    assert first.world.effects == second.world.effects
    assert list(first.tasks) == list(second.tasks)


def test_a_walk_without_faults_shows_nothing() -> None:
    walk = history()
    assert findings_of(walk) == []
    assert [effect.request for effect in walk.world.effects] == [MAIL, PAY, DEPLOY, MAIL]
    assert {view.status for view in walk.tasks.values()} == {"succeeded"}


def test_people_tell_the_result_of_a_step_that_a_kill_cut_off() -> None:
    program = {"j0": Job("a0x", (Op("tool", request=MAIL),))}
    walk = run_walk(Plan(5, program, (Act("kill", Moment("effects", 1)),)))
    [effect], [answer] = walk.world.effects, walk.answers
    assert (answer.value, answer.is_taken) == ({"approve": False, "result": effect.receipt}, True)
    assert findings_of(walk) == []


def test_a_simulation_leaves_the_forms_of_answers_as_they_are() -> None:
    async def fields(loop: SimulatedLoop | None = None) -> list[set[str]]:
        return [{*shape.model_json_schema()["properties"]} for shape in (Approval, Repetition)]

    expected = [{"approve", "reason"}, {"approve", "reason", "result"}]
    assert simulate(fields, 1) == expected
    assert asyncio.run(fields()) == expected


@pytest.mark.parametrize(("way", "act"), [("http", Act("kill", way="stop")), ("threads", Act("lease"))])
def test_a_call_that_arrives_as_its_process_ends_may_be_made_again(way: str, act: Act) -> None:
    """It was on its way to the provider, which bills it."""
    legs = Op("legs", name="l1", way=way, branches=((Op("say", name="y1"),),))
    program = {"j0": Job("a0x", (Op("sleep", seconds=5.0), legs))}
    walk = run_walk(Plan(1, program, (replace(act, moment=Moment("effects", 1)),)))
    assert [call.may_repeat for call in walk.world.asks.calls] == [True, False]
    assert findings_of(walk) == []


def test_a_call_that_begins_while_its_process_stops_may_be_made_again() -> None:
    legs = Op("legs", name="l1", way="complete", branches=((Op("say", name="y4"),),))
    delegations = tuple(Op("delegate", job=job) for job in ("j1", "j2"))
    program = {
        "j0": Job("a0y", (Op("converse", rounds=(delegations,)),)),
        "j1": Job("a1y", (legs,)),
        "j2": Job("a1y", ()),
    }
    walk = run_walk(Plan(201987, program, (Act("kill", Moment("points", 12), way="stop"),)))
    assert [call.may_repeat for call in walk.world.asks.calls] == [True, False]
    assert findings_of(walk) == []


def test_calls_that_were_asked_for_side_by_side_as_a_process_ended_may_be_in_the_ledger() -> None:
    """Its journal cannot tell which of them it had begun."""
    says = tuple((Op("say", name=name),) for name in ("y1", "y2"))
    program = {"j0": Job("a0x", (Op("legs", name="l1", way="threads", branches=says),))}
    walk = run_walk(Plan(1, program, (Act("kill", Moment("now")),)))
    assert walk.world.calls_beside == 1
    assert walk.costs.total.calls == 4
    assert findings_of(walk) == []


def test_the_kill_that_brings_missing_agents_back_may_cut_calls_off() -> None:
    """Nothing waits for calls under way before it."""
    legs = Op("legs", name="l1", way="http", branches=((Op("say", name="y1"),),))
    program = {"j0": Job("a0x", (Op("sleep", seconds=5.0), legs)), "j1": Job("a1x", ())}
    acts = Act("kill", Moment("now"), missing=("a1x",)), Act("wait", Moment("effects", 1), way="0")
    walk = run_walk(Plan(1, program, acts))
    assert [call.may_repeat for call in walk.world.asks.calls] == [True, False]
    assert findings_of(walk) == []


def test_a_call_that_code_makes_before_it_knows_of_its_lost_lease_may_be_made_again() -> None:
    legs = Op(
        "legs",
        name="l1",
        way="own",
        branches=((Op("say", name="y9"),), (Op("tool", request=Request("mail", "C", 1)),)),
    )
    program = {"j0": Job("a0x", (Op("delegate", job="j1"),)), "j1": Job("a1x", (legs,))}
    walk = run_walk(Plan(207091, program, (Act("lease", Moment("points", 7)),)))
    assert [call.may_repeat for call in walk.world.asks.calls] == [True, False]
    assert findings_of(walk) == []


@pytest.mark.parametrize(("is_on_its_way", "may_repeat"), [(False, [True, False]), (True, [False, False])])
def test_a_call_that_a_kill_cut_off_takes_no_allowance_of_a_lost_lease(
    is_on_its_way: bool, may_repeat: list[bool]
) -> None:
    """Only a call that code had asked for, and that was not on its way, may come after the lease is lost."""
    asks = Asks()
    asks.ask("t1", "l1.0", "say y7")
    asks.send_call("t1", "say y7")
    asks.disturb()
    asks.ask("t1", "l1.0", "say y7")
    if is_on_its_way:
        asks.send_call("t1", "say y7")
    asks.disturb(goes_on=True)
    assert [asks.send_call("t1", "say y7").may_repeat for _ in range(2)] == may_repeat


@pytest.mark.parametrize(("arrives", "count"), [(False, 1), (True, 0)])
def test_a_call_that_was_given_up_before_it_arrived_may_be_in_the_ledger(arrives: bool, count: int) -> None:
    asks = Asks()
    asks.ask("t1", "l1.0", "say y7")
    if arrives:
        asks.begin_call(asks.send_call("t1", "say y7"))
    asks.end("t1", "l1")
    asks.ask("t1", "l1.0", "say y7")  # as it is replayed
    asks.end("t1", "l1")
    asks.ask("t1", "l2.0", "say y8")
    asks.hear("t1", "l2.0", "reply")
    assert asks.never_arrived() == count


def test_a_kill_cuts_off_one_call_of_each_task_that_there_is_then() -> None:
    """The second task came after the last look before the kill, the third and fourth after the kill."""
    program = {
        "j0": Job("a0x", (Op("delegate", job="j1"),)),
        "j1": Job("a1x", (Op("converse", rounds=()), Op("ask", name="q1"))),
    }
    walk = run_walk(
        Plan(1, program, (Act("kill", QUIET), Act("submit", QUIET), Act("wait", QUIET, way="10")))
    )
    assert (walk.kills, len(walk.tasks), walk.world.cut_calls) == (1, 4, 2)
    walk.world.bill += 2 * PRICE
    assert findings_of(walk) == []
    walk.world.bill += PRICE
    assert [finding.rule for finding in findings_of(walk)] == ["ledger below the bill"]


@pytest.mark.parametrize(("estimated", "rules"), [("0.5", []), ("0.2", ["calls that were never made"])])
def test_only_an_estimate_may_be_above_what_a_call_costs(estimated: str, rules: list[str]) -> None:
    """A stream that was left early has no usage, and its request may have more tokens than the bill."""
    walk = history()
    total = walk.costs.total
    more = {"cost_usd": total.cost_usd + Decimal("0.5"), "estimated_usd": Decimal(estimated)}
    walk.costs = walk.costs.model_copy(update={"total": total.model_copy(update=more)})
    assert [finding.rule for finding in findings_of(walk)] == rules


async def test_processes_note_that_a_session_has_lost_an_answer(tmp_path: Path) -> None:
    world = World({}, 1)
    files = WorldFiles(tmp_path, world)
    files.write_program({})
    process = FileWorld(tmp_path)
    process.read_result(MAIL, await process.do(MAIL, "t1", "k1"))
    for key in ("k2", "k3"):
        await process.do(MAIL, "t1", key)
    process.lose_answer("t1", MAIL)
    files.read()
    assert [effect.is_lost for effect in world.effects] == [False, True, False]


async def test_a_call_of_a_process_that_has_not_ended_has_no_answer_to_lose(tmp_path: Path) -> None:
    world = World({}, 1)
    files = WorldFiles(tmp_path, world)
    files.write_program({})
    process = FileWorld(tmp_path)
    doing = asyncio.create_task(process.do(MAIL, "t1", "k1"))
    while not world.effects:
        await asyncio.sleep(0)
        files.read()
    doing.cancel()
    process.lose_answer("t1", MAIL)
    files.read()
    assert [(effect.has_ended, effect.is_lost) for effect in world.effects] == [(False, False)]


@pytest.mark.parametrize("seed", [4, 5, 7])
def test_a_session_that_has_lost_an_answer_may_repeat_the_call(seed: int) -> None:
    """Its calls have no ids of a model, by which the mesh could know one again."""
    session = Op("session", name="u3", way="goes on", rounds=((Op("tool", request=MAIL),),))
    walk = run_walk(Plan(seed, {"j0": Job("a0x", (session,))}, (Act("lease", Moment("idle")),)))
    assert [effect.is_lost for effect in walk.world.effects] == [True, False]
    assert findings_of(walk) == []


def root(walk: History) -> str:
    return walk.submitted[0]


def repeat(walk: History) -> None:
    walk.world.effects.append(Effect(9, MAIL, root(walk), "new", 1, 1))


def repeat_behind_a_receipt_that_was_read(walk: History) -> None:
    walk.world.lose_answer(root(walk), MAIL)
    repeat(walk)


def repeat_by_a_new_key(walk: History) -> None:
    walk.world.effects.append(Effect(9, PAY, root(walk), "new", 1, 1))


def use_a_key_again(walk: History) -> None:
    [pay] = [effect for effect in walk.world.effects if effect.request == PAY]
    walk.world.effects.append(Effect(9, MAIL, pay.task_id, pay.key, 1, 1))


def forget_the_yes(walk: History) -> None:
    walk.answers = [answer for answer in walk.answers if answer.subject != "approval"]


def give_a_yes_to_another_task(walk: History) -> None:
    walk.answers = [replace(answer, task_id="another") for answer in walk.answers]


def lose_the_outcome(walk: History) -> None:
    walk.tasks[root(walk)] = replace_struct(walk.tasks[root(walk)], outcome=None, status="waiting")


def end_twice(walk: History) -> None:
    walk.events += [event for event in walk.events if event.event_type == "task.succeeded"]


def lose_the_task(walk: History) -> None:
    walk.submitted.append("lost")


def delegate_again(walk: History) -> None:
    [child] = [view for view in walk.tasks.values() if view.parent_task_id is not None]
    walk.tasks["again"] = replace_struct(child, task_id="again")


def swap_results(walk: History) -> None:
    walk.world.read_result(PAY, walk.world.effects[0].receipt)


def make_up_a_result(walk: History) -> None:
    walk.world.read_result(PAY, "pay B 2 #99")


def swap_children(walk: History) -> None:
    walk.world.read_child("j1", {"job": "j2", "results": []})


def use_a_receipt_twice(walk: History) -> None:
    view = walk.tasks[root(walk)]
    assert view.outcome is not None
    receipt = walk.world.effects[0].receipt
    outcome = replace_struct(view.outcome, result={"job": "j0", "results": [receipt, receipt]})
    walk.tasks[root(walk)] = replace_struct(view, outcome=outcome)


def act_after_the_cancel(walk: History) -> None:
    walk.cancels.append((root(walk), len(walk.world.effects) - 1, 1))


def bill_more(walk: History) -> None:
    walk.world.bill += Decimal("0.5")


def begin_fewer_calls(walk: History) -> None:
    walk.world.begun_calls = 0


def spend_more_than_the_purse(walk: History) -> None:
    walk.plan = replace(walk.plan, purse=-0.5)


def attach_a_file_twice(walk: History) -> None:
    view = next(view for view in walk.tasks.values() if view.parent_task_id is not None)
    assert view.outcome is not None
    file = TaskFile(name="a.txt", media_type="text/plain", url="/tasks/t/files/1")
    outcome = replace_struct(view.outcome, files=(file, file))
    walk.tasks[view.task_id] = replace_struct(view, outcome=outcome)


def show_it_to_others(walk: History) -> None:
    walk.leaks.append("another tenant sees it")


def take_the_answer_of_a_stranger(walk: History) -> None:
    walk.answers.append(Answered(root(walk), "", "question", None, "yes", "eve", True, 1))


def ask_a_model_again(walk: History) -> None:
    walk.world.ask(root(walk), "l1.0", "say y1")
    for _ in range(2):
        walk.world.asks.calls.append(ModelCall(root(walk), "say y1", 0.0, 1.0))


def bill_a_call_without_a_row(walk: History) -> None:
    walk.world.asks.calls.append(ModelCall(root(walk), "say y1", 0.0, 1.0))


def hear_something_else(walk: History) -> None:
    walk.world.asks.hear(root(walk), "l1.0", "one", 1.0)
    walk.world.asks.hear(root(walk), "l1.0", "another", 2.0)


def start_over(walk: History) -> None:
    view = walk.tasks[root(walk)]
    error = Fault(type="ReplayMismatch", message="x")
    walk.tasks[root(walk)] = replace_struct(
        view, attempts=(replace_struct(view.attempts[0], error=error), *view.attempts)
    )


def take_another_reply(walk: History) -> None:
    walk.world.read_reply("say y1", "reply 1 to say y2")


WRONGS: dict[Callable[[History], None], str] = {
    repeat: "repeated effect (once)",
    repeat_behind_a_receipt_that_was_read: "repeated effect (once)",
    repeat_by_a_new_key: "repeated effect (keyed)",
    use_a_key_again: "one key, two requests",
    forget_the_yes: "effects beyond their yes",
    give_a_yes_to_another_task: "effects beyond their yes",
    lose_the_outcome: "never ends (waiting)",
    end_twice: "more than one outcome",
    lose_the_task: "accepted and lost",
    delegate_again: "delegated too often",
    swap_results: "wrong result",
    make_up_a_result: "wrong result",
    swap_children: "wrong child",
    use_a_receipt_twice: "one receipt, two requests",
    act_after_the_cancel: "effect after a cancel",
    bill_more: "ledger below the bill",
    begin_fewer_calls: "calls that were never made",
    spend_more_than_the_purse: "more than the purse",
    attach_a_file_twice: "one file twice",
    show_it_to_others: "seen by another tenant",
    take_the_answer_of_a_stranger: "answer of a stranger",
    ask_a_model_again: "call made again",
    bill_a_call_without_a_row: "call without a row",
    hear_something_else: "other result",
    start_over: "starts over",
    take_another_reply: "wrong reply",
}


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: wrong.__name__)
def test_the_oracle_sees_a_wrong(wrong: Callable[[History], None]) -> None:
    walk = history()
    wrong(walk)
    assert WRONGS[wrong] in {finding.rule for finding in findings_of(walk)}


def test_a_yes_lets_a_doubted_effect_happen_again() -> None:
    walk = history()
    repeat(walk)
    walk.answers.append(Answered(root(walk), "", "doubt", MAIL, {"approve": True}, "bob", True, 1))
    assert findings_of(walk) == []


def test_shrinking_keeps_what_a_finding_needs() -> None:
    plan = Plan(3, PROGRAM, (Act("kill"), Act("cancel", pick=0.5), Act("answer", way="yes"), Act("kill")))

    def shows(candidate: Plan) -> bool:
        pays = any(op.request == PAY for job in candidate.program.values() for op in all_ops(job.ops))
        return pays and any(act.kind == "cancel" for act in candidate.acts or ())

    short = shrunk(plan, shows)
    assert [act.kind for act in short.acts or ()] == ["cancel"]
    assert lines_of(short.program) == ["j0 by a0x: pay(B 2)"]


def test_programs_differ_by_their_seed_alone() -> None:
    programs = [Generator(seed).program() for seed in range(200)]
    assert programs == [Generator(seed).program() for seed in range(200)]
    kinds = {op.kind for program in programs for job in program.values() for op in all_ops(job.ops)}
    every = "tool gather delegate converse ask sleep event step charge progress fail attach remember"
    assert kinds == {*every.split(), "legs", "say", "timed", "hedge", "stream", "nap", "session"}
    assert max(len(program) for program in programs) > 3


def test_an_edit_changes_one_job() -> None:
    program = edited(PROGRAM, 1)
    assert sum(program[name] != PROGRAM[name] for name in PROGRAM) == 1
