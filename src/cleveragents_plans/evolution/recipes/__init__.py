"""Longer changes put together from the operations: parent trees, archives, guarded drops."""
