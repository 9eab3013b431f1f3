"""The part dapr."""

from meshwright.core.part import Part

PART = Part(__name__, "dapr", component="component:DaprComponent", settings="settings:DaprSettings")
