"""[k8s]: what `mesh k8s render` writes that a project cannot say by its agents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from meshwright.component import Table
from meshwright.core import __version__
from meshwright.core.settings.forms import HostName

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
_Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class K8sSettings(Table):
    """[k8s]: the manifests of `mesh k8s render`."""

    image: str = Field(default=f"meshwright-agent:{__version__}", min_length=1)
    """The image of every container."""
    namespace: _Name = "mesh"
    """The namespace of all objects."""
    host: HostName | None = None
    """Name of the mesh for clients; with it there is an Ingress."""
    tls_secret: _Name = "mesh-tls"
    """Secret of its certificate."""
    cpu: _Quantity = "100m"
    """CPU of each container."""
    memory: _Quantity = "512Mi"
    """Memory of each container."""
    storage: _Quantity = "1Gi"
    """Volume of a pod that keeps data."""
    scaler: Literal["metrics-api", "postgresql"] = "metrics-api"
    """KEDA's scaler: `metrics-api` or `postgresql`."""
    per_replica: int = Field(default=8, ge=1)
    """Tasks for one replica."""
    max_replicas: int = Field(default=10, ge=1)
    """Replicas at most."""
