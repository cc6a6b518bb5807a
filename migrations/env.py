"""
Run the migration chain against one database.

Which one: ``alembic -x url=...``, else the configuration's attribute ``url``, else the
environment's ``DATABASE_URL``, else ``sqlite:///plans.db`` in the current folder.
"""

import os
from pathlib import Path

from alembic import context
from alembic.util import CommandError

from cleveragents_plans.evolution.reporting import tell
from cleveragents_plans.evolution.runner.environment import run_offline, run_online
from cleveragents_plans.evolution.runner.standard_streams import have_standard_streams
from cleveragents_plans.persistence import (
    Base,
    DatabaseUrlError,
    database_url,
    open_engine,
    without_password,
)

DEFAULT_URL = "sqlite:///plans.db"

have_standard_streams(context.config)
named = context.get_x_argument(as_dictionary=True).get("url")
if named is None:
    named = context.config.attributes.get("url")
if named is None:
    named = os.environ.get("DATABASE_URL") or None
try:
    url = database_url(DEFAULT_URL if named is None else named)
    engine = open_engine(url, migrating=True)
except DatabaseUrlError as error:
    raise CommandError(str(error)) from None
target = without_password(url)
note = "" if named is not None else f" (the default, in {Path.cwd()}; name another by DATABASE_URL)"
tell(f"database: {target}{note}")

if context.is_offline_mode():
    run_offline(url, Base.metadata)
else:
    run_online(engine, Base.metadata, target=target)
