"""[k8s]: what `mesh k8s render` writes that a project cannot say by its agents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from meshwright.core import __version__
from meshwright.settings.forms import HostName, Table

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
_Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]


class K8sSettings(Table):
    """[k8s]: the manifests of `mesh k8s render`."""

    image: str = Field(default=f"meshwright-agent:{__version__}", min_length=1)
    """The image of every container, with its registry and tag."""
    namespace: _Name = "mesh"
    """The namespace of all objects."""
    host: HostName | None = None
    """Name under which clients call the mesh. With it there is an Ingress, where TLS ends."""
    tls_secret: _Name = "mesh-tls"
    """Secret with the certificate of that Ingress."""
    cpu: _Quantity = "100m"
    """CPU that each container requests."""
    memory: _Quantity = "512Mi"
    """Memory that each container requests, and may use at most."""
    storage: _Quantity = "1Gi"
    """Size of the volume of each pod that keeps data."""
    scaler: Literal["metrics-api", "postgresql"] = "metrics-api"
    """How KEDA counts the tasks of workers on PostgreSQL: it asks `GET /scale/mesh` with a key, or the view
    `meshwright_scale` of the database."""
    per_replica: int = Field(default=8, ge=1)
    """How many tasks, waiting or running, one replica is for: KEDA makes as many as all of them need."""
    max_replicas: int = Field(default=10, ge=1)
    """How many replicas of a deployment KEDA makes at most."""
