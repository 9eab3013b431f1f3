"""Circuits: which deployments are left alone for now, and when one call may try them again.

    closed      calls pass; more than `allowed_fails` failures within a minute open it, and so does a refusal
                of the key, the credit or the model
    open        no call passes for a while: as long as the provider asked, else twice as long each time, and
                never longer than a minute
    half-open   one call passes, the probe: its success closes the circuit, its failure opens it again

An error that a server answers with may come from the history of the one task that asked: failures of one task
open a circuit for that task alone, until another fails too; where others succeed, it is not the deployment.

Each process has its own, and reports changes to the others: what one learns of a deployment holds for all.
They probe a little later than the process that opened the circuit, whose success closes theirs. A successful
test closes a circuit at once, and so does a changed key.
"""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from meshwright.core.clock import Clock
from meshwright.core.errors import ModelError, error_of_code
from meshwright.core.messages import Fault
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered
from meshwright.models.errors import (
    AllProvidersDown,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    is_mendable,
    is_refusal,
)
from meshwright.models.port import STREAM_RESTART, Model, ModelReply, ModelRequest, OnDelta, Wrapper

COOLED_DOWN = "deployment.cooled_down"
REFUSED = "deployment.refused"
RECOVERED = "deployment.recovered"
_MAX_COOLDOWN_SECONDS = 60.0  # whatever a provider asks for: a probe tells whether it is well
_PROBE_SECONDS = 1.0  # after which to look whether a probe has succeeded
_WINDOW_SECONDS = 60.0
_LATER_SECONDS = 2.0  # than the process that opened a circuit, the others probe
_ENOUGH_SECONDS = 30.0  # for an answer: a deployment is not to blame where a caller gave it less
_HISTORIES = 1_000  # that have failed and not succeeded since; the oldest are forgotten


class Policy(NamedTuple):
    """When a circuit opens, and for how long; `is_off`: never."""

    allowed_fails: int = 3
    cooldown_seconds: float = 5.0
    is_off: bool = False


_USUAL = Policy()


class OpenCircuit(NamedTuple):
    """A deployment that is left alone, and why."""

    deployment: str
    since: datetime
    until: datetime
    error: ModelError


_OnChange = Callable[[str, DeploymentLeftAlone | DeploymentRecovered], None]


class _Failure(NamedTuple):
    """A failed call, by time.monotonic(). `history` is whose own fault it may be; None: the deployment's."""

    at: float
    history: int | None


@dataclass(slots=True, eq=False)
class _Circuit:
    since: datetime
    failures: list[_Failure] = field(default_factory=list)
    until: float | None = None  # by time.monotonic(); None while it is closed
    times: int = 0  # opened in a row
    error: ModelError | None = None
    history: int | None = None  # of the failure that opened it last
    is_probed: bool = False

    def left_seconds(self) -> float:
        if self.until is None:
            return 0.0
        return max(self.until - time.monotonic(), _PROBE_SECONDS if self.is_probed else 0.0)

    def note(self, history: int | None) -> None:
        """Add a failure, and forget those of more than a minute ago."""
        now = time.monotonic()
        recent = (failure for failure in self.failures if failure.at > now - _WINDOW_SECONDS)
        self.failures = [*recent, _Failure(now, history)]

    def has_failed_too_often(self, allowed_fails: int) -> bool:
        """Whether failures are more than allowed, and not of one history alone."""
        histories = {failure.history for failure in self.failures}
        return len(self.failures) > allowed_fails and (None in histories or len(histories) > 1)


