"""[skills]: the folders of skills, and which agents have them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from meshwright.core.settings.forms import Table


class SkillsSettings(Table):
    """[skills]: the folders of skills, and which agents have them."""

    dirs: tuple[Path, ...] = (Path(".agents/skills"), Path("skills"))
    """Folders of skills in the project; of two skills with one name the first counts."""
    agents: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Skills by agent id, beside those of the agent's class: `digest-agent = ["house-style"]`."""
    trusted_packages: tuple[str, ...] = ()
    """Packages whose skills are not text from outside: their names as `mesh skills list` shows them."""
    reload_seconds: float = Field(default=5.0, gt=0)
    """Seconds between looks for changes."""
