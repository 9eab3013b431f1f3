"""The event log: what happened, searched, replayed and followed; and the lists that are kept from it."""
