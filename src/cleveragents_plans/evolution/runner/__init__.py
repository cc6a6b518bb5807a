"""Run the chain against one database: connection, lock, unfinished revisions, errors."""