class Circuits:
    """The circuits of deployments, by id. `on_change` tells others of an opening or a recovery."""

    def __init__(self, *, draw: Callable[[], float] = random.random) -> None:
        self.on_change: _OnChange | None = None
        self._draw = draw
        self._circuits: dict[str, _Circuit] = {}
        self._of_histories: dict[
            tuple[str, int | None], _Circuit
        ] = {}  # in the order of their first failures

    def left_seconds(self, deployment: str, request: ModelRequest | None = None) -> float:
        """After how many seconds a call of a request may pass; 0 where it may pass now."""
        circuit, own = self._circuits.get(deployment), self._own(deployment, request)
        return max(met.left_seconds() if met is not None else 0.0 for met in (circuit, own))

    def error(self, deployment: str, request: ModelRequest | None = None) -> ModelError | None:
        """The error that opened a deployment's circuit, or that of the request's own history."""
        circuit, own = self._circuits.get(deployment), self._own(deployment, request)
        met = own if circuit is None or circuit.until is None else circuit
        return None if met is None else met.error

    def refusal(self, deployment: str) -> ModelError | None:
        """The error of a call that is not made, where a refusal opened the circuit; else None."""
        circuit = self._circuits.get(deployment)
        if circuit is None or circuit.error is None or not is_refusal(circuit.error):
            return None
        error = copy.copy(circuit.error)
        error.message = (
            f"No call was made: deployment {deployment!r} is left alone since "
            f"{circuit.since:%Y-%m-%d %H:%M:%S} UTC, when {error.message}"
        )
        error.attempts, error.lost, error.failed_at, error.failed_with = 0, (), (), ()
        error.retry_after_seconds = self.left_seconds(deployment)
        return error

    def open(self) -> list[OpenCircuit]:
        """The deployments that are left alone, or probed, by id, be it for one task."""
        now, clock = datetime.now(UTC), time.monotonic()
        circuits = {
            name: circuit
            for (name, _), circuit in self._of_histories.items()
            if circuit.until is not None and circuit.until > clock - _MAX_COOLDOWN_SECONDS  # else given up
        }
        circuits |= {name: circuit for name, circuit in self._circuits.items() if circuit.until is not None}
        return [
            OpenCircuit(name, circuit.since, now + timedelta(seconds=circuit.until - clock), circuit.error)
            for name, circuit in sorted(circuits.items())
            if circuit.until is not None and circuit.error is not None
        ]

    @contextmanager
    def call(
        self,
        deployment: str,
        policy: Policy = _USUAL,
        given_seconds: float = _ENOUGH_SECONDS,
        request: ModelRequest | None = None,
    ) -> Iterator[None]:
        """Around a call of a request that `left_seconds` lets pass, with `given_seconds` for its answer."""
        circuit = self._circuits.setdefault(deployment, _Circuit(datetime.now(UTC)))
        own = self._own(deployment, request)
        probed = [
            met for met in (circuit, own) if met is not None and met.until is not None and not met.is_probed
        ]
        for met in probed:
            met.is_probed = True
        try:
            yield
        except ModelError as error:
            if isinstance(error, ModelTimeout) and given_seconds < _ENOUGH_SECONDS:
                raise
            if is_mendable(error):
                self._failed(deployment, policy, error, request, probed)
            else:
                self._answered(deployment, request, probed)
            raise
        else:
            self._answered(deployment, request, probed)
        finally:
            for met in probed:
                met.is_probed = False

    def close(self, is_meant: Callable[[str], bool]) -> None:
        """Let calls pass again to the deployments that are meant, and tell the others."""
        for key in [key for key in self._of_histories if is_meant(key[0])]:
            self._close(key[0], self._of_histories.pop(key))
        for deployment, circuit in self._circuits.items():
            if is_meant(deployment):
                self._close(deployment, circuit)

    def learn(self, event_type: str, payload: Any, age_seconds: float = 0.0) -> None:
        """Apply the payload of an event by which another process has reported a deployment."""
        change = DeploymentLeftAlone.from_payload(payload)
        if change.is_for_one_task:
            return
        circuit = self._circuits.setdefault(change.deployment, _Circuit(datetime.now(UTC)))
        if event_type == RECOVERED:
            circuit.until, circuit.times = None, 0
            return
        seconds = min(change.seconds - age_seconds, _MAX_COOLDOWN_SECONDS)  # clocks differ
        if seconds <= 0:
            return
        if circuit.until is None:
            circuit.since = datetime.now(UTC) - timedelta(seconds=age_seconds)
        until = time.monotonic() + seconds + _LATER_SECONDS * (1 + self._draw())
        circuit.until = max(circuit.until or 0.0, until)
        fault = change.error or Fault(type=ModelUnavailable.__name__, message=change.reason)
        circuit.error = (error_of_code(fault.type, ModelError) or ModelUnavailable)(fault.message)
        circuit.error.answered, circuit.error.reason = change.status, change.reason

    def _own(self, deployment: str, request: ModelRequest | None) -> _Circuit | None:
        """The circuit of a request's history at a deployment, where it has failed there."""
        if not self._of_histories or (history := _history_id(request)) is None:
            return None
        return self._of_histories.get((deployment, history))

    def _answered(self, deployment: str, request: ModelRequest | None, probed: Sequence[_Circuit]) -> None:
        """Close what was probed; what failed again and again for others is not the deployment's fault."""
        circuit = self._circuits[deployment]
        if circuit in probed:
            self._close(deployment, circuit)
        if (own := self._own(deployment, request)) is not None:
            del self._of_histories[deployment, own.history]
            self._close(deployment, own)
        circuit.failures = [
            failure
            for failure in circuit.failures
            if failure.history is None or not self._has_own_fault(deployment, failure.history)
        ]

    def _has_own_fault(self, deployment: str, history: int) -> bool:
        own = self._of_histories.get((deployment, history))
        return own is not None and (own.until is not None or len(own.failures) > 1)

    def _failed(
        self,
        deployment: str,
        policy: Policy,
        error: ModelError,
        request: ModelRequest | None,
        probed: Sequence[_Circuit],
    ) -> None:
        """Count a failure for the deployment, and for the history whose own fault it may be."""
        if policy.is_off:
            return
        circuit = self._circuits[deployment]
        history = _history_id(request) if _may_be_of_the_request(error) else None
        if history is not None:
            if (own := self._of_histories.get((deployment, history))) is None:
                if len(self._of_histories) >= _HISTORIES:
                    del self._of_histories[next(iter(self._of_histories))]
                own = self._of_histories[deployment, history] = _Circuit(datetime.now(UTC), history=history)
            own.note(None)
            self._open(deployment, own, policy, error, is_probe=own in probed, is_for_one_task=True)
            if circuit in probed and circuit.history == history:
                return  # it says no more than before: let another call probe
        if circuit.until is None or circuit in probed:
            circuit.note(history)
            circuit.history = history
        self._open(deployment, circuit, policy, error, is_probe=circuit in probed, is_for_one_task=False)

    def _open(
        self,
        deployment: str,
        circuit: _Circuit,
        policy: Policy,
        error: ModelError,
        *,
        is_probe: bool,
        is_for_one_task: bool,
    ) -> None:
        """Open a circuit after too many failures. A call that began before it opened changes nothing."""
        if circuit.until is not None and not is_probe:
            return
        pause = error.retry_after_seconds or 0.0
        if isinstance(error, RateLimited) and pause:
            seconds = pause
        elif error.retryable and not is_probe and not circuit.has_failed_too_often(policy.allowed_fails):
            return
        else:
            seconds = max(pause, policy.cooldown_seconds * 2**circuit.times)
        seconds = min(seconds, _MAX_COOLDOWN_SECONDS)
        if circuit.until is None:
            circuit.since, circuit.times = datetime.now(UTC), 0
        circuit.failures.clear()
        circuit.times = min(circuit.times + 1, 16)
        circuit.until, circuit.error = time.monotonic() + seconds, copy.copy(error)
        if is_refusal(error):
            error.retry_after_seconds = seconds
        change = DeploymentLeftAlone(
            deployment=deployment,
            seconds=round(seconds, 3),
            error=Fault(type=error.code, message=str(error)),
            status=error.answered,
            reason=error.reason,
            is_for_one_task=is_for_one_task,
        )
        self._tell(COOLED_DOWN if error.retryable else REFUSED, change)

    def _close(self, deployment: str, circuit: _Circuit) -> None:
        """Close a circuit, and tell it if it was open."""
        circuit.failures.clear()
        if circuit.until is None:
            return
        circuit.until, circuit.times = None, 0
        away = (datetime.now(UTC) - circuit.since).total_seconds()
        refused = None if circuit.error is None or circuit.error.retryable else circuit.error.answered
        self._tell(
            RECOVERED, DeploymentRecovered(deployment=deployment, seconds=round(away, 3), refused=refused)
        )

    def _tell(self, event_type: str, change: DeploymentLeftAlone | DeploymentRecovered) -> None:
        if self.on_change is not None:
            self.on_change(event_type, change)


