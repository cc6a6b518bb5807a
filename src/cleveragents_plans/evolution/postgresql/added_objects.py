"""What was added to a table that only runs write, and would be fired or broken by it."""

from __future__ import annotations

from typing import Final

#: Each thing that was added to the relation *c*, and the statement that removes it. *n* has its
#: name, as in SQL with its schema, the number of its key, of which another key does no harm, and
#: the name of the unique index that a run creates; where it creates none, every index counts. What
#: an index or statistics evaluate, planning evaluates: only plain columns, and PostgreSQL's own
#: operator classes, do no harm.
ADDED: Final = """\
  SELECT 'the trigger ' || quote_ident(tgname),
         'DROP TRIGGER ' || quote_ident(tgname) || ' ON ' || n.name
    FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal
  UNION ALL
  SELECT 'the rule ' || quote_ident(rulename),
         'DROP RULE ' || quote_ident(rulename) || ' ON ' || n.name
    FROM pg_rewrite WHERE ev_class = c.oid
  UNION ALL
  SELECT 'the constraint ' || quote_ident(conname)
         || CASE WHEN conrelid = c.oid THEN ''
                 ELSE ' of ' || CAST(CAST(conrelid AS regclass) AS text) || ' to it' END,
         'ALTER TABLE ' || CASE WHEN conrelid = c.oid THEN n.name
                                ELSE CAST(CAST(conrelid AS regclass) AS text) END
         || ' DROP CONSTRAINT ' || quote_ident(conname)
    FROM pg_constraint
   WHERE (conrelid = c.oid AND contype NOT IN ('n', 't') OR confrelid = c.oid)
     AND NOT (contype IN ('p', 'u') AND NOT condeferrable AND conkey = ARRAY[n.key])
  UNION ALL
  SELECT 'the index ' || quote_ident(u.relname),
         'DROP INDEX ' || quote_ident((parse_ident(n.name))[1]) || '.' || quote_ident(u.relname)
    FROM pg_index x JOIN pg_class u ON u.oid = x.indexrelid
   WHERE x.indrelid = c.oid
     AND (EXISTS (SELECT FROM pg_opclass k WHERE k.oid = ANY(x.indclass)
                     AND k.opcnamespace <> CAST('pg_catalog' AS regnamespace))
          OR u.relname IS DISTINCT FROM n.index
             AND (n.index IS NULL OR x.indexprs IS NOT NULL OR x.indpred IS NOT NULL
                  OR x.indisunique AND NOT (x.indnkeyatts = 1 AND x.indkey[0] = n.key)))
     AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = u.oid AND conrelid = c.oid)
  UNION ALL
  SELECT 'the statistics ' || quote_ident(s.stxname),
         'DROP STATISTICS ' || CAST(s.stxnamespace AS regnamespace) || '.' || quote_ident(s.stxname)
    FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL
  UNION ALL
  SELECT CASE a.attgenerated WHEN '' THEN 'a default for ' ELSE 'an expression for ' END
         || quote_ident(a.attname),
         'ALTER TABLE ' || n.name || ' ALTER COLUMN ' || quote_ident(a.attname)
         || CASE a.attgenerated WHEN '' THEN ' DROP DEFAULT' ELSE ' DROP EXPRESSION' END
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.atthasdef AND NOT a.attisdropped"""
