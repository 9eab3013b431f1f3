"""The part kube."""

from meshwright.core.part import Part

PART = Part(__name__, "kube", settings="settings:KubeTables", toolset="kube_changes:KubeTools")
