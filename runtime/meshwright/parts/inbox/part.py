"""The part inbox."""

from meshwright.component import Part

PART = Part(__name__, "inbox", component="component:InboxComponent", settings="settings:InboxSettings")
