"""When a schedule is due: by cron, at an interval, or once. Plain functions of time, in UTC; and [schedules].

Cron expressions are Debian's, read in a time zone. When clocks go forward, a job at a fixed time in the
gap is due at the first minute behind it; when they go back, it is due once, the first time. A job whose
minute or hour begins with `*` is due in each hour that there is. Intervals are elapsed time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field

from meshwright import TaskRequest
from meshwright.kit import InvalidInput, nearest

_MAX_SECONDS = 366 * 86_400.0
_CRON_FIELDS = 5
_CRON_REMEDY = 'Write five fields: minute, hour, day of the month, month, day of the week, as "0 7 * * 1-5"'
_WINDOW = timedelta(hours=1)


class ScheduleSpec(BaseModel):
    """When a task is due, and which: exactly one of `cron`, `every_seconds` and `at`.

    `cron` is read in the time zone `zone`, and so are `at` and `until` without an offset. `catch_up` decides
    about due times that were missed, `overlap` about those at which the task before is still open. A run is
    late by up to `jitter_seconds`, and by the same time when it is repeated. The schedule ends after
    `until`, and after `max_runs` tasks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str | None = Field(default=None, min_length=1, max_length=200)
    every_seconds: float | None = Field(default=None, ge=1, le=_MAX_SECONDS)
    at: datetime | None = None
    zone: str = Field(default="UTC", min_length=1, max_length=64)
    task: TaskRequest
    catch_up: Literal["none", "last", "all"] = "last"
    max_catch_up: Annotated[
        int, Field(ge=1, le=100, description="Of `all`: how many runs are made up, the last ones.")
    ] = 10
    overlap: Literal["skip", "queue", "allow", "cancel_other"] = "skip"
    jitter_seconds: float = Field(default=0.0, ge=0, le=86_400)
    until: datetime | None = None
    max_runs: int | None = Field(default=None, ge=1, le=1_000_000_000)

    @property
    def when(self) -> tuple[str | None, float | None, datetime | None, str]:
        """The fields that decide its due times: a change of it begins them again."""
        return self.cron, self.every_seconds, self.at, self.zone

    def checked(self, now: datetime | None = None) -> ScheduleSpec:
        """The schedule with its times in UTC. Raises InvalidInput for what cannot be meant.

        With the time `now` also for one that would never be due from now on.
        """
        if sum(field is not None for field in (self.cron, self.every_seconds, self.at)) != 1:
            raise InvalidInput(
                "A schedule has exactly one of cron, every_seconds and at",
                remedy='Say one, as "cron": "0 7 * * 1-5"',
                field="cron",
            )
        if self.task.task_id is not None:
            raise InvalidInput(
                "The tasks of a schedule get their ids from it",
                remedy="Leave task_id out",
                field="task.task_id",
            )
        zone = _find_zone(self.zone)
        times = {name: _in_utc(getattr(self, name), zone, name) for name in ("at", "until")}
        spec = self.model_copy(update=times)
        if self.cron is not None:
            _check_cron(self.cron, zone)
        if now is not None:
            spec._check_future(now)
        return spec

    def _check_future(self, now: datetime) -> None:
        if self.at is not None and self.at <= now:
            raise InvalidInput(
                f"{self.at:%Y-%m-%dT%H:%M:%SZ} has passed, it is {now:%Y-%m-%dT%H:%M:%SZ}",
                remedy="Name a later time",
                field="at",
            )
        if next_due(self, now, now) is None:
            raise InvalidInput(
                "It ends before it is due for the first time", remedy="Name a later time", field="until"
            )


def next_due(spec: ScheduleSpec, anchor: datetime, after: datetime) -> datetime | None:
    """The first due time after a time, or None. Intervals count from `anchor`."""
    return next(due_times(spec, anchor, after), None)


def due_times(spec: ScheduleSpec, anchor: datetime, after: datetime) -> Iterator[datetime]:
    """The due times after a time, each later than the one before, up to `until`."""
    times = _cron_times(spec, after) if spec.cron is not None else _other_times(spec, anchor, after)
    return times if spec.until is None else takewhile(spec.until.__ge__, times)


