"""
Which roles are trusted, as conditions of SQL.

What a table runs when it is planned, read or written is chosen by its owner: expressions of
indexes, defaults, triggers. It runs with the rights of the
role that sends the statement.
"""

from __future__ import annotations

from typing import Final

#: Whether the role *o* is trusted in every schema. The owner of the database is the only member of
#: pg_database_owner: https://www.postgresql.org/docs/current/predefined-roles.html
TRUSTED_ROLE: Final = """\
(o.rolsuper OR o.rolname IN (current_user, 'pg_database_owner')
 OR o.oid = (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()))"""
#: Whether the owner *o* of an object in the schema *n*, which the run uses, is trusted.
TRUSTED_OWNER: Final = f"({TRUSTED_ROLE} OR o.oid = n.nspowner)"

# A role with CREATEROLE or ADMIN OPTION can make any role a member of its own, unasked. So each
# membership on the way counts only if one has granted it who is trusted. Before PostgreSQL 16 a
# member may always SET ROLE.
_GRANTED = """\
SELECT m.roleid, m.member,
       coalesce(CAST(to_jsonb(m) ->> 'inherit_option' AS boolean), true) AS inherits,
       coalesce(CAST(to_jsonb(m) ->> 'set_option' AS boolean), true) AS sets
  FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.grantor
 WHERE g.rolsuper OR g.rolname = current_user
    OR g.oid = (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database())"""


def acts_as(member: str, role: str) -> str:
    """
    Give the condition that one who is trusted made a role a member of another, and it acts as that.

    Args:
        member: SQL for the oid of the role that acts.
        role: SQL for the oid of the role as which it acts: it inherits its rights, or may SET ROLE.
    """
    return f"""\
{role} IN (
  WITH RECURSIVE granted AS ({_GRANTED}), acts_as AS (
    SELECT first.roleid, first.inherits, first.sets FROM granted first
     WHERE first.member = {member}
    UNION
    SELECT next.roleid, acts_as.inherits AND next.inherits, acts_as.sets AND next.sets
      FROM acts_as JOIN granted next ON next.member = acts_as.roleid)
  SELECT acts_as.roleid FROM acts_as WHERE acts_as.inherits OR acts_as.sets)"""


_ME = "(SELECT me.oid FROM pg_roles me WHERE me.rolname = current_user)"

#: Whether this role acts as the role *o*, and one who is trusted made it so. A superuser acts as
#: every role, so that this says nothing of trust.
IS_MEMBER: Final = f"""\
(NOT (SELECT me.rolsuper FROM pg_roles me WHERE me.rolname = current_user)
 AND {acts_as(_ME, "o.oid")})"""

#: Whether the owner of the relation *c* is a `TRUSTED_OWNER`, or this role acts as it.
OWNER_IS_TRUSTED: Final = f"""\
EXISTS (SELECT FROM pg_roles o JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE o.oid = c.relowner AND ({TRUSTED_OWNER} OR {IS_MEMBER}))"""
