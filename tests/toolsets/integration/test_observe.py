"""The toolset `observe` over real Prometheus and Alertmanager, and over fakes of Loki and Grafana."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.parts.stack.machine import Ports
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.toolsets.observe import ObserveTools
from tests.support.fake_observers import FakeGrafana, FakeLoki
from tests.support.fake_services import FakeService, answering
from tests.support.metrics_services import alertmanager, prometheus
from tests.support.services import Services
from tests.support.toolset_calls import Context, calling

NEEDED = pytest.mark.needs("prometheus", "promtool", "prometheus-alertmanager")


@dataclass
class Observed:
    prometheus: str
    alertmanager: str

    @property
    def table(self) -> dict[str, Any]:
        return {"prometheus": {"url": self.prometheus}, "alertmanager": {"url": self.alertmanager}}


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    ports = Ports()
    services = Services(tmp_path_factory.mktemp("observed"), {})
    try:
        alerts = alertmanager(services, ports)
        yield Observed(prometheus(services, ports, alerts), alerts)
    finally:
        services.close()
        ports.close()


async def until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    """Ask until the answer is as it should be: what Prometheus scrapes and sends takes seconds."""
    while not holds(answer := await ask()):
        await asyncio.sleep(0.05)
    return answer


@NEEDED
async def test_a_query_gives_values_by_series(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        up = await until(lambda: call("query", promql="sort(up)"), lambda found: len(found["series"]) == 2)
        values = {series["metric"]["job"]: series["value"] for series in up["series"]}
        assert values == {"gone": "0", "self": "1"}
        assert await call("query", promql="6 * 7") == {"value": "42"}
        assert await call("query", promql="nothing_has_it") == {"series": []}
        assert await call("query", promql="up", at="2020-01-01T00:00:00Z") == {"series": []}
        many = await call("query", promql='{job="self"}')
        assert len(many["series"]) == 50 and many["left_out"] > 0
        with pytest.raises(ToolFailed, match=r"answered 400: invalid parameter .*unclosed left parenthesis"):
            await call("query", promql="sum(up")
        with pytest.raises(InvalidInput, match="has a range: use query_range"):
            await call("query", promql="up[5m]")


@NEEDED
async def test_a_range_gives_a_value_for_each_step(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        restarts = 'kube_pod_container_status_restarts_total{pod="db"}'
        found = await call("query_range", promql=restarts, minutes=120)
        assert (found["step_seconds"], len(found["series"])) == (120, 1)
        [series] = found["series"]
        values = series["values"]
        assert len(values) == 60 and values[0] is None and values[-1] == series["last"]
        known = [value for value in values if value is not None]
        assert known == sorted(known) and (series["min"], series["max"]) == (known[0], known[-1])
        assert series["max"] in (4, 5)


@NEEDED
async def test_targets_that_are_down_are_listed_with_their_error(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        found = await until(
            lambda: call("targets"),
            lambda found: any(target["health"] == "down" for target in found["targets"]),
        )
        [down] = [target for target in found["targets"] if target["health"] == "down"]
        assert (down["job"], down["instance"], found["of"]) == ("gone", "127.0.0.1:1", 2)
        assert "connection refused" in down["error"]
        assert len((await call("targets", only_down=False))["targets"]) == 2


@NEEDED
async def test_pods_that_are_not_well_are_listed_with_their_problem(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        found = await call("pod_health")
        problems = {(row["pod"], row["problem"], row["detail"]) for row in found["problems"]}
        assert found["pods"] == 3
        assert problems >= {("job", "waiting", "ImagePullBackOff"), ("job", "phase", "Pending")}
        assert ("db", "killed for memory", "OOMKilled") in problems
        assert {pod for pod, *_ in problems} == {"db", "job"}
        shop = await call("pod_health", namespace="shop")
        assert (shop["pods"], {row["pod"] for row in shop["problems"]}) == (2, {"db"})
        with pytest.raises(ToolFailed, match="Prometheus knows no pods of namespace empty"):
            await call("pod_health", namespace="empty")
        with pytest.raises(InvalidInput, match="is not the name of a namespace"):
            await call("pod_health", namespace='x"} or vector(1) or up{a="')


@NEEDED
async def test_usage_is_summed_by_namespace_and_by_pod(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        found = await call("cluster_usage", hours=2)
        shop, other = found["usage"]
        assert (shop["namespace"], shop["memory_gb"], shop["cpu_requested"]) == ("shop", 3, 2)
        assert shop["memory_gb_requested"] == 4 and shop["cpu_hours"] > 0
        assert (other["namespace"], other["memory_gb"]) == ("other", 1) and "cpu_hours" not in other
        pods = (await call("cluster_usage", namespace="shop", hours=2))["usage"]
        assert {row["pod"] for row in pods} == {"web", "db"}
        assert sum(row["cpu_hours"] for row in pods) == pytest.approx(shop["cpu_hours"], rel=0.01)
        with pytest.raises(ToolFailed, match="knows no usage of empty in 2 hours"):
            await call("cluster_usage", namespace="empty", hours=2)
        with pytest.raises(InvalidInput, match="is not the name of a namespace"):
            await call("cluster_usage", namespace='x"} or vector(1) or up{a="')


@NEEDED
async def test_alerts_are_listed_with_their_state(observed: Observed) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        rules = await until(
            lambda: call("rule_alerts"),
            lambda found: {alert["state"] for alert in found["alerts"]} == {"firing", "pending"},
        )
        names = {alert["labels"]["alertname"]: alert["state"] for alert in rules["alerts"]}
        assert names == {"TargetDown": "firing", "Slow": "pending"}
        assert len((await call("rule_alerts", state="firing"))["alerts"]) == 1
        found = await until(lambda: call("alerts"), lambda found: bool(found["alerts"]))
        [alert] = found["alerts"]
        assert alert["annotations"] == {"summary": "127.0.0.1:1 is down"}
        assert (alert["labels"]["severity"], alert["state"]) == ("page", "active")
        assert (await call("alerts", matchers=['severity="info"']))["alerts"] == []
        with pytest.raises(InvalidInput, match="is no matcher"):
            await call("alerts", matchers=["severity=page"])


class Watcher(Agent):
    """Watches a system."""

    agent_id = "watcher"
    capabilities = (Capability("watching"),)
    toolsets = (ObserveTools,)


SILENCE = {"matchers": ['alertname="TargetDown"'], "minutes": 30, "reason": 'it moves, "soon"'}


@NEEDED
async def test_a_person_approves_a_silence_and_a_repeat_makes_no_second_one(observed: Observed) -> None:
    model = ScriptedModel(
        tool_call("alerts"),
        tool_call("silence", **SILENCE),
        tool_call("silence", **SILENCE | {"minutes": 60}),
        "It is silent.",
    )
    async with calling(ObserveTools, **observed.table) as call:
        await until(lambda: call("alerts", state="any"), lambda found: bool(found["alerts"]))
        async with mesh_for(Watcher, model=model, tools={"observe": observed.table}) as mesh:
            receipt = await mesh.submit(agent_id="watcher", payload={"text": "Silence it."})
            [question] = await mesh.questions()
            assert question.subject["tool"] == "silence" and question.subject["arguments"] == SILENCE
            assert question.subject["effect"] == {"minutes": 30, "silences": ["TargetDown"]}
            assert await call("silences") == []
            await mesh.answer(question, {"approve": True})
            [again] = await mesh.questions()  # the silence that there is by now is of this very call
            assert again.subject["effect"] == {"minutes": 60, "silences": ["TargetDown"]}
            await mesh.answer(again, {"approve": True})
            assert (await mesh.outcome(receipt.task_id)).text == "It is silent."
        first, second = (json.loads(str(request.messages[-1].content)) for request in model.requests[2:])
        assert first["matchers"] == SILENCE["matchers"] and second["until"] > first["until"]
        [held] = await call("silences")
        assert held["matchers"] == SILENCE["matchers"] and held["until"][:19] == second["until"][:19]
        assert held["by"] == "meshwright watcher"
        assert held["reason"] == f'it moves, "soon" (task {receipt.task_id})'
        assert (await call("alerts"))["alerts"] == []
        [alert] = (await call("alerts", state="silenced"))["alerts"]
        assert alert["silenced_by"] == [held["id"]] == [second["id"]]


@NEEDED
@pytest.mark.parametrize(
    "matchers",
    [[], ['a=""'], ['a=~".*"'], ['a=~".+"'], ['a!="b"'], ['a=~"("'], ["alertname=x"], ['a="1",b="2"']],
    ids=["none", "empty", "any", "some", "not", "broken", "bare", "two"],
)
async def test_a_silence_of_every_alert_is_refused(observed: Observed, matchers: list[str]) -> None:
    async with calling(ObserveTools, **observed.table) as call:
        before = await call("silences")
        with pytest.raises(InvalidInput):
            await call("silence", matchers=matchers, minutes=5, reason="x")
        assert await call("silences") == before


async def test_an_approval_of_a_silence_shows_every_alert() -> None:
    names = [f"Alert{number:03}" for number in range(120)]
    alerts = [{"labels": {"alertname": name}, "status": {"silencedBy": []}} for name in names]
    async with FakeService() as service, calling(ObserveTools, alertmanager={"url": service.url}) as call:
        service.faults += [answering(200, json.dumps(alerts)), answering(200, "[]")]
        context: Any = Context()
        wanted = json.dumps({"matchers": ['team="web"'], "minutes": 5, "reason": "x"})
        effect = await call.tools["silence"].preview(wanted, context)
    assert effect == {"minutes": 5, "silences": names}


LINES = 40
LABELS = {"app": "shop", "host": "a"}


@pytest.fixture
async def loki() -> AsyncIterator[FakeLoki]:
    async with FakeLoki() as loki:
        now = time.time_ns()
        loki.lines = [
            (now - place * 1_000_000_000, LABELS, f"error {place}") for place in range(1, LINES + 1)
        ]
        loki.lines.append((now - 7_200_000_000_000, {"app": "other"}, "old"))
        yield loki


async def test_log_lines_are_searched_and_read_on(loki: FakeLoki) -> None:
    async with calling(ObserveTools, loki={"url": loki.url, "headers": {"X-Scope-OrgID": "home"}}) as call:
        first = await call("query_logs", logql='{app="shop"} |= "error"', limit=30)
        rest = await call("query_logs", logql='{app="shop"}', limit=30, before=first["before"])
        lines = [row["line"] for row in [*first["lines"], *rest["lines"]]]
        assert lines == [f"error {place}" for place in range(1, LINES + 1)]
        assert first["lines"][0]["labels"] == LABELS and "before" not in rest
        assert (await call("query_logs", logql='{app="other"}'))["lines"] == []
        assert [
            row["line"] for row in (await call("query_logs", logql='{app="other"}', minutes=180))["lines"]
        ]
        assert await call("log_labels") == ["app", "host"]
        assert await call("log_labels", name="app") == ["other", "shop"]
        with pytest.raises(ToolFailed, match="answered 400: parse error at line 1, col 1: syntax error"):
            await call("query_logs", logql="{app=")
        with pytest.raises(InvalidInput, match="the query is one of numbers"):
            await call("query_logs", logql='rate({app="shop"}[5m])')
        with pytest.raises(InvalidInput, match="is no place to go on from"):
            await call("query_logs", logql='{app="shop"}', before="now")
    assert {request.headers["X-Scope-OrgID"] for request in loki.requests} == {"home"}


async def test_long_log_lines_are_cut_and_pages_stay_small(loki: FakeLoki) -> None:
    loki.lines = [(when, labels, line * 1_000) for when, labels, line in loki.lines]
    async with calling(ObserveTools, loki={"url": loki.url}) as call:
        page = await call("query_logs", logql='{app="shop"}')
        assert page["lines"][0]["line"].endswith("... (7,000 characters)") and len(str(page)) < 9_000
        following = await call("query_logs", logql='{app="shop"}', before=page["before"])
        assert following["lines"][0]["line"].startswith(f"error {len(page['lines']) + 1}")


async def test_panels_of_dashboards_say_what_they_query() -> None:
    async with FakeGrafana() as grafana:
        async with calling(ObserveTools, grafana={"url": grafana.url, "token": "viewer"}) as call:
            [board] = await call("dashboards", search="disk")
            assert board == {"uid": "disks", "title": "Disks", "folder": "House", "tags": ["home"]}
            listed = await call("panel", uid="disks")
            assert [(panel["id"], panel["title"]) for panel in listed["panels"]] == [
                (2, "Free"),
                (9, "Inodes"),
            ]
            panel = await call("panel", uid="disks", id=2)
            query = {"source": "prometheus", "query": "node_filesystem_free_bytes", "legend": "{{device}}"}
            assert (panel["unit"], panel["queries"]) == ("bytes", [query])
            with pytest.raises(InvalidInput, match=r"'Disks' has no panel 5\. there are 2, 9"):
                await call("panel", uid="disks", id=5)
            with pytest.raises(ToolFailed, match="answered 404: Dashboard not found"):
                await call("panel", uid="nothing")
            with pytest.raises(InvalidInput, match="uid: String should match pattern"):
                await call("panel", uid="../../admin")
        async with calling(ObserveTools, grafana={"url": grafana.url, "token": "wrong"}) as call:
            with pytest.raises(
                ToolFailed, match=r"401: Invalid API key .*The credentials in \[tools\.observe\.gr"
            ):
                await call("dashboards")


async def test_a_service_that_is_another_one_is_named() -> None:
    async with FakeGrafana() as other:
        other.faults += [answering(200, "[]"), answering(200, '{"status": "ok"}'), answering(200, "{}")]
        table = {name: {"url": other.url} for name in ("prometheus", "loki", "grafana")}
        async with calling(ObserveTools, **table) as call:
            for name, arguments in (("query", {"promql": "up"}), ("log_labels", {}), ("dashboards", {})):
                with pytest.raises(ToolFailed, match=rf"{other.url} does not answer as"):
                    await call(name, **arguments)


async def test_doctor_asks_each_service(loki: FakeLoki) -> None:
    async with calling(ObserveTools, loki={"url": loki.url}) as call:
        assert await call.toolset.check() == "loki: all answer"
        loki.faults.append(answering(404, "page not found"))
        with pytest.raises(ToolFailed, match="loki answered 404: page not found"):
            await call.toolset.check()
    async with calling(ObserveTools) as call:
        assert "[tools.observe] of mesh.toml is set: prometheus" in await call.toolset.check()
