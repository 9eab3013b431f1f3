"""homelab-monitor: finds out what is wrong in a cluster, from metrics, alerts, logs and objects."""

from meshwright import Agent, Capability
from meshwright.toolsets.kube import KubeReadTools
from meshwright.toolsets.observe import ObserveTools


class HomelabMonitor(Agent):
    """Looks and does not touch, but for a silence of an alert, which a person approves."""

    agent_id = "homelab-monitor"
    capabilities = (
        Capability("cluster-monitoring", requirements=("observe",)),
        Capability("log-analysis", requirements=("observe",)),
        Capability("alert-triage", requirements=("observe",)),
        Capability("debug-pods", weight=0.6, requirements=("kube",)),
    )
    toolsets = (ObserveTools, KubeReadTools)
