"""argocd-deployer: brings services to a commit through Argo CD, and back, with approval."""

from meshwright import Agent, Capability
from meshwright.toolsets.argocd import ArgocdTools
from meshwright.toolsets.observe import ObserveReadTools


class ArgocdDeployer(Agent):
    """Deploys commits, syncs and rolls back; a person approves each change and sees its manifests."""

    agent_id = "argocd-deployer"
    capabilities = (
        Capability("deploy-service", preferred=True, requirements=("argocd",)),
        Capability("rollback-service", preferred=True, requirements=("argocd",)),
        Capability("sync-gitops", requirements=("argocd",)),
    )
    toolsets = (ArgocdTools, ObserveReadTools)
