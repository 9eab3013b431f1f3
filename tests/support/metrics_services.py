"""Real Prometheus, Alertmanager and Caddy, as Debian has them, for tests."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from meshwright.core.encoding import encode
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Layer, Service
from tests.support.services import Services

BEFORE_SECONDS = 3_000
POD = '{namespace="%s",pod="%s",container="main"%s} %s %d'


def prometheus(services: Services, ports: Ports, alertmanager: str) -> str:
    """Start Prometheus, which scrapes itself and a target that is away, and knows some pods; its URL."""
    [port] = ports.take(1)
    folder = services.folder / "prometheus"
    (folder / "data").mkdir(parents=True)
    _write_pods(folder)
    rules = [
        {
            "alert": "TargetDown",
            "expr": "up == 0",
            "labels": {"severity": "page"},
            "annotations": {"summary": "{{ $labels.instance }} is down"},
        },
        {"alert": "Slow", "expr": "up == 1", "for": "1h"},
    ]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.split("//")[1]]}]}]},
        "scrape_configs": [
            {"job_name": "self", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
            {"job_name": "gone", "static_configs": [{"targets": ["127.0.0.1:1"]}]},
        ],
    }
    groups = {"groups": [{"name": "g", "interval": "1s", "rules": rules}]}
    url = f"http://127.0.0.1:{port}"
    service = Service(
        name="prometheus",
        layer=Layer.STORES,
        argv=(
            _program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--query.lookback-delta=2h",  # the pods' samples end as it starts
        ),
        address=url,
        ready=f"{url}/-/ready",
        # Their settings are YAML, which JSON is.
        files={
            folder / "prometheus.yml": encode(config).decode(),
            folder / "rules.yml": encode(groups).decode(),
        },
        ready_seconds=120.0,
    )
    services.run(service)
    return url


def alertmanager(services: Services, ports: Ports) -> str:
    """Start Alertmanager; its URL."""
    [port] = ports.take(1)
    folder = services.folder / "alertmanager"
    folder.mkdir(parents=True)
    config = {"route": {"receiver": "none", "group_wait": "1s"}, "receivers": [{"name": "none"}]}
    url = f"http://127.0.0.1:{port}"
    service = Service(
        name="alertmanager",
        layer=Layer.STORES,
        argv=(
            _program("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ),
        address=url,
        ready=f"{url}/-/ready",
        files={folder / "alertmanager.yml": encode(config).decode()},
        ready_seconds=120.0,
    )
    services.run(service)
    return url


def caddy(services: Services, ports: Ports, config: dict[str, object], admin: int) -> str:
    """Start Caddy with a configuration as JSON and its admin API at a port; its URL."""
    folder = services.folder / "caddy"
    folder.mkdir(parents=True)
    url = f"http://127.0.0.1:{admin}"
    whole = {"admin": {"listen": f"127.0.0.1:{admin}"}, **config}
    service = Service(
        name="caddy",
        layer=Layer.STORES,
        argv=(_program("caddy"), "run", "--config", str(folder / "caddy.json")),
        address=url,
        ready=f"tcp://127.0.0.1:{admin}",  # it refuses the host of our probe
        environment={"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)},
        files={folder / "caddy.json": encode(whole).decode()},
        ready_seconds=120.0,
    )
    services.run(service)
    return url


def _program(name: str) -> str:
    return shutil.which(name) or name


def _write_pods(folder: Path) -> None:
    """Write what kube-state-metrics says of three pods, until now: later samples would hide scraped ones."""
    now = int(time.time())
    times = range(now - BEFORE_SECONDS, now, 60)

    def series(
        name: str, namespace: str, pod: str, more: str = "", grows: bool = False, value: int = 1
    ) -> list[str]:
        return [
            name + POD % (namespace, pod, more, place // 10 if grows else value, when)
            for place, when in enumerate(times)
        ]

    restarts, waiting = (
        "kube_pod_container_status_restarts_total",
        "kube_pod_container_status_waiting_reason",
    )
    killed = "kube_pod_container_status_last_terminated_reason"
    families = {
        "kube_pod_info": [
            *series("kube_pod_info", "shop", "web"),
            *series("kube_pod_info", "shop", "db"),
            *series("kube_pod_info", "other", "job"),
        ],
        restarts: series(restarts, "shop", "db", grows=True),
        waiting: series(waiting, "other", "job", ',reason="ImagePullBackOff"'),
        killed: series(killed, "shop", "db", ',reason="OOMKilled"'),
        "kube_pod_status_phase": series("kube_pod_status_phase", "other", "job", ',phase="Pending"'),
    }
    requests = "kube_pod_container_resource_requests"
    families |= {
        "container_cpu_usage_seconds_total": [
            *series("container_cpu_usage_seconds_total", "shop", "web", grows=True),
            *series("container_cpu_usage_seconds_total", "shop", "db", grows=True),
        ],
        "container_memory_working_set_bytes": [
            *series("container_memory_working_set_bytes", "shop", "db", value=3 * 10**9),
            *series("container_memory_working_set_bytes", "other", "job", value=10**9),
        ],
        requests: [
            *series(requests, "shop", "db", ',resource="cpu"', value=2),
            *series(requests, "shop", "db", ',resource="memory"', value=4 * 10**9),
        ],
    }
    lines = [
        line for name, rows in families.items() for line in (f"# TYPE {_family(name)} {_kind(name)}", *rows)
    ]
    text = folder / "pods.txt"
    text.write_text("\n".join([*lines, "# EOF", ""]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)


def _family(name: str) -> str:
    return name.removesuffix("_total")


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"
