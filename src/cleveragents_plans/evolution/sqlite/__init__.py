"""Rebuild SQLite tables in one transaction, keeping whatever is not named."""
