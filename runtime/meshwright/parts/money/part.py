"""The part money."""

from meshwright.core.part import Part

PART = Part(__name__, "money", component="component:TaskMoney")
