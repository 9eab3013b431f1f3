"""An event goes to the actors and the listeners of its topic, once it is committed."""

import asyncio
from datetime import UTC, datetime

import pytest

from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.guarantees import Subscription
from tests.support.harness import RuntimeHarness
from tests.support.sample_actors import DIARY, SENDER, Round, diary, lines_after_crash, lines_of, to_diary

SENDER_ONE = ActorRef("Sender", "one")


def event(event_id: str, topic: str = "news", **payload: object) -> Event:
    """An event from outside that says its own id, or else what is given."""
    payload = payload or {"text": event_id}
    return Event(id=event_id, event_type="told", topic=topic, time=datetime.now(UTC), payload=payload)


async def test_an_event_of_a_turn_goes_to_the_subscribers_of_its_topic(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, SENDER, subscriptions=[to_diary("news")])
    await host.call(SENDER_ONE, "send", Round(events=["weather", "news"]))
    await harness.watch.written("news")
    assert await lines_of(host) == ["news"]


async def test_an_event_from_outside_goes_to_subscribers_and_listeners(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    await host.publish(event("e1"))
    await harness.watch.written("e1")
    assert harness.watch.texts("told") == ["e1"]


async def test_an_event_taken_in_is_durable_before_publish_returns(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    await host.publish(event("e1"))
    assert await lines_after_crash(await harness.crash(host), 1) == ["e1"]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("tasks.one", {"tasks.one"}),
        ("tasks.*", {"tasks.one", "tasks.two"}),
        ("*.one", {"tasks.one", "news.one"}),
        ("tasks.#", {"tasks.one", "tasks.two", "tasks.one.urgent", "tasks"}),
        ("#", {"tasks.one", "tasks.two", "tasks.one.urgent", "tasks", "news.one", "last"}),
    ],
)
async def test_patterns_select_topics_for_subscribers_and_listeners(
    harness: RuntimeHarness, pattern: str, matching: set[str]
) -> None:
    told = Subscription(pattern, lambda event: diary() if event.event_type == "told" else None, "write")
    host = await harness.open(DIARY, subscriptions=[told, to_diary("last", name="last")])
    heard = set[str]()
    host.listen(pattern, lambda event: heard.add(event.topic) if event.event_type == "told" else None)
    for topic in ("tasks.one", "tasks.two", "tasks.one.urgent", "tasks", "news.one", "last"):
        await host.publish(event(topic, topic))
    await harness.watch.until(lambda: len(harness.watch.texts()) == len(matching) + 1)
    assert set(await lines_of(host)) == matching
    assert heard == matching


async def test_a_route_names_the_actor_or_passes_the_event_by(harness: RuntimeHarness) -> None:
    def route(event: Event) -> ActorRef | None:
        return diary(event.payload["to"]) if "to" in event.payload else None

    host = await harness.open(DIARY, subscriptions=[Subscription("news", route, "write")])
    await host.publish(event("e1", text="for nobody"))
    await host.publish(event("e2", text="for one", to="one"))
    await host.publish(event("e3", text="for two", to="two"))
    await harness.watch.written("for one", "for two")
    assert [await lines_of(host, name) for name in ("one", "two")] == [["for one"], ["for two"]]
    assert harness.watch.of("message.dead_lettered") == []


async def test_each_subscription_gets_the_event(harness: RuntimeHarness) -> None:
    subscriptions = [
        to_diary("news"),
        to_diary("news", name="two"),
        to_diary("news", method="write_if_begun"),
    ]
    host = await harness.open(DIARY, subscriptions=subscriptions)
    await host.call(diary(), "write", {"text": "begun"})
    await host.publish(event("e1"))
    await harness.watch.until(lambda: harness.watch.texts().count("e1") == 3)
    assert [await lines_of(host, name) for name in ("one", "two")] == [["begun", "e1", "e1"], ["e1"]]


