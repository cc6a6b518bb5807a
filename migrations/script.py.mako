"""
${message}

Why:    <the need, in one sentence>
Rows:   <what happens to rows that already exist>
Undo:   <what downgrade restores, and what it cannot>
Locks:  <what PostgreSQL locks, and for how long>

Revision: ${up_revision}, after ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """<What it does, in one sentence>."""
    ## A revision that nobody has filled in must not pass for one that was applied.
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """<How it is undone, in one sentence>."""
    ## Likewise.
    ${downgrades if downgrades else "raise NotImplementedError"}
