"""A class says of an event which fields it has, which are facts, and how it reads."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshwright.core.events import Event
from meshwright.core.messages import Fault
from meshwright.core.payloads import Fact, Payload, StepPayload, by_type, declared, fact_fields, find_payload

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class PagerCalled(Payload, type="pager.called", word="pager"):
    number: Fact[str]
    minutes: Fact[int]
    due_at: datetime | None
    error: Fault | None = None
    note: str = ""


class PagerMissed(
    Payload, type="pager.missed pager.dropped", word={"pager.missed": "missed"}, topic="pagers"
):
    number: str


class PagerEvents(Payload, type="pager.*"):
    pass


class PagerStep(StepPayload, type="pager.step"):
    name: str


def event(event_type: str, payload: Any) -> Event:
    return Event(id="1", event_type=event_type, topic="mesh-events", time=NOW, payload=payload)


def test_fields_are_written_in_order_and_defaults_left_out() -> None:
    called = PagerCalled(number="2", minutes=3, due_at=None)
    assert called.model_dump_json() == '{"number":"2","minutes":3,"due_at":null}'
    assert event("pager.called", called).sealed().fields == {"number": "2", "minutes": 3, "due_at": None}


def test_an_event_is_read_by_its_type_alone() -> None:
    sealed = event("pager.called", PagerCalled(number="2", minutes=3, due_at=NOW)).sealed()
    assert PagerCalled.read(sealed) == PagerCalled(number="2", minutes=3, due_at=NOW)
    assert PagerMissed.read(sealed) is None
    assert PagerEvents.read(sealed) is not None
    assert PagerMissed.read(event("pager.dropped", {"number": "2"})) == PagerMissed(number="2")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        "text",
        {"number": 4, "minutes": "many", "due_at": "soon", "error": "none", "note": {}},
        {"number": None, "minutes": None, "due_at": [], "error": [], "note": None},
    ],
)
def test_other_shapes_are_read_as_empty(payload: Any) -> None:
    assert PagerCalled.read(event("pager.called", payload)) == PagerCalled(number="", minutes=0, due_at=None)


def test_the_rest_of_a_payload_is_read_beside_a_wrong_field() -> None:
    payload = {"number": "2", "minutes": [], "error": {"type": "Away"}, "later": 1}
    read = PagerCalled.read(event("pager.called", payload))
    assert read == PagerCalled(number="2", minutes=0, due_at=None, error=Fault(type="Away", message=""))


def test_marked_fields_are_facts() -> None:
    assert fact_fields(PagerCalled) == {"number", "minutes"}
    assert fact_fields(PagerMissed) == frozenset()


def test_payloads_are_found_by_type_and_family() -> None:
    kinds = by_type(declared(__name__))
    assert find_payload(kinds, "pager.dropped") is PagerMissed
    assert find_payload(kinds, "pager.other") is PagerEvents
    assert find_payload(kinds, "other.called") is None


def test_the_head_of_a_class_says_topic_and_words() -> None:
    assert (PagerCalled.event_topic, PagerMissed.event_topic) == ("mesh-events", "pagers")
    assert PagerCalled.timeline_word("pager.called") == "pager"
    assert [PagerMissed.timeline_word(kind) for kind in PagerMissed.event_types] == ["missed", ""]


def test_the_place_of_a_step_is_written_where_it_is_known() -> None:
    step = PagerStep(name="a")
    assert step.model_dump_json() == '{"name":"a"}'
    placed = step.model_copy(update={"step": 1, "path": "", "attempt": 1})
    assert placed.model_dump_json() == '{"step":1,"path":"","attempt":1,"name":"a"}'