async def test_a_second_event_of_an_id_is_dropped(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    heard: list[str] = []
    host.listen("news", lambda event: heard.append(event.id))
    await asyncio.gather(*[host.publish(event("e1")) for _ in range(10)])
    await host.publish(event("e1"))
    await host.publish(event("e2"))
    await harness.watch.written("e1", "e2")
    await host.call(diary(), "glance")
    assert sorted(await lines_of(host)) == ["e1", "e2"]
    assert heard == ["e1", "e2"]


async def test_a_second_event_of_an_id_is_dropped_after_a_restart_and_after_a_crash(
    harness: RuntimeHarness,
) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    heard: list[str] = []
    await host.publish(event("e1"))
    await harness.watch.written("e1")
    for end, names in ((harness.reopen, ("e1", "e2")), (harness.crash, ("e1", "e2", "e3"))):
        host = await end(host)
        host.listen("news", lambda event: heard.append(event.id))
        for name in names:
            await host.publish(event(name))
        await harness.watch.written(*names)
    assert heard == ["e2", "e3"]
    assert sorted(await lines_of(host)) == ["e1", "e2", "e3"]


async def test_events_to_subscribers_outlive_a_crash(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, SENDER, subscriptions=[to_diary("news.*")])
    snapshots = []
    end = host.listen("news.1", lambda event: snapshots.append(harness.snapshot(host)))
    names = [f"news.{n}" for n in range(20)]
    await host.call(SENDER_ONE, "send", Round(events=names))
    await harness.watch.until(lambda: bool(snapshots))
    end()
    host = await harness.open_snapshot(host, snapshots[0])
    assert sorted(await lines_after_crash(host, len(names))) == sorted(names)


async def test_a_listener_hears_of_nothing_that_a_crash_could_undo(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    snapshots = []
    end = host.listen("diary.one", lambda event: snapshots.append(harness.snapshot(host)))
    await asyncio.gather(*[host.call(diary(), "write", {"text": str(n)}) for n in range(3)])
    await harness.watch.until(lambda: len(snapshots) == 3)
    end()
    for count, snapshot in enumerate(snapshots, start=1):
        host = await harness.open_snapshot(host, snapshot)
        assert len(await lines_of(host)) >= count


async def test_a_listener_hears_nothing_of_a_turn_that_raised(harness: RuntimeHarness) -> None:
    host = await harness.open(SENDER, DIARY)
    given = Round(events=["news"])
    for fail in (True, False, True):
        await asyncio.gather(
            host.call(SENDER_ONE, "send", given.model_copy(update={"fail": fail})), return_exceptions=True
        )
    await host.publish(event("last"))
    await harness.watch.until(lambda: bool(harness.watch.of("told")))
    assert [event.id for event in harness.watch.of("round.sent")] == ["Sender/one/1"]


async def test_a_listener_hears_what_each_actor_sent_in_its_order(harness: RuntimeHarness) -> None:
    host = await harness.open(SENDER)
    refs = [ActorRef("Sender", f"s{n}") for n in range(10)]
    given = Round(events=["news", "weather"])
    await asyncio.gather(*[host.call(ref, "send", given) for ref in refs for _ in range(10)])
    await harness.watch.until(lambda: len(harness.watch.of("round.sent")) == 200)
    told = [event.id for event in harness.watch.of("round.sent")]
    for ref in refs:
        assert [each for each in told if each.startswith(f"{ref}/")] == [f"{ref}/{n}" for n in range(1, 21)]


async def test_a_listener_hears_no_more_once_it_has_ended(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    heard: list[str] = []
    end = host.listen("news", lambda event: heard.append(event.id))
    await host.publish(event("e1"))
    await harness.watch.until(lambda: len(harness.watch.of("told")) == 1)
    end()
    await host.publish(event("e2"))
    await harness.watch.until(lambda: len(harness.watch.of("told")) == 2)
    assert heard == ["e1"]


async def test_a_listener_that_fails_spoils_nothing(
    harness: RuntimeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    heard: list[str] = []
    host.listen("news", lambda event: heard.append(event.payload["no such field"]))
    host.listen("news", lambda event: heard.append(event.id))
    for name in ("e1", "e2"):
        await host.publish(event(name))
    await harness.watch.written("e1", "e2")
    assert heard == ["e1", "e2"]
    assert "KeyError" in caplog.text


async def test_emitted_events_go_to_subscribers_and_listeners_in_their_order(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    names = [f"e{n}" for n in range(20)]
    emitted = [host.emit([event(name) for name in names[start : start + 2]]) for start in range(0, 20, 2)]
    await host.call(diary("two"), "write", {"text": "later"})
    await emitted[-1]
    await harness.watch.written(*names, "later")
    assert [each.payload["text"] for each in harness.watch.events.values()][:20] == names
    assert sorted(await lines_of(host)) == sorted(names)


async def test_an_emitted_event_is_durable_once_it_was_awaited(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    await host.emit([event("e1"), event("e2")])
    host = await harness.crash(host)
    assert sorted(await lines_after_crash(host, 2)) == ["e1", "e2"]


async def test_a_broadcast_is_shown_and_not_kept(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news")])
    host.broadcast(event("fleeting"))
    await host.publish(event("kept"))
    await harness.watch.written("kept")
    assert harness.watch.texts("told") == ["fleeting", "kept"]
    assert await lines_of(host) == ["kept"]


async def test_an_event_that_an_actor_cannot_take_is_recorded_and_the_rest_flows_on(
    harness: RuntimeHarness,
) -> None:
    host = await harness.open(DIARY, subscriptions=[to_diary("news"), to_diary("news", name="two")])
    await host.publish(event("e1", text=7))
    await host.publish(event("e2"))
    dead = await harness.watch.dead_letters(2)
    await harness.watch.until(lambda: harness.watch.texts() == ["e2", "e2"])
    assert {letter.payload["message"]["to"] for letter in dead} == {"Diary/one", "Diary/two"}


async def test_an_event_that_a_route_cannot_read_is_recorded_and_the_rest_flows_on(
    harness: RuntimeHarness,
) -> None:
    subscriptions = [
        Subscription("news", lambda event: diary(event.payload["to"]), "write"),
        to_diary("news", name="two"),
    ]
    host = await harness.open(DIARY, SENDER, subscriptions=subscriptions)
    await host.publish(event("e1", text="to nobody known"))
    await host.call(SENDER_ONE, "send", Round(events=["news"]))
    [letter] = await harness.watch.dead_letters()
    await harness.watch.until(lambda: len(harness.watch.texts()) == 3)
    assert letter.payload["error"]["type"] == "KeyError"
    assert sorted(await lines_of(host, "two")) == ["news", "to nobody known"]


async def test_dead_letters_go_to_subscribers_too(harness: RuntimeHarness) -> None:
    letters = Subscription("mesh-events", lambda event: diary("letters"), "write_if_begun")
    host = await harness.open(DIARY, subscriptions=[to_diary("news"), letters])
    await host.publish(event("e1", text=7))
    dead = await harness.watch.dead_letters(2)
    assert [letter.payload["message"]["to"] for letter in dead] == ["Diary/one", "Diary/letters"]


async def test_a_subscriber_that_cannot_take_dead_letters_starts_no_storm(harness: RuntimeHarness) -> None:
    host = await harness.open(
        DIARY, subscriptions=[to_diary("news"), to_diary("mesh-events", name="letters")]
    )
    await host.publish(event("e1", text=7))
    await harness.watch.dead_letters(2)
    for n in range(20):  # the mesh goes on meanwhile
        await host.call(diary(), "write", {"text": str(n)})
    assert len(harness.watch.of("message.dead_lettered")) == 2
