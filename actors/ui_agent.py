"""ui-agent: designs, builds and reviews screens and components, on a tree of its own."""

from meshwright import Agent, Capability
from meshwright.toolsets.code import CodeTools
from meshwright.toolsets.components import ComponentTools
from meshwright.toolsets.design import DesignTools


class UiAgent(Agent):
    """Builds user interfaces in the tree of its task, with the components that the project has."""

    agent_id = "ui-agent"
    capabilities = (
        Capability("ui-design"),
        Capability("component-generation"),
        Capability("screen-generation"),
        Capability("ui-review"),
        Capability("bug-fix", weight=0.5),
    )
    toolsets = (CodeTools, DesignTools, ComponentTools)
