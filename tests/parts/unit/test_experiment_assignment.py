"""Variants are chosen by weight, the same for each task of a unit, and differently by each experiment."""

from collections import Counter
from datetime import UTC, datetime

from meshwright.core.messages import Task
from meshwright.parts.experiments.records import ExperimentRequest
from meshwright.parts.experiments.results import wilson
from meshwright.parts.experiments.table import Assignment, Assignments, ExperimentRow

TASKS = 10_000
NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)
WEIGHTS = {"before": 8.0, "after": 1.0, "cheap": 1.0}


def row_of(
    experiment_id: str = "e-1",
    tenant_id: str = "default",
    over: str = "tasks",
    salt: str = "s",
    **fields: object,
) -> ExperimentRow:
    variants = [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()]
    variants[1] |= {"version": 2, "tags": ["kind"], "params": {"reasoning_effort": "low"}}
    wanted = ExperimentRequest.model_validate(
        {"name": "x", "agent_id": "greeter", "variants": variants, **fields}
    )
    return ExperimentRow(
        experiment_id=experiment_id,
        tenant_id=tenant_id,
        agent_id="greeter",
        status="running",
        runs_over=over,
        salt=salt,
        spec=wanted.model_dump_json(exclude_defaults=True),
        state="{}",
    )


def task_of(number: int, thread: str | None = None, by: str = "ada", tenant: str = "default") -> Task:
    return Task(
        task_id=f"t-{number}",
        thread_id=thread or f"t-{number}",
        requested_by=by,
        tenant_id=tenant,
        deadline_at=NOW,
        created_at=NOW,
    )


def test_ten_thousand_assignments_have_the_shares_of_the_weights() -> None:
    for unit in ("thread", "requester"):
        assignment = Assignment(row_of(unit=unit))
        chosen = Counter(assignment.assign(task_of(number, by=f"u-{number}")).name for number in range(TASKS))
        for name, weight in WEIGHTS.items():
            low, high = wilson(chosen[name], TASKS, alpha=0.001)
            assert low <= weight / sum(WEIGHTS.values()) <= high, (unit, name, chosen)


def test_tasks_of_a_unit_get_the_same_variant() -> None:
    by_thread, by_requester = Assignment(row_of()), Assignment(row_of(unit="requester"))
    for number in range(50):
        thread, by, later = f"th-{number}", f"u-{number}", number + 50
        assert by_thread.assign(task_of(number, thread)) == by_thread.assign(task_of(later, thread, "bob"))
        assert by_requester.assign(task_of(number, by=by)) == by_requester.assign(task_of(later, by=by))


def test_another_salt_or_experiment_chooses_independently() -> None:
    assignments = [Assignment(row) for row in (row_of(), row_of(salt="other"), row_of("e-2"))]
    chosen = [
        [assignment.assign(task_of(number)).name for number in range(1_000)] for assignment in assignments
    ]
    for other in chosen[1:]:
        same = sum(one == two for one, two in zip(chosen[0], other, strict=True))
        low, high = wilson(same, 1_000, alpha=0.001)
        assert low <= 0.8**2 + 2 * 0.1**2 <= high


def test_a_task_carries_what_its_variant_changes() -> None:
    assignments = Assignments()
    assert assignments.choose(task_of(1)) == []
    assignments.take([row_of(), row_of("e-2", "acme"), row_of("e-3", over="inputs")])
    chosen = [variant for number in range(200) for variant in assignments.choose(task_of(number))]
    assert {variant.experiment for variant in chosen} == {"e-1"}
    found = {variant.name: variant for variant in chosen}
    after, before = found["after"], found["before"]
    assert (after.agent_id, after.version, after.tags) == ("greeter", 2, ("kind",))
    assert after.params == {"reasoning_effort": "low"}
    assert (before.version, before.tags, before.model, before.params) == (None, None, None, {})
    [of_acme] = assignments.choose(task_of(1, tenant="acme"))
    assert of_acme.experiment == "e-2"
