"""Calls of models that the end of a process cut off: counted where they are made again, else recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.engine.work.earlier_records import CutSteps, Earlier
from meshwright.engine.work.paths import OpenStep, Paths, Scope
from meshwright.engine.work.protocol import TOOL, StepKey, Work, claim_stream
from meshwright.engine.work.records import ClaimRecords, ProgressEvent

_LOST = "lost"
"""The path of calls that were cut off in steps which are not taken again."""


class CutCalls:
    """The calls of one attempt that earlier claims did not live to record."""

    def __init__(self, work: Work, earlier: Earlier, paths: Paths, records: ClaimRecords) -> None:
        self._work = work
        self._earlier = earlier
        self._paths = paths
        self._records = records
        self._before = claim_stream(work.steps, work.claim - 1)
        """The stream of the claim before this one."""
        self._counted: set[str] = set()
        """The paths whose calls, cut off before, this claim has counted."""
        self._has_begun = False
        """Whether a step of this claim was taken for the one in which the claim before it ended."""
        self._cut_branches: set[str] = set()
        """The scopes of tools that may have been under way as the claim before this one ended."""

    def take_begun(self, opened: OpenStep) -> None:
        """Note whether the claim before this one may have been in a step as its process ended."""
        scope = opened.scope
        opened.was_begun, scope.was_begun = scope.was_begun, False
        self._has_begun = self._has_begun or opened.was_begun
        if opened.was_begun and opened.key.kind.startswith(TOOL):
            self._cut_branches.add(scope.prefix)

    def count(self, opened: OpenStep) -> None:
        """Count the calls of a step that were cut off, durably before it makes another."""
        path = opened.key.path
        cut_steps = self._earlier.cut.get(path, CutSteps(0))
        was_begun = opened.was_begun and not self._follows_cut_tools(opened.scope)
        opened.cut = cut_steps.count + (was_begun and cut_steps.ended_in != self._before)
        self._counted.add(path)
        if opened.cut != cut_steps.count:
            self._records.write_cut(opened.key, opened.cut)

    def _follows_cut_tools(self, scope: Scope) -> bool:
        """Whether tools were under way before the next step of a scope: it had not begun then.

        Only if nothing runs beside the scope's code: else a call of it may have been cut off as well.
        """
        below = f"{scope.prefix}b"
        return self._paths.is_alone and any(prefix.startswith(below) for prefix in self._cut_branches)

    def lost(self, *, was_in_call: bool) -> int:
        """The number of calls that were cut off in steps which this claim does not take any more.

        `was_in_call` says whether the claim before this one may have ended in a call, as its records tell.
        It is 0 once `record_lost` has recorded them.
        """
        cut = self._earlier.cut
        if _LOST in cut:
            return 0
        open_steps = {path: steps for path, steps in cut.items() if path not in self._earlier.results}
        in_calls = {path for path, steps in open_steps.items() if steps.begun_in == self._before}
        if (
            in_calls
            or self._has_begun
            or any(steps.ended_in == self._before for steps in open_steps.values())
        ):
            was_in_call = False  # it is known where that claim ended
        lost_steps = {path: steps for path, steps in open_steps.items() if path not in self._counted}
        calls_before = sum(steps.count for steps in lost_steps.values())
        return calls_before + self._work.was_cut * (was_in_call + len(in_calls & lost_steps.keys()))

    def given_up(self) -> list[str]:
        """The steps, given up by their callers, that were read on as the claim before this one was cut off.

        No claim takes them again.
        """
        branches = tuple(
            f"{prefix}{name}." for prefix, order in self._earlier.orders.items() for name in order.given_up
        )
        read_on = (path for path, steps in self._earlier.cut.items() if steps.begun_in == self._before)
        return [path for path in read_on if path.startswith(branches)]

    def record_given_up(self, path: str, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record the call of a step that was given up."""
        key = StepKey(path=path, number=self._paths.counter, kind="", hash="")
        self._records.write_calls(key, [call], [event])

    def record_lost(self, calls: Sequence[dict[str, Any]], events: Sequence[ProgressEvent]) -> None:
        """Record the `lost` calls, once for the attempt."""
        key = StepKey(path=_LOST, number=self._paths.counter, kind="", hash="")
        self._records.write_calls(key, calls, events)
