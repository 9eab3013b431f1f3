"""The part dapr."""

from meshwright.component import Part

PART = Part(__name__, "dapr", component="component:DaprComponent", settings="settings:DaprSettings")
