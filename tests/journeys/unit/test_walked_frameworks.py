"""Code that the mesh does not know is replayed as it ran: legs, calls that are given up, sessions.

Each program here is the shortest of a random walk that broke a promise.
"""

from __future__ import annotations

import pytest

from tests.support.walker.acts import Act, Moment
from tests.support.walker.history import History, Plan
from tests.support.walker.oracle import findings_of
from tests.support.walker.programs import Job, Op, Request
from tests.support.walker.walk import run_walk

QUIET = Moment("quiet")
WAYS = ("openai", "http", "complete", "own")
PAY, GRANT, DEPLOY = Request("pay", "B", 2), Request("grant", "A", 1), Request("deploy", "A", 1)
MAIL = Request("mail", "B", 1)


def tool(request: Request) -> Op:
    return Op("tool", request=request)


def say(name: str, way: str = "") -> Op:
    return Op("say", name=name, way=way)


def stream(name: str, pieces: int) -> Op:
    return Op("stream", name=name, seconds=pieces)


def timed(seconds: float, *ops: Op) -> Op:
    return Op("timed", seconds=seconds, branches=(ops,))


def legs(way: str, *branches: tuple[Op, ...]) -> Op:
    return Op("legs", name="l1", way=way, branches=branches)


def walk(*ops: Op, acts: tuple[Act, ...] = (), seed: int = 1, checks: bool = False) -> History:
    return run_walk(Plan(seed, {"j0": Job("a0x", ops)}, acts, checks=checks))


def texts(history: History) -> list[str]:
    return [call.text for call in history.world.asks.calls]


@pytest.mark.parametrize("pieces", [1, 2, 4, 9])
@pytest.mark.parametrize("way", WAYS)
def test_a_stream_that_was_closed_early_has_the_same_pieces_again(way: str, pieces: int) -> None:
    walked = walk(legs(way, (stream("y1", pieces), say("y2", "mixed"))), Op("sleep", seconds=5.0))
    assert findings_of(walked) == []
    assert len(texts(walked)) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_given_up_beside_a_wait_is_not_made_again(way: str) -> None:
    walked = walk(legs(way, (stream("y1", 1),), (tool(DEPLOY),)))
    assert findings_of(walked) == []
    assert len(texts(walked)) == 1


def test_a_fork_gives_up_the_calls_before_its_step_alone() -> None:
    branch = (say("y1"), Op("hedge", branches=((say("y2"),), (say("y3"),))), say("y4", "mixed"))
    for pick in (0.1, 0.5, 0.99):
        acts = (Act("end", Moment("now")), Act("fork", QUIET, pick=pick))
        walked = walk(legs("http", branch), tool(PAY), acts=acts)
        assert findings_of(walked) == []
        assert [view.status for view in walked.tasks.values()] == ["succeeded"] * 2


@pytest.mark.parametrize("way", [*WAYS, "threads"])
@pytest.mark.parametrize("seed", range(4))
def test_equal_calls_of_legs_keep_their_results(way: str, seed: int) -> None:
    leg = (say("y1"), tool(PAY), say("y2", "mixed"))
    walked = walk(legs(way, leg, leg, leg), tool(DEPLOY), seed=seed)
    assert findings_of(walked) == []
    assert len(texts(walked)) == 6


def session(way: str, dies: int, *rounds: tuple[Op, ...]) -> Op:
    return Op("session", name="u1", way=way, seconds=dies, rounds=rounds)


def test_a_wait_of_a_leg_has_its_turn_among_the_results() -> None:
    first = (Op("nap", seconds=0.5), say("y1", "mixed"), tool(DEPLOY))
    walked = walk(legs("complete", first, (tool(DEPLOY), Op("sleep", seconds=40.0), tool(DEPLOY))))
    assert findings_of(walked) == []


@pytest.mark.parametrize("seed", [12, 24, 34, 37])
def test_a_timeout_beside_a_result_leaves_equal_calls_theirs(seed: int) -> None:
    """Both come at the same time, and make the code ask the same."""
    hedge = Op("hedge", branches=((say("y2"),), (say("y4", "mixed"),)))
    first = (timed(1.0, say("y1", "mixed")), say("y2"))
    walked = walk(legs("http", first, (say("y3"), hedge)), tool(DEPLOY), seed=seed)
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1]


