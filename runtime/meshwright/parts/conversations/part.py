"""The part conversations."""

from meshwright.component import Part

PART = Part(__name__, "conversations", component="component:ConversationsComponent")
