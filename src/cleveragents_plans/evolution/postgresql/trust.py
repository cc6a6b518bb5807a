"""
Which roles are trusted, as conditions of SQL.

What a table runs when it is planned, read or written is chosen by its owner: expressions of
indexes, defaults, triggers. It runs with the rights of the
role that sends the statement.
"""

from __future__ import annotations

from typing import Final

#: The privilege of `pg_has_role` with which a member may SET ROLE; from PostgreSQL 16 on a
#: membership need not give it.
SET_ROLE: Final = """\
CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END"""
#: Whether the role *o* is trusted in every schema.
TRUSTED_ROLE: Final = """\
(o.rolsuper OR o.rolname = current_user
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

#: Whether this role was made a member of the role *o* by one who is trusted, and acts as it. A
#: superuser acts as every role, so that this says nothing of trust.
IS_MEMBER: Final = f"""\
(NOT (SELECT me.rolsuper FROM pg_roles me WHERE me.rolname = current_user) AND o.oid IN (
  WITH RECURSIVE granted AS ({_GRANTED}), acts_as AS (
    SELECT first.roleid, first.inherits, first.sets FROM granted first
      JOIN pg_roles me ON me.oid = first.member AND me.rolname = current_user
    UNION
    SELECT next.roleid, acts_as.inherits AND next.inherits, acts_as.sets AND next.sets
      FROM acts_as JOIN granted next ON next.member = acts_as.roleid)
  SELECT acts_as.roleid FROM acts_as WHERE acts_as.inherits OR acts_as.sets))"""
