"""The parts of the HTTP API."""

from meshwright.core.part import Part

HTTP = Part(__name__, "http", settings="settings:HttpSettings")
WATCHDOG = Part(__name__, "watchdog", settings="settings:WatchdogSettings")
