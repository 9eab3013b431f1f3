"""The part ag_ui."""

from meshwright.component import Part

PART = Part(__name__, "ag_ui", component="component:AgUiComponent", settings="settings:AgUiSettings")
