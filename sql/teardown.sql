-- The extension goes without a trace.
DROP EXTENSION pg_kappa CASCADE;
SELECT count(*) AS left_over FROM pg_namespace WHERE nspname = 'kappa';
DROP EXTENSION pgstattuple;
DROP EXTENSION pg_buffercache;
