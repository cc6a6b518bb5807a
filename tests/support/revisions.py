"""
The revisions that tests are about, by a short name.

What tests say of a released revision is pinned to it by its name, so that the next
revision breaks none of them. Only tests of the library, which works on the newest schema,
and of the whole package say ``head``.
"""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[2]

A5_004 = "a5_004_spec_aligned_plans"
M4_003 = "m4_003_plan_env_columns"
M8_001 = "m8_001_align_plans_schema"
M8_002 = "m8_002_index_plans"

#: Every revision of the checkout, oldest first.
CHAIN = [
    script.revision
    for script in ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions()
][::-1]

#: Where `head` leads.
HEAD = CHAIN[-1]
