"""The toolset `observe`: metrics, alerts, logs and dashboards of a running system.

Its services are Prometheus, Alertmanager, Loki and Grafana, each of which may be missing. Only a silence
changes anything. Strangers may have written the labels, annotations, log lines and titles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from meshwright.settings.forms import Table
from meshwright.tools.tool import Tool
from meshwright.toolsets.alertmanager import Alertmanager
from meshwright.toolsets.grafana import Grafana
from meshwright.toolsets.loki import Loki
from meshwright.toolsets.prometheus import Prometheus
from meshwright.toolsets.rest import RestService, RestTools


class ObserveSettings(Table):
    """[tools.observe]: the services to read from, each of which may be missing."""

    prometheus: RestService | None = None
    """Prometheus, or what has its API, such as VictoriaMetrics, Thanos or Mimir."""
    alertmanager: RestService | None = None
    """Alertmanager 0.16 or newer."""
    loki: RestService | None = None
    """Loki 2 or 3; `headers = {X-Scope-OrgID = "..."}` names its tenant."""
    grafana: RestService | None = None
    """Grafana, with the token of a service account that may view."""


class ObserveTools(RestTools):
    """Reads metrics, alerts, logs and dashboards, and silences alerts. `ObserveReadTools` only reads."""

    name = "observe"
    config_type = ObserveSettings
    parts: ClassVar = {
        "prometheus": Prometheus,
        "alertmanager": Alertmanager,
        "loki": Loki,
        "grafana": Grafana,
    }


class ObserveReadTools(ObserveTools):
    """Reads metrics, alerts, logs and dashboards."""

    async def tools(self) -> Sequence[Tool]:
        """The tools that change nothing."""
        return [tool for tool in await super().tools() if tool.effect == "read"]
