"""The part publishers."""

from meshwright.core.part import Part

PART = Part(__name__, "publishers", component="component:PublishersComponent", needs=("dapr.publishers",))
