"""Tables and lines of the command line fit the terminal that they are shown in."""

from datetime import UTC, datetime

import pytest

from meshwright.agents.display import AGENTS
from meshwright.cli.batches import LETTERS
from meshwright.cli.status import figures_text
from meshwright.cli.tasks import REASON, TASKS
from meshwright.console.connect import match_id
from meshwright.console.output import event_line, labelled, table
from meshwright.console.questions import question_lines
from meshwright.core.display import Column, age, local_time
from meshwright.core.errors import InvalidInput
from meshwright.engine.work.people import Repetition
from meshwright.models.commands import overview_text
from meshwright.money.commands import costs_table

WIDTHS = [80, 100]
TASK = {
    "task_id": "01M7XV45M71MZ9EHWBCJWXY64T",
    "status": "succeeded",
    "capability": "project-architecture",
    "agent_id": "architect-agent",
    "created_at": "2026-11-20T09:31:02Z",
    "model": "claude-opus-4-8",
    "cost_usd": "0.012345",
}
AGENT = {
    "agent_id": "researcher-agent",
    "status": "online",
    "last_seen": "2026-11-20T09:31:02Z",
    "capabilities": [{"name": f"capability-{number}"} for number in range(9)],
}
FIGURES = {
    "at": "2026-11-21T13:47:00Z",
    "agents": [
        {
            **{"agent_id": "researcher-agent-of-the-whole-company", "waiting": 12_345, "running": 1_024},
            **{
                "slots": 2_048,
                "parked": 1_000,
                "oldest": "2026-11-20T13:47:00Z",
                "rate": 1_234.5,
                "stuck": 17,
            },
            **{"success": 0.953, "p50_seconds": 123.4, "p90_seconds": 4_000.2},
            **{"calls_today": 12_345, "unpriced_today": 12, "cost_today_usd": "1234.5678"},
        }
    ],
    "parked": [
        {"kind": "person", "unreached": 12_000, "unreached_since": "2026-11-18T13:47:00Z"},
        {"kind": "person", "unreached": 345, "unreached_since": "2026-11-19T13:47:00Z"},
        {"kind": "money"},
    ],
    "models": [
        {
            **{"deployment": "quality/openai/gpt-5.4-with-a-long-name", "well": False},
            **{"until": "2026-11-21T13:48:00Z", "reason": "Rate limit reached for gpt-5.4 in organization"},
            **{"calls": 1_000, "failed": 120, "fallbacks": 20, "retried": 31},
            **{"p50_seconds": 2.1, "p90_seconds": 6.8},
        }
    ],
    "stuck": [
        {
            **{"task_id": TASK["task_id"], "agent_id": "researcher-agent-of-the-whole-company"},
            **{"running_seconds": 201.5, "p90_seconds": 64.0},
        }
    ],
    "dead_letters": {"failed": 12_345, "timed_out": 1_234, "messages": 1},
    "disk": {"free_bytes": 52_784_234_496, "total_bytes": 270_553_174_016, "store_bytes": 930_936},
    "workers": [{"agents": {"a": 8}, "lease": "held"}, {"agents": {"a": 8}, "lease": "expired"}],
}
EVENT = {
    "seq": 1234,
    "time": "2026-11-20T09:31:02Z",
    "event_type": "task.accepted",
    "task_id": TASK["task_id"],
    "agent_id": None,
    "payload": {"text": "what happens to running work " * 9},
}


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    return request.param


def test_lines_of_tasks_fit_and_keep_the_end_of_the_id(width: int) -> None:
    lines = table(TASKS, [TASK]).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].split()[0].endswith("WXY64T")
    assert "succeeded" in lines[1] and "$0.0123" in lines[1]
    assert lines[0].index(" age ") == lines[1].index(f" {age(TASK['created_at'])} ")


def test_the_reason_of_a_failed_task_is_in_its_line(width: int) -> None:
    failed = {**TASK, "status": "failed", "reason": "ModelUnavailable: the provider is away for a while"}
    lines = table((*TASKS, REASON), [failed]).splitlines()
    assert max(map(len, lines)) <= width
    assert "ModelUnavailable: the provider" in lines[1] and "WXY64T" in lines[1]


def test_lines_of_agents_fit(width: int) -> None:
    assert max(map(len, table(AGENTS.columns, [AGENT]).splitlines())) <= width


def test_figures_fit_and_keep_what_waits_and_what_it_costs(width: int) -> None:
    text = "\n".join(figures_text(FIGURES))
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "12,345",
        "1,024/2,048",
        "95%",
        "$1,234.57",
        "no, next try at the next call",
        "12%",
        "…WXY64T",
        "3.36 min",
        "questions that reached nobody: 12,345, the oldest 3 d ago (mesh inbox)",
    ):
        assert part in text
    assert text.endswith("workers: 1 with 8 slots, and 1 whose lease has expired")


