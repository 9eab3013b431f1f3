"""Sources: the webhooks and channels of the settings, as people see them."""
