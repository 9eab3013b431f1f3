"""The part sources."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "sources",
    component="component:SourcesComponent",
    resources="display:RESOURCES",
    commands={"channels": "List channels, the agents that answer, and whether each is connected."},
    heading="Mesh",
)
