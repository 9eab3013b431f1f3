"""The part a2a."""

from meshwright.component import Part

PART = Part(__name__, "a2a", component="component:A2aComponent", settings="settings:A2aSettings")
