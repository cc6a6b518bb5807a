"""A web service over the plans of one database."""
