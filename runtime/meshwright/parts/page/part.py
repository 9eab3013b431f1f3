"""The part page."""

from meshwright.core.part import Part

PART = Part(__name__, "page", component="component:PageComponent", settings="settings:PageSettings")