@pytest.mark.parametrize("seed", [3, 14, 15])
def test_a_thread_that_gives_a_call_up_gives_it_up_again_when_the_run_has_waited(seed: int) -> None:
    """The thread goes on at once, and the run waits before the call has ended."""
    walked = walk(legs("threads", (timed(4.0, tool(GRANT)),)), Op("sleep", seconds=300.0), seed=seed)
    assert findings_of(walked) == []


@pytest.mark.parametrize("seed", [3, 14, 35])
def test_a_timeout_that_waits_for_a_call_given_up_before_does_not_end_another(seed: int) -> None:
    """Resumed, the third call of a leg begins at once, and its turn comes 4 s later."""
    second = (say("y2"), say("y3"), timed(2.0, say("y4")), say("y1"))
    walked = walk(legs("openai", (timed(4.0, tool(PAY)), say("y1")), second), tool(DEPLOY), seed=seed)
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1]


@pytest.mark.parametrize(("way", "seconds", "seed"), [("http", 1.0, 1), ("openai", 2.0, 13)])
def test_a_timeout_that_came_to_a_recorded_result_ends_the_call_behind_it(
    way: str, seconds: float, seed: int
) -> None:
    """Resumed, the result has its turn only after a call of the other leg was given up once more."""
    first = (timed(seconds, say("y3", "mixed")), say("y4"))
    second = (tool(PAY), timed(seconds / 2, say("y7", "mixed"), say("y8", "mixed")))
    walked = walk(legs(way, first, second), tool(DEPLOY), seed=seed)
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1]


@pytest.mark.parametrize("seed", [34, 40, 48])
def test_a_thread_that_gives_a_call_up_as_it_ends_gives_it_up_again(seed: int) -> None:
    """The run begins to wait while the turn of the call is still to come."""
    given_up = (timed(4.0, tool(Request("grant", "C", 1))),)
    walked = walk(legs("threads", (tool(MAIL),), given_up), Op("sleep", seconds=300.0), seed=seed)
    assert findings_of(walked) == []


@pytest.mark.parametrize("seed", [1, 9, 13])
def test_the_check_of_a_step_has_no_turn_among_the_results(seed: int) -> None:
    """It is not asked again once its step has a result."""
    others = (tool(DEPLOY), say("y2"), say("y4"), say("y3")), (tool(DEPLOY), say("y3"))
    program = legs("own", (say("y1"), tool(MAIL)), *others)
    walked = walk(program, acts=(Act("kill", Moment("idle")),), seed=seed, checks=True)
    assert findings_of(walked) == []


@pytest.mark.parametrize("way", ["goes on", "anew"])
@pytest.mark.parametrize("seed", range(6))
def test_the_code_goes_on_behind_a_session_that_made_equal_calls(way: str, seed: int) -> None:
    """The run waits after each: the program is not there again, whose calls are in the journal."""
    rounds = ((say("s1"),), (tool(DEPLOY),), (Op("ask", name="q1"),))
    own = (legs("openai", (tool(DEPLOY), say("y1")), (say("y2"),)), tool(DEPLOY), Op("sleep", seconds=5.0))
    walked = walk(session(way, 1, *rounds), *own, seed=seed)
    assert findings_of(walked) == []
    assert [effect.request for effect in walked.world.effects] == [DEPLOY] * 3