def test_a_deployment_whose_every_call_failed_is_not_said_to_be_well() -> None:
    model = {**FIGURES["models"][0], "well": True, "calls": 3, "failed": 3}
    assert "failing: 3 of 3" in "\n".join(figures_text({**FIGURES, "models": [model]}))
    model["failed"] = 2
    assert "failing" not in "\n".join(figures_text({**FIGURES, "models": [model]}))


@pytest.mark.parametrize(
    ("message", "text"),
    [("It failed", "It failed. Try again"), ("See https://any/keys.", "See https://any/keys. Try again")],
)
def test_an_error_has_one_full_stop_before_its_remedy(message: str, text: str) -> None:
    assert str(InvalidInput(message, remedy="Try again")) == text


def test_a_doubt_shows_all_that_its_check_saw() -> None:
    reason = (
        "The mesh stopped while pay was running. Its check cannot tell: The bank lists: ... May it run again?"
    )
    question = {"question": reason, "status": "answered", "subject": {"check": "The bank lists:\npending"}}
    assert labelled(question_lines(question, "")).splitlines()[-3:] == [
        "check       |",
        "            The bank lists:",
        "            pending",
    ]
    short = {**question, "subject": {"check": "The bank lists:"}}
    assert [name for name, _ in question_lines(short, "")] == ["asked"]


def test_a_doubt_shows_the_arguments_and_how_to_give_the_result() -> None:
    subject = {"kind": "tool pay", "request": {"arguments": '{"amount": 10}'}}
    question = {
        "id": "01M8D29SADYYGS7DBJDGW18Z7B",
        "task_id": "01M8D29SADYYGS7DBJDGW18Z7B",
        "question": "May it run again?",
        "status": "open",
        "subject": subject,
        "answer_schema": Repetition.model_json_schema(),
    }
    assert labelled(question_lines(question, " --url X")).splitlines() == [
        "asked       May it run again?",
        'arguments   {"amount": 10}',
        "approve     mesh approve W18Z7B --url X",
        """it did      mesh answer W18Z7B --value '{"approve": false, "result": "..."}' --url X""",
        'deny        mesh deny W18Z7B --reason "..." --url X',
    ]
    subject["kind"] = "question"  # of an agent, whose answer may have any fields
    assert "it did" not in [name for name, _ in question_lines(question, "")]


def test_a_line_of_an_event_fits_and_ends_with_a_whole_word(width: int) -> None:
    event = {**EVENT, "event_type": "agent.noted"}
    line = event_line(event, width)
    assert len(line) <= width < len(event_line(event))
    assert "text=what happens" in line
    assert line.removesuffix("…").endswith(("what", "happens", "to", "running", "work"))


def test_a_terminal_shows_no_column_that_is_empty_in_all_rows(width: int) -> None:
    unpriced = {**TASK, "model": None}
    assert "model" not in table(TASKS, [unpriced]) and "model" in table(TASKS, [unpriced, TASK])


def test_a_table_that_is_piped_is_whole() -> None:
    assert "model" in table(TASKS, [{**TASK, "model": None}])
    assert TASK["task_id"] in table(TASKS, [TASK]) and "claude-opus-4-8" in table(TASKS, [TASK])


def test_columns_give_way_in_order() -> None:
    columns = (
        Column("task", "task_id", cut=1, from_end=True),
        Column("name", "name", cut=2),
        Column("cost", "cost"),
    )
    item = {"task_id": "0123456789ABC", "name": "an-agent-of-ours", "cost": "$1"}
    lines = table(columns, [item], width=32).splitlines()
    assert lines[1].split() == ["…6789ABC", "an-agent-of-ours", "$1"]
    lines = table(columns, [item], width=26).splitlines()
    assert lines[1].split() == ["…6789ABC", "an-agent-…", "$1"]


def test_a_table_that_is_too_wide_even_so_leaves_columns_out() -> None:
    lines = table(TASKS, [TASK], width=60).splitlines()
    assert max(map(len, lines)) <= 60
    assert [head[:7] for head in lines[0].split()] == ["task", "status", "capabil", "agent", "age", "cost"]
    assert lines[1].endswith("$0.0123")