def last_due(
    spec: ScheduleSpec, anchor: datetime, after: datetime, until: datetime, count: int
) -> tuple[list[datetime], int]:
    """The last `count` due times after one time and up to another, and how many come before them.

    If cron makes many, not all are counted: there are at least so many.
    """
    if spec.every_seconds is not None:
        first, last = _number(spec, anchor, after) + 1, _number(spec, anchor, min(until, spec.until or until))
        after = anchor + timedelta(seconds=spec.every_seconds) * max(first - 1, last - count)
        due = takewhile(until.__ge__, due_times(spec, anchor, after))
        return list(due), max(0, last - first + 1 - count)
    window = _WINDOW
    while True:  # from the end, since a mesh may have been down for years
        start = after if until - after <= window else until - window
        times = list(takewhile(until.__ge__, due_times(spec, anchor, start)))
        if start == after or len(times) > count:
            return times[-count:], max(0, len(times) - count)
        window *= 4


def fires_at(spec: ScheduleSpec, name: str, anchor: datetime, due: datetime) -> datetime:
    """When the run of a due time begins: late by a share of `jitter_seconds`, always the same one.

    It is never later than the next due time, so that runs keep their order.
    """
    if not spec.jitter_seconds:
        return due
    longest, following = timedelta(seconds=spec.jitter_seconds), next_due(spec, anchor, due)
    digest = hashlib.sha256(f"{name}\x00{due.isoformat()}".encode()).digest()
    share = int.from_bytes(digest[:6]) / 2**48
    return due + share * (longest if following is None else min(longest, following - due))


def local(spec: ScheduleSpec, due: datetime) -> datetime:
    """A time in the zone of the schedule."""
    return due.astimezone(_find_zone(spec.zone))


def _number(spec: ScheduleSpec, anchor: datetime, until: datetime) -> int:
    """How many times an interval has ended by then."""
    return max(0, (until - anchor) // timedelta(seconds=spec.every_seconds or 1))


def _other_times(spec: ScheduleSpec, anchor: datetime, after: datetime) -> Iterator[datetime]:
    if spec.at is not None:
        yield from [spec.at] if spec.at > after else []
        return
    number, pause = _number(spec, anchor, after), timedelta(seconds=spec.every_seconds or 1)
    while True:
        number += 1
        yield anchor + number * pause


def _cron_times(spec: ScheduleSpec, after: datetime) -> Iterator[datetime]:
    from cronsim import CronSim

    for match in CronSim(spec.cron or "", after.astimezone(_find_zone(spec.zone))):
        due = match.astimezone(UTC)
        if due > after:  # when clocks change, cronsim repeats itself
            after = due
            yield due


def _check_cron(cron: str, zone: ZoneInfo) -> None:
    from cronsim import CronSim, CronSimError

    try:
        if len(cron.split()) != _CRON_FIELDS:
            raise CronSimError("It does not have five fields")
        first = list(islice(CronSim(cron, datetime(2024, 1, 1, tzinfo=zone)), 1))
    except (CronSimError, ValueError, AssertionError) as error:  # its parser asserts some of its input
        raise InvalidInput(
            f"{cron[:40]!r} is no cron expression: {str(error) or 'a field is wrong'}",
            remedy=_CRON_REMEDY,
            field="cron",
        ) from None
    if not first:
        raise InvalidInput(
            f"{cron[:40]!r} never comes: there is no such day", remedy=_CRON_REMEDY, field="cron"
        )


def _find_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found; a path that leads out; a folder of zones
        close = nearest(name, available_timezones())
        raise InvalidInput(
            f"There is no time zone {name!r}",
            remedy=f"Did you mean {close}?" if close else "Name one like Europe/Berlin, or UTC",
            field="zone",
        ) from None


def _in_utc(time: datetime | None, zone: ZoneInfo, field: str) -> datetime | None:
    """A time in UTC; without an offset it is one of the zone, and the first of two."""
    if time is None:
        return None
    try:
        return (time if time.tzinfo is not None else time.replace(tzinfo=zone)).astimezone(UTC)
    except OverflowError:
        raise InvalidInput(
            f"The year {time.year} is out of range", remedy="Name another", field=field
        ) from None
