## How to write one: docs/writing-a-revision.md
<%
    def body(text):
        """Give what autogenerate wrote, without Alembic's own comments."""
        lines = (text or "").splitlines()
        return "\n".join(line for line in lines if not line.strip().startswith("# ### "))

    up, down = body(upgrades), body(downgrades)
%>\
"""
${message}

Why:    <the need, in one sentence>
Rows:   <what happens to rows that already exist>
Undo:   <what downgrade restores, and what it cannot>
Locks:  ${context.get("locks") or "<what PostgreSQL locks, and for how long>"}

Revision: ${up_revision}, after ${down_revision | comma,n}
"""

% if not up or "sa." in up + down:
import sqlalchemy as sa
% endif
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """<What it does, in one sentence>."""
    ## An empty upgrade must fail, so that it is not recorded as applied.
    ${up.strip() if up.strip() else "raise NotImplementedError"}


def downgrade() -> None:
    """<How it is undone, in one sentence>."""
    ## An empty downgrade must fail, too.
    ${down.strip() if down.strip() else "raise NotImplementedError"}
