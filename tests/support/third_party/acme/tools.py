"""Acme's tools."""

from pydantic import BaseModel

from meshwright import Toolset, tool


class PagerToolSettings(BaseModel):
    """The table [tools.pager]."""

    team: str = "nobody"


class PagerTools(Toolset):
    """Pages a team."""

    name = "pager"
    config_type = PagerToolSettings
    config: PagerToolSettings

    @tool(idempotent=True)
    async def page(self, reason: str) -> str:
        """Page the team.

        Args:
            reason: Why.
        """
        return f"paged {self.config.team}: {reason}"