@pytest.mark.parametrize("dies", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_a_program_that_died_alone_takes_up_the_call_that_it_left(dies: int, seed: int) -> None:
    walked = walk(session("anew", dies, (say("s1"),), (tool(PAY),), (say("s2"),)), seed=seed)
    assert findings_of(walked) == []
    assert len(texts(walked)) == 2 and len({effect.key for effect in walked.world.effects}) == 1


@pytest.mark.parametrize("way", ["goes on", "anew"])
@pytest.mark.parametrize("dies", [0, 1, 2])
def test_each_purchase_of_a_program_takes_effect_once(way: str, dies: int) -> None:
    walked = walk(session(way, dies, (tool(PAY),), (tool(GRANT),), (tool(PAY), say("s1"))))
    assert findings_of(walked) == []
    effects = [effect.request for effect in walked.world.effects]
    assert sorted(effects) == sorted([PAY, GRANT, PAY])


@pytest.mark.parametrize("seed", range(4))
def test_an_equal_purchase_behind_one_that_a_check_found_takes_effect(seed: int) -> None:
    """The process ended behind the first, and the program asks for it again in the session that goes on."""
    rounds = (tool(MAIL),), (tool(MAIL),)
    kill = Act("kill", Moment("effects", 2))
    walked = walk(session("goes on", 0, *rounds), acts=(kill,), seed=seed, checks=True)
    assert findings_of(walked) == []
    assert [effect.request for effect in walked.world.effects] == [MAIL, MAIL]


@pytest.mark.parametrize("checks", [False, True])
def test_a_launch_beside_a_call_not_given_up_again_is_not_repeated(checks: bool) -> None:
    """Changed code waits for a call that lost a race before: that call is made, and nothing else again."""
    hedge = Op("hedge", branches=((stream("y8", 1),), (say("y9", "mixed"),)))
    program = {"j0": Job("a0x", (legs("own", (), (hedge,), (tool(Request("launch", "C", 1)),)),))}
    acts = (Act("edit", QUIET, pick=0.87, way="633"),)
    walked = run_walk(Plan(400979, program, acts, checks=checks))
    assert findings_of(walked) == []
    assert [answer.subject for answer in walked.answers] == ["approval"]
    assert [effect.request.tool for effect in walked.world.effects] == ["launch"]


@pytest.mark.parametrize("seed", [9, 10, 11])
def test_a_timeout_begins_as_long_before_a_call_that_is_given_up_as_it_did(seed: int) -> None:
    """Resumed, a leg has its first result at once, and the next only after the other leg's timeout."""
    first = (say("y2"), timed(0.5, stream("y3", 3), say("y4", "mixed")))
    second = (timed(0.5, tool(Request("launch", "B", 1))), tool(Request("deploy", "A", 2)))
    walked = walk(legs("complete", first, second), seed=seed)
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1]


def test_a_refusal_that_came_just_before_a_timeout_comes_before_it_again() -> None:
    """Beside a stream that is left, a leg has no money for its call, nor for the next, within two seconds."""
    first = (stream("y3", 3), stream("y5", 1), tool(Request("deploy", "B", 2)))
    second = (say("y6", "mixed"), timed(2.0, stream("y7", 1), stream("y8", 1)))
    program = {"j0": Job("a0y", (legs("http", first, second, (say("y9"), say("y2"))),))}
    walked = run_walk(Plan(8004230, program, (), purse=0.0045))
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1]


@pytest.mark.parametrize("kill", [(), (Act("kill", Moment("effects", 2)),)])
@pytest.mark.parametrize("dies", [0, 1, 2])
@pytest.mark.parametrize("ways", [("anew", "anew"), ("anew", "goes on"), ("goes on", "anew")])
def test_each_of_two_programs_makes_its_own_equal_calls(
    ways: tuple[str, str], dies: int, kill: tuple[Act, ...]
) -> None:
    """The second has ended, and waited for a person, when the run comes to it again."""
    first, second = (
        Op("session", name=name, way=way, seconds=dies, rounds=((tool(PAY),), (tool(PAY), say("s1"))))
        for name, way in zip(("u1", "u2"), ways, strict=True)
    )
    walked = walk(first, Op("sleep", seconds=5.0), second, Op("sleep", seconds=5.0), acts=kill, checks=True)
    assert findings_of(walked) == []
    assert len({effect.key for effect in walked.world.effects}) == 4


@pytest.mark.parametrize("pick", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("seed", [2101136, 3])
def test_a_fork_has_the_order_of_results_behind_an_answer(pick: float, seed: int) -> None:
    """A person approved a call of a branch before the first call that is known by its request."""
    hedge = Op("hedge", branches=((say("y6", "mixed"),), (tool(MAIL),)))
    launch = tool(Request("launch", "C", 2))
    others = (hedge, launch), (say("y10"),), (say("y11", "mixed"), launch, launch, say("y3"))
    approved = Op("gather", branches=((tool(GRANT),),))
    acts = (Act("end", QUIET), Act("fork", QUIET, pick=pick))
    walked = walk(approved, legs("complete", *others), acts=acts, seed=seed, checks=True)
    assert findings_of(walked) == []
    assert [len(view.attempts) for view in walked.tasks.values()] == [1, 1]
