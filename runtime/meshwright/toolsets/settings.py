"""[kube.NAME]: the clusters that agents may see and change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from meshwright.core.settings.forms import Table


class KubeSettings(Table):
    """One of [kube.NAME]: clusters and namespaces that agents may see, and kinds that they may change."""

    kubeconfig: Path | None = None
    """The kubeconfig, as an absolute path; best one of the mesh's own, whose user may do little."""
    contexts: tuple[str, ...] = ()
    """Contexts of the kubeconfig that agents may use, the usual one first. None listed, none allowed."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that agents may use; `*` is every one. None listed, none allowed."""
    cluster_kinds: tuple[str, ...] = ("nodes", "persistentvolumes", "storageclasses.storage.k8s.io")
    """Kinds outside of namespaces that agents may read. They change none."""
    change_kinds: tuple[str, ...] = (
        *("configmaps", "services", "pods", "deployments.apps", "statefulsets.apps", "daemonsets.apps"),
        *("replicasets.apps", "jobs.batch", "cronjobs.batch", "ingresses.networking.k8s.io"),
        *("horizontalpodautoscalers.autoscaling", "poddisruptionbudgets.policy"),
    )
    """Kinds that agents may change, with an approval. Secrets are never among them."""
    program: str = "kubectl"
    """The kubectl, by its name on PATH or an absolute path."""
    environment: tuple[str, ...] = ()
    """Variables that kubectl gets beside PATH: those of a credential plugin, or of a proxy."""
    timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    """How long a call of kubectl may take."""
    agents: tuple[str, ...] = ()
    """Patterns of the agents that get the tools without naming `kube.NAME` among their toolsets."""

    @property
    def allows_any(self) -> bool:
        """Whether there is anything that agents may see."""
        return bool(self.kubeconfig and self.contexts and self.namespaces)

    @field_validator("kubeconfig")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        path = None if path is None else path.expanduser()
        if path is not None and not path.is_absolute():
            raise ValueError("expected an absolute path")
        return path


_TableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
KubeTables = Mapping[_TableName, KubeSettings]
"""[kube]: a table for each set of clusters and rights."""
