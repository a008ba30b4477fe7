-- The extension for the tests that follow; none of them needs a broker.
SET client_min_messages = warning;
CREATE EXTENSION pg_kappa CASCADE;
RESET client_min_messages;
SELECT extname, extrelocatable FROM pg_extension
WHERE extname IN ('pg_kappa', 'pgstattuple', 'pg_buffercache') ORDER BY extname;

-- every object and every column says what it is
SELECT c.relname AS relation_without_comment
FROM pg_class AS c
WHERE c.relnamespace = 'kappa'::regnamespace AND c.relkind IN ('r', 'v')
  AND obj_description(c.oid, 'pg_class') IS NULL
ORDER BY c.relname;
SELECT c.relname, a.attname AS column_without_comment
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'kappa'::regnamespace AND c.relkind IN ('r', 'v')
  AND a.attnum > 0 AND NOT a.attisdropped
  AND col_description(c.oid, a.attnum) IS NULL
ORDER BY c.relname, a.attnum;
SELECT p.oid::regprocedure AS function_without_comment
FROM pg_proc AS p
WHERE p.pronamespace = 'kappa'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
ORDER BY p.oid::regprocedure::text;

-- no smallint in any interface (the design's rule on types)
SELECT p.oid::regprocedure AS function_with_smallint
FROM pg_proc AS p
WHERE p.pronamespace = 'kappa'::regnamespace AND 'smallint'::regtype = ANY (p.proargtypes::oid[]);
