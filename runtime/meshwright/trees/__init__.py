"""Trees: copies of a git repository that tasks change, without git's own files in them."""

from meshwright.trees.leases import Trees
from meshwright.trees.tree import Change, Tree

__all__ = ["Change", "Tree", "Trees"]
