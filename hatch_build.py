"""Put the model configuration into the wheel, not into an editable install, where a copy would go stale."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CONFIGURATION = "litellm_config.yaml"


class ModelConfiguration(BuildHookInterface):
    """Hatchling's `sources` move folders only; this is the one file that has to move."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to a standard wheel; without it the build fails."""
        if version == "standard":
            build_data["force_include"][CONFIGURATION] = f"meshwright/_project/{CONFIGURATION}"
