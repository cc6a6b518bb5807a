"""What tests, features and robot suites share: servers, databases, the chain."""
