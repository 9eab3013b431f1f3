"""kubectl-deployer: looks into Kubernetes clusters, and changes workloads with approval."""

from meshwright import Agent, Capability
from meshwright.toolsets.kube_changes import KubeTools


class KubectlDeployer(Agent):
    """Finds out why workloads fail, and changes them; a person approves each change and sees its effect."""

    agent_id = "kubectl-deployer"
    capabilities = (
        Capability("debug-pods", requirements=("kube",)),
        Capability("inspect-cluster", requirements=("kube",)),
        Capability("deploy-service", weight=0.8, requirements=("kube",)),
        Capability("rollback-service", weight=0.8, requirements=("kube",)),
        Capability("cluster-monitoring", weight=0.5, requirements=("kube",)),
    )
    toolsets = (KubeTools,)
