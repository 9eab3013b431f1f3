"""The built-in model, which needs neither key nor network."""

from meshwright.models.offline.model import USUAL_GROUPS, OfflineModel, estimate_tokens

__all__ = ["USUAL_GROUPS", "OfflineModel", "estimate_tokens"]
