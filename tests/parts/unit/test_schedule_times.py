"""When a schedule is due: cron in a time zone, intervals, once; the same however it is asked for."""

from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import TaskRequest
from meshwright.parts.schedules.times import ScheduleSpec, due_times, fires_at, last_due, local, next_due

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Africa/Cairo",
    "America/Santiago",
    "Australia/Lord_Howe",
]
CRONS = [
    "30 2 * * *",
    "*/20 * * * *",
    "0 * * * *",
    "0 0 * * 0",
    "15 2,3 * * *",
    "0 0 29 2 *",
    "5 */6 1,15 * *",
]


def spec(**fields: Any) -> ScheduleSpec:
    return ScheduleSpec(task=TaskRequest(agent_id="clerk"), **fields)


def clocks(wanted: ScheduleSpec, start: str, count: int) -> list[str]:
    """The next due times after a time of the zone's clocks, as they show them, with the offset."""
    zone = local(wanted, NOW).tzinfo
    after = datetime.fromisoformat(start).replace(tzinfo=zone).astimezone(UTC)
    return [f"{local(wanted, due):%m-%d %H:%M %z}" for due in islice(due_times(wanted, after, after), count)]


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        ("30 2 * * *", "2026-03-28T12:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]),  # there is no 02:30
        ("0 7 * * *", "2026-03-28T12:00", ["03-29 07:00 +0200", "03-30 07:00 +0200"]),
        ("*/30 * * * *", "2026-03-29T01:00", ["03-29 01:30 +0100", "03-29 03:00 +0200", "03-29 03:30 +0200"]),
        ("30 2 * * *", "2026-10-24T12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),  # not twice
        ("30 * * * *", "2026-10-25T01:45", ["10-25 02:30 +0200", "10-25 02:30 +0100", "10-25 03:30 +0100"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["02-29 00:00 +0100"] * 2),  # of 2028 and 2032
        ("0 0 31 * *", "2026-01-31T00:00", ["03-31 00:00 +0200", "05-31 00:00 +0200"]),
    ],
)
def test_cron_is_read_as_debian_does_where_clocks_change(cron: str, start: str, expected: list[str]) -> None:
    assert clocks(spec(cron=cron, zone="Europe/Berlin"), start, len(expected)) == expected


def test_intervals_are_elapsed_time_where_clocks_change() -> None:
    every = spec(every_seconds=3600, zone="Europe/Berlin")
    assert clocks(every, "2026-03-29T01:00", 2) == ["03-29 03:00 +0200", "03-29 04:00 +0200"]


def test_a_time_without_offset_is_one_of_the_zone_and_the_first_of_two() -> None:
    at = {
        "2026-12-01T09:00": "2026-12-01T08:00:00+00:00",
        "2026-12-01T09:00-05:00": "2026-12-01T14:00:00+00:00",
        "2026-10-25T02:30": "2026-10-25T00:30:00+00:00",
        "2026-03-29T02:30": "2026-03-29T01:30:00+00:00",  # 03:30 by the clocks there
    }
    for given_at, utc in at.items():
        made = spec(at=datetime.fromisoformat(given_at), zone="Europe/Berlin").checked(NOW)
        assert [due.isoformat() for due in due_times(made, NOW, NOW)] == [utc]


whens = st.one_of(
    st.builds(lambda cron, zone: spec(cron=cron, zone=zone), st.sampled_from(CRONS), st.sampled_from(ZONES)),
    st.builds(lambda seconds: spec(every_seconds=seconds), st.floats(600, 1e6)),
)
moments = st.timedeltas(timedelta(days=1), timedelta(days=1460)).map(NOW.__add__)


@settings(max_examples=150, deadline=None)
@given(whens, moments, st.timedeltas(timedelta(0), timedelta(days=20)), st.integers(1, 12))
def test_due_times_are_the_same_from_wherever_they_are_counted(
    wanted: ScheduleSpec, start: datetime, length: timedelta, count: int
) -> None:
    """Forward one by one, forward from the middle, and the last ones from the end."""
    end = start + length
    times = list(takewhile(end.__ge__, due_times(wanted, NOW, start)))
    assert times == sorted(set(times)), "they grow"
    middle = start + length / 2
    assert [due for due in times if due > middle] == list(
        takewhile(end.__ge__, due_times(wanted, NOW, middle))
    )
    found, earlier = last_due(wanted, NOW, start, end, count)
    assert found == times[-count:]
    assert earlier <= max(0, len(times) - count)
    assert (earlier > 0) == (len(times) > count)


@settings(max_examples=100, deadline=None)
@given(whens, moments, st.floats(0, 86_400))
def test_jitter_is_the_same_again_and_never_beyond_the_next_due_time(
    wanted: ScheduleSpec, start: datetime, seconds: float
) -> None:
    wanted = wanted.model_copy(update={"jitter_seconds": seconds})
    due, after = islice(due_times(wanted, NOW, start), 2)
    fires = fires_at(wanted, "default:a", NOW, due)
    assert due <= fires <= min(after, due + timedelta(seconds=seconds))
    assert fires == fires_at(wanted, "default:a", NOW, due)


def test_jitter_spreads_schedules() -> None:
    hourly = spec(every_seconds=3600, jitter_seconds=600)
    delays = {fires_at(hourly, f"default:{n}", NOW, NOW) - NOW for n in range(50)}
    assert len(delays) == 50
    assert max(delays) - min(delays) > timedelta(seconds=300)


def test_years_of_missed_minutes_are_not_counted_one_by_one() -> None:
    minutes = spec(cron="* * * * *", zone="Europe/Berlin")
    found, earlier = last_due(minutes, NOW, NOW, NOW + timedelta(days=3650), 10)
    assert (len(found), found[-1], earlier >= 1) == (10, NOW + timedelta(days=3650), True)
    seconds = spec(every_seconds=1)
    found, earlier = last_due(seconds, NOW, NOW, NOW + timedelta(days=3), 10)
    assert (len(found), earlier) == (10, 3 * 86_400 - 10)


def test_it_ends() -> None:
    until = spec(every_seconds=60, until=NOW + timedelta(seconds=150))
    assert len(list(due_times(until, NOW, NOW))) == 2
    assert next_due(until, NOW, NOW + timedelta(seconds=120)) is None


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({}, "cron", "exactly one"),
        ({"cron": "0 7 * * *", "every_seconds": 60}, "cron", "exactly one"),
        ({"cron": "0 25 * * *"}, "cron", "Bad hour"),
        ({"cron": "0 7 * *"}, "cron", "five fields"),
        ({"cron": "* 0 7 * * 1"}, "cron", "five fields"),
        ({"cron": "L/2 * * * *"}, "cron", "no cron expression"),
        ({"cron": "0 0 30 2 *"}, "cron", "Bad day-of-month"),
        ({"cron": "0 0 31 4 1#6"}, "cron", "Bad day-of-week"),
        ({"cron": "0 7 * * *", "zone": "Europe/Belin"}, "zone", "Did you mean Europe/Berlin"),
        ({"cron": "0 7 * * *", "zone": "Europe"}, "zone", "no time zone"),
        ({"cron": "0 7 * * *", "zone": "../../etc/passwd"}, "zone", "no time zone"),
        ({"at": datetime(2025, 12, 31, tzinfo=UTC)}, "at", "has passed"),
        (
            {"at": datetime.fromisoformat("9999-12-31T23:59"), "zone": "America/New_York"},
            "at",
            "out of range",
        ),
        (
            {"cron": "0 7 * * *", "until": datetime.fromisoformat("9999-12-31T23:59-12:00")},
            "until",
            "out of range",
        ),
        ({"every_seconds": 60, "until": NOW + timedelta(seconds=30)}, "until", "before it is due"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_field_and_remedy(
    fields: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        spec(**fields).checked(NOW)
    assert (refused.value.field, bool(refused.value.remedy)) == (field, True)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789*/,-#LW MONJA", max_size=24))
def test_any_text_is_a_cron_expression_or_refused(text: str) -> None:
    try:
        made = ScheduleSpec(cron=text or "x", task=TaskRequest(agent_id="clerk")).checked(NOW)
    except InvalidInput:
        return
    assert next_due(made, NOW, NOW) is not None
