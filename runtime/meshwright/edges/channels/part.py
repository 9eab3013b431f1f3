"""The part channels."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "channels",
    component="component:Channels",
    settings="settings:ChannelsSettings",
    needs=("channels",),
)
