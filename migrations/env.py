"""
Run the chain against one database; `cleveragents_plans.schema.run_environment` tells which.

Alembic runs this file for each of its commands that needs a database.
"""

from cleveragents_plans.schema import run_environment

run_environment()
