"""The part inbox."""

from meshwright.core.part import Part

PART = Part(__name__, "inbox", component="component:InboxComponent")
