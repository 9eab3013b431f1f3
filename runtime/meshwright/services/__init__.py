"""Services of a mesh beside its tasks, each a component."""