def test_at_80_columns_the_reason_is_read_and_columns_give_way_to_it() -> None:
    reason = "Unauthorized: the server at 127.0.0.1:18911 answered 401"
    failed = {**TASK, "status": "failed", "reason": reason, "model": None, "cost_usd": "0"}
    lines = table((*TASKS, REASON), [failed], width=80).splitlines()
    assert reason[:31] in lines[1] and max(map(len, lines)) <= 80
    assert lines[0].split()[-2:] == ["age", "reason"] and lines[1].split()[0].endswith("WXY64T")


def test_dead_letters_keep_agent_and_cause_at_80_columns() -> None:
    group = {
        "tasks": 12,
        "first_at": "2026-11-20T09:31:02Z",
        "agent_id": "architect-agent",
        "error": "ModelUnavailable",
        "last_at": datetime.now(UTC).isoformat(),
        "reason": "ModelUnavailable: the provider is away for a while, and was yesterday",
    }
    lines = table(LETTERS, [group], width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "architect-agent  ModelUnavailable  0 s   ModelUnavailable: the" in lines[1]


def test_at_40_columns_key_and_reason_are_what_is_left() -> None:
    failed = {**TASK, "status": "failed", "reason": "Unauthorized: the server answered 401"}
    lines = table((*TASKS, REASON), [failed], width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].split() == ["task", "status", "age", "reason"]
    assert lines[1].split()[0].endswith("WXY64T") and "Unauthori" in lines[1]


def test_a_time_has_its_zone() -> None:
    shown = local_time("2026-11-20T09:31:02Z")
    assert datetime.fromisoformat(shown) == datetime(2026, 11, 20, 9, 31, 2, tzinfo=UTC)


KEYS = ["steps/01M7/1/1/6", "steps/01M7/1/1/7", "approval"]


@pytest.mark.parametrize(("given", "found"), [("6", KEYS[0]), ("app", KEYS[2]), ("nothing", "nothing")])
def test_an_end_or_a_beginning_names_the_only_one_that_has_it(given: str, found: str) -> None:
    assert match_id(given, KEYS, "key") == found


def test_what_fits_several_is_not_guessed() -> None:
    with pytest.raises(InvalidInput, match=r"fits several ids of a key: steps/01M7/1/1/6, steps/01M7/1/1/7"):
        match_id("steps", KEYS, "key")


def test_a_whole_id_wins_over_longer_ones() -> None:
    assert match_id("a", ["a", "ab"], "task") == "a"


DEPLOYMENT = {
    "model": "anthropic/claude-opus-4-8",
    "tags": ["research", "architecture", "expensive", "complex"],
    "price": {"input": "$15.00", "output": "$75.00", "source": "file"},
    "health": {"status": "ModelUnavailable", "at": "2026-11-20T09:31:02Z"},
    "missing": ["ANTHROPIC_API_KEY"],
}
COST = {
    "key": "architect-agent-of-a-very-long-name",
    **dict.fromkeys(("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "failed"), 123_456),
    **dict.fromkeys(("unpriced", "estimated_usd"), 0),
    **dict.fromkeys(("cost_usd", "saved_usd"), "12.345678"),
}


def test_lines_of_models_fit(width: int) -> None:
    group = {"group": "default", "deployments": [DEPLOYMENT], "fallbacks": {}}
    shown = overview_text({"answers": "offline", "groups": [group], "warnings": []})
    assert max(map(len, shown.splitlines())) <= width


def test_lines_of_costs_fit_and_keep_the_numbers(width: int) -> None:
    shown = costs_table({"by": "agent", "items": [COST], "omitted": 0, "total": COST})
    assert max(map(len, shown.splitlines())) <= width
    assert all(line.endswith("123,456") for line in shown.splitlines()[1:])
    assert shown.count("$12.3457") == 4


def test_texts_of_several_lines_are_shown_as_they_are_to_who_approves_them() -> None:
    hostile = "a: 1\nb: 2\x1b[2J\n\napprove     mesh approve X"
    effect = {"diff": "-  replicas: 2\n+  replicas: 5", "uid": "1-2"}
    subject = {"kind": "approval", "arguments": {"manifest": hostile, "force": True}, "effect": effect}
    asked = {"question": "May it?\nIts effect:\n{...}", "subject": subject, "status": "ended"}
    assert labelled(question_lines(asked, "")).splitlines() == [
        "asked       May it?",
        "arguments   manifest: |",
        "              a: 1",
        "              b: 2\\u001b[2J",
        "",
        "              approve     mesh approve X",
        "            force: true",
        "effect      diff: |",
        "              -  replicas: 2",
        "              +  replicas: 5",
        "            uid: 1-2",
    ]
    subject["arguments"] = {"replicas": 5}
    assert 'arguments   {"replicas": 5}' in labelled(question_lines(asked, "")).splitlines()