def _may_be_of_the_request(error: ModelError) -> bool:
    """Whether the server answered with an error, so that the request may have been what it could not do."""
    return isinstance(error, ModelUnavailable) and error.answered is not None


def _history_id(request: ModelRequest | None) -> int | None:
    """Names the history behind a call: the task, else the beginning of a conversation that goes on."""
    if request is None:
        return None
    if request.context.task_id is not None:
        return hash(request.context.task_id)
    roles = [message.role for message in request.messages]
    if "assistant" not in roles:
        return None
    begun = request.messages[: roles.index("assistant")]
    return hash((request.context.tenant_id, request.user, *(message.text for message in begun)))


class GuardedServer(Wrapper):
    """A server whose deployments are not known here: each group, with its tags, has a circuit.

    One that has an `only` model, whatever it is asked for, has one circuit, of that name.
    """

    def __init__(self, model: Model, circuits: Circuits, *, only: str | None = None) -> None:
        super().__init__(model)
        self._circuits = circuits
        self._only = only

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt. Raises ModelError, also without asking the server while it is left alone."""
        name = self._only or " ".join([request.model, *(f"#{tag}" for tag in request.tags)])
        if remaining := self._circuits.left_seconds(name, request):
            if (refusal := self._circuits.refusal(name)) is not None:
                raise refusal
            met = self._circuits.error(name, request)
            what = f"Model {request.model!r} is left alone for {remaining:.0f} seconds"
            down = AllProvidersDown(f"{what}, after: {met}" if met else what, retry_after_seconds=remaining)
            down.away = (name,)
            raise down
        with self._circuits.call(name, given_seconds=request.timeout_seconds, request=request):
            try:
                return await self.model.complete(request, on_delta)
            except ModelError as error:
                if self._only is not None:
                    error.failed_at, error.failed_with = (name,), (error.code,)
                raise


# Retries

MAX_TRIES = 3
_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 8.0
MAX_WAIT_SECONDS = 10.0
"""A run that can wait without a slot does not wait longer within a call."""
_OnRetry = Callable[[ModelRequest, ModelError, float], None]
"""Takes a request that is retried, the error of the last try, and the seconds until the next."""


@dataclass(eq=False)
class Retrying(Wrapper):
    """A model that tries again after errors that are retryable, at most `max_tries` times in all.

    Waits a random part of a doubling backoff (full jitter), and never less than a provider asked for. All
    tries and waits together stay within the request's `timeout_seconds`: a wait that would end after it is
    not begun, the error is raised at once; the same for a wait of more than `max_wait_seconds`. `on_retry` is
    called before each wait. `tries_of` has the number for some of the agents (a request's `user`).
    """

    model: Model
    clock: Clock
    _: KW_ONLY
    max_tries: int = MAX_TRIES
    backoff_seconds: float = _BACKOFF_SECONDS
    max_backoff_seconds: float = _MAX_BACKOFF_SECONDS
    max_wait_seconds: float | None = None
    draw: Callable[[], float] = random.random
    on_retry: _OnRetry | None = None
    tries_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.model)

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make up to `max_tries` tries. Raises the last one's ModelError.

        Reply and error count the attempts of all tries, and have the lost answers of all: one of an adapter
        with fallbacks may be several.
        """
        ends = self.clock.monotonic() + request.timeout_seconds
        attempt, attempts = request, 0
        lost_replies: tuple[ModelReply, ...] = ()
        failed_at: tuple[str, ...] = ()
        failed_with: tuple[str, ...] = ()
        for tries in itertools.count(1):
            try:
                reply = await self.model.complete(attempt, on_delta)
            except ModelError as error:
                attempts += error.attempts
                error.lost = lost_replies = (*lost_replies, *error.lost)
                error.failed_at = failed_at = (*failed_at, *error.failed_at)
                error.failed_with = failed_with = (*failed_with, *error.failed_with)
                left_tries = self.tries_of.get(request.user, self.max_tries) - tries
                pause = self._pause_after(error, tries, attempts, ends, is_last=left_tries <= 0)
                if self.on_retry is not None:
                    self.on_retry(request, error, pause)
            else:
                if not attempts:
                    return reply
                all_tries = {"attempts": attempts + reply.attempts, "lost": (*lost_replies, *reply.lost)}
                all_tries["failed_at"] = (*failed_at, *reply.failed_at)
                all_tries["failed_with"] = (*failed_with, *reply.failed_with)
                return reply.model_copy(update=all_tries)
            await self.clock.sleep_until(self.clock.now() + timedelta(seconds=pause))
            if on_delta is not None:
                on_delta(STREAM_RESTART)
            remaining = ends - self.clock.monotonic()
            attempt = request.model_copy(update={"timeout_seconds": remaining})
        raise AssertionError("the count has no end")

    def _pause_after(
        self, error: ModelError, tries: int, attempts: int, ends: float, *, is_last: bool
    ) -> float:
        """The seconds before another try; raises the error where that makes no sense."""
        ceiling = min(self.max_backoff_seconds, self.backoff_seconds * 2 ** (tries - 1))
        delay_seconds = max(self.draw() * ceiling, error.retry_after_seconds or 0.0)
        is_over = self.clock.monotonic() + delay_seconds >= ends
        is_long = self.max_wait_seconds is not None and delay_seconds > self.max_wait_seconds
        if is_last or not error.retryable or is_over or is_long:
            error.attempts, error.is_retried = attempts, tries > 1
            raise error
        return delay_seconds
