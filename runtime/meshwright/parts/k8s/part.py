"""The part k8s."""

from meshwright.component import Part

PART = Part(
    __name__,
    "k8s",
    settings="settings:K8sSettings",
    commands={
        "k8s": "Write the manifests of a mesh on Kubernetes.",
        "probe": "Ask whether the mesh or worker of this machine is ready.",
    },
    heading="Mesh",
)
