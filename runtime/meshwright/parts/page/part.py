"""The part page."""

from meshwright.component import Part

PART = Part(__name__, "page", component="component:PageComponent", settings="settings:PageSettings")
