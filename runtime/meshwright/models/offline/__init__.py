"""The built-in model, which needs neither key nor network."""

from meshwright.models.offline.model import OfflineModel, estimate_tokens

__all__ = ["OfflineModel", "estimate_tokens"]
