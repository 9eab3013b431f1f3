"""The manifests of a mesh on Kubernetes, made of its project: plain data, written as files for kustomize."""
