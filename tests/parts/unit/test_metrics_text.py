"""The text of a scrape, compared with the one that `support/metrics.txt` has."""

from datetime import UTC, datetime
from pathlib import Path

from meshwright.component import Figure
from meshwright.parts.figures.operations import metrics_text
from meshwright.parts.figures.records import Figures
from meshwright.parts.figures.sums import CallKey, CallSums, CallUsage, FailureKey, Histogram, UsageKey

WRITTEN = Path(__file__).parents[2] / "support" / "metrics.txt"
FIGURES = {
    "at": "2026-05-01T10:01:00Z",
    "agents": [
        {
            **{"agent_id": "a", "waiting": 2, "running": 1, "parked": 3, "slots": 4, "stuck": 1},
            **{"oldest": "2026-05-01T10:00:00Z", "rate": 0.4, "success": 0.95, "cost_today_usd": "1.25"},
            **{"p50_seconds": 1.5, "p90_seconds": 2.75},
        },
        {"agent_id": 'odd"\n\\', "oldest": "2026-05-01T10:02:00Z"},
    ],
    "workers": [
        {
            **{"incarnation": name, "store": "postgres", "host": "h", "pid": 1, "is_front": False},
            **{"lease": lease, "started_at": "2026-05-01T09:00:00Z", "seen_at": "2026-05-01T10:00:59Z"},
        }
        for name, lease in (("w1", "held"), ("w2", "held"), ("w3", "expired"))
    ],
    "models": [
        {"deployment": "d1", "calls": 8, "failed": 2, "fallbacks": 1, "retried": 4},
        {"deployment": "d2", "well": False},
    ],
    "parked": [
        {"agent_id": "a", "kind": "money", "account": account, "count": 2, "oldest": "2026-05-01T10:00:00Z"}
        for account in ("x", "y")
    ]
    + [{"agent_id": None, "kind": "person", "count": 1, "oldest": "2026-05-01T10:00:00Z"}],
    "dead_letters": {"failed": 3, "timed_out": 1, "messages": 2},
    "disk": {"free_bytes": 10**9, "total_bytes": 2 * 10**9, "store_bytes": 4096},
}
COUNTS = {
    "a": {"task.accepted": 7, "task.succeeded": 4, "task.failed": 1},
    "": {"task.accepted": 1, "task.dead_lettered": 3, "message.dead_lettered": 2},
}


def histogram(*values: float) -> Histogram:
    counted = Histogram((1.0, 2.0))
    for value in values:
        counted.add(value)
    return counted


def sums_of_calls() -> CallSums:
    calls = CallSums(None)  # type: ignore[arg-type]  # it is not refreshed
    answered, failed = CallKey("g", "m", "d1"), CallKey("g", "", "", "rate_limited")
    calls.durations.update({answered: histogram(0.5, 1.5, 9.0), failed: histogram(2.0)})
    calls.tokens.update({(answered, "input"): histogram(1.0), (answered, "output"): histogram(2.5)})
    calls.cost_pico.update({"a": 1_250_000_000_000})
    calls.usage[UsageKey("default", "a", "m", "p@1")] = CallUsage(3, 100, 20, 5_000_000)
    calls.errors[FailureKey("d1", "RateLimited")] = 2
    return calls


def test_all_families_are_written_as_before():
    others = [
        ("sinks", Figure("lag_events", "Events behind.", lambda: {"mlflow": 3.0}, "sink")),
        ("shop", Figure("open", "Whether it is open.", lambda: 1)),
    ]
    figures = Figures.model_validate(FIGURES)
    text = metrics_text(figures, COUNTS, sums_of_calls(), {"d1": "openai"}, others)
    assert text == WRITTEN.read_text()


def test_a_mesh_without_a_disk_shows_no_figures_of_it():
    text = metrics_text(Figures(at=datetime(2026, 5, 1, tzinfo=UTC)), {}, sums_of_calls(), {}, [])
    assert "_bytes" not in text and "# TYPE meshwright_workers gauge\n" in text
