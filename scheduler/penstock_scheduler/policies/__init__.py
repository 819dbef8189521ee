"""The policies: when a batch starts, and who is in it."""
