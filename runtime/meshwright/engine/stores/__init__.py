"""The stores that a runtime can run on."""
