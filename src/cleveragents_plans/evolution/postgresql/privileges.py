"""
What other roles may do with what a run creates: nothing, or look.

``ALTER DEFAULT PRIVILEGES`` of the owner, for its schema or everywhere, grants rights on each new
table and function to any role. See
https://www.postgresql.org/docs/current/sql-alterdefaultprivileges.html.
"""

from __future__ import annotations

from typing import Final


def revoke_execute(function: str) -> str:
    """
    Give the statement that takes the right to execute *function* from all but its owner.

    It works in a script, too. ``CREATE OR REPLACE`` keeps what was granted before, so it is sent
    each time, in the same transaction. Roles that were granted it by others lose it, too.

    Args:
        function: As in SQL, with its schema and ``()``.
    """
    return f"""\
DO $revoke$ DECLARE other text; BEGIN
  FOR other IN
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC')
      FROM pg_proc p
     CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE p.oid = to_regprocedure('{function}') AND a.grantee <> p.proowner
  LOOP
    EXECUTE 'REVOKE ALL ON FUNCTION {function} FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$"""


def revoke_all(table: str) -> str:
    """
    Give the statement that takes all rights on *table*, SELECT too, from all but its owner.

    For a table with rows of another one, whose row-level security it does not have.

    Args:
        table: As in SQL, with its schema.
    """
    return _revoke(table, HOLDERS)


def revoke_writing(table: str) -> str:
    """
    Give the statement that takes all rights on *table* but SELECT from all but its owner.

    SELECT stays: default privileges may be what lets a backup read all tables.

    Args:
        table: As in SQL, with its schema.
    """
    return _revoke(table, WRITERS)


def _revoke(table: str, holders: str) -> str:
    table = table.replace("'", "''")
    return f"""\
DO $revoke$ DECLARE other text; held text; BEGIN
  FOR other, held IN
{holders.format(oid=f"to_regclass('{table}')")}
  LOOP
    EXECUTE 'REVOKE ' || held || ' ON TABLE {table} FROM ' || other || ' CASCADE';
  END LOOP;
END $revoke$"""


#: Who but its owner may do what with the table ``{oid}``, or with a column of it.
HOLDERS: Final = """\
    SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC') AS other, a.privilege_type AS held
      FROM pg_class c
     CROSS JOIN LATERAL (
       SELECT t.grantee, t.privilege_type FROM aclexplode(c.relacl) t
        UNION ALL
       SELECT b.grantee, b.privilege_type
         FROM pg_attribute n CROSS JOIN LATERAL aclexplode(n.attacl) b WHERE n.attrelid = c.oid
     ) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE c.oid = {oid} AND a.grantee <> c.relowner"""

#: Who may do more than read it.
WRITERS: Final = f"{HOLDERS} AND a.privilege_type <> 'SELECT'"
