-- Servers and user mappings of foreign-data wrapper kafka: which options exist,
-- who may set them, and what is said where they cannot be used.  No broker needed.
\set VERBOSITY terse
\set SHOW_CONTEXT never

CREATE ROLE regress_kappa_owner;
CREATE ROLE regress_kappa_other;
GRANT USAGE ON FOREIGN DATA WRAPPER kafka TO regress_kappa_owner;

-- names
CREATE SERVER kt FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1');
\set VERBOSITY default
ALTER SERVER kt OPTIONS (ADD bootstrap_server 'a:1');
ALTER SERVER kt OPTIONS (ADD "bootstrap.servers" 'a:1');
ALTER SERVER kt OPTIONS (ADD nonsense_from_nowhere 'a');
ALTER SERVER kt OPTIONS (ADD sasl_password 'CANARY');
ALTER SERVER kt OPTIONS (ADD plugin_library_paths 'CANARY');
ALTER SERVER kt OPTIONS (ADD sasl_kerberos_kinit_cmd 'CANARY');
ALTER SERVER kt OPTIONS (ADD auto_offset_reset 'latest');
ALTER SERVER kt OPTIONS (ADD metadata_broker_list 'a:1');
ALTER SERVER kt OPTIONS (ADD test_mock_num_brokers '3');
CREATE USER MAPPING FOR CURRENT_USER SERVER kt OPTIONS (bootstrap_servers 'a:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kt OPTIONS (sasl_pasword 'CANARY');
ALTER FOREIGN DATA WRAPPER kafka OPTIONS (ADD bootstrap_servers 'a:1');
\set VERBOSITY terse

-- every setting that would break exactness or run code is refused with a reason
DO $$
DECLARE
	name text;
	refused integer := 0;
BEGIN
	FOREACH name IN ARRAY ARRAY[
		'auto_offset_reset', 'enable_auto_commit', 'enable_auto_offset_store', 'isolation_level', 'check_crcs',
		'log_queue', 'log_thread_name', 'enable_metrics_push', 'group_id', 'group_instance_id', 'transactional_id',
		'enable_idempotence', 'acks', 'max_in_flight', 'enable_gapless_guarantee', 'client_rack',
		'allow_auto_create_topics', 'plugin_library_paths', 'interceptors', 'ssl_engine_location', 'ssl_engine_id',
		'ssl_providers', 'sasl_kerberos_kinit_cmd', 'internal_termination_signal', 'offset_store_path',
		'offset_store_method', 'test_mock_num_brokers', 'test_mock_anything', 'enable_sasl_oauthbearer_unsecure_jwt',
		'api_version_request', 'broker_version_fallback', 'topic_blacklist', 'message_copy_max_bytes',
		'queuing_strategy', 'log_cb', 'resolve_cb', 'opaque', 'enabled_events']
	LOOP
		BEGIN
			EXECUTE format('ALTER SERVER kt OPTIONS (ADD %I ''CANARY'')', name);
			RAISE WARNING 'not refused on a server: %', name;
		EXCEPTION WHEN fdw_invalid_option_name THEN
			refused := refused + 1;
		END;
		BEGIN
			EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER kt OPTIONS (%I ''CANARY'')', name);
			RAISE WARNING 'not refused in a user mapping: %', name;
		EXCEPTION WHEN fdw_invalid_option_name THEN
			refused := refused + 1;
		END;
	END LOOP;
	RAISE INFO 'refused: %', refused;
END
$$;

-- values
ALTER SERVER kt OPTIONS (SET bootstrap_servers 'no port here');
ALTER SERVER kt OPTIONS (SET bootstrap_servers '');
ALTER SERVER kt OPTIONS (SET bootstrap_servers 'a:0');
ALTER SERVER kt OPTIONS (SET bootstrap_servers 'a:65536');
ALTER SERVER kt OPTIONS (SET bootstrap_servers 'a:1,,b:2');
ALTER SERVER kt OPTIONS (SET bootstrap_servers 'ssl://a:1');
ALTER SERVER kt OPTIONS (SET bootstrap_servers '[::1]:9092, b, c:19092');
ALTER SERVER kt OPTIONS (SET bootstrap_servers '127.0.0.1:1');
ALTER SERVER kt OPTIONS (ADD security_protocol 'CANARY');
ALTER SERVER kt OPTIONS (ADD fetch_max_bytes 'CANARY');
ALTER SERVER kt OPTIONS (ADD fetch_max_bytes '99999999999999999999');
ALTER SERVER kt OPTIONS (ADD fetch_max_bytes '2000000x');
ALTER SERVER kt OPTIONS (ADD topic_metadata_refresh_interval_ms '4999');
ALTER SERVER kt OPTIONS (ADD socket_keepalive_enable 'yes');
ALTER SERVER kt OPTIONS (ADD client_id E'a\nb');
ALTER SERVER kt OPTIONS (ADD fetch_max_bytes '2000000', ADD socket_keepalive_enable 'TRUE', ADD client_id 'me');
ALTER SERVER kt OPTIONS (DROP fetch_max_bytes, DROP socket_keepalive_enable, DROP client_id);

-- what only a superuser may set
SET ROLE regress_kappa_owner;
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'sasl_plaintext', sasl_mechanism 'PLAIN');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'ssl', ssl_ca_location '/etc/passwd');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'ssl', enable_ssl_certificate_verification 'false');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'ssl', ssl_endpoint_identification_algorithm 'none');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'sasl_ssl', sasl_mechanism 'GSSAPI');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1', debug 'all');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1', secret 'entry');
CREATE SERVER ks FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1', security_protocol 'sasl_plaintext');
CREATE SERVER ks_tls FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'broker.example:9092', security_protocol 'SASL_SSL', sasl_mechanism 'scram-sha-512');
CREATE SERVER ks_local FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'localhost:1,[::1]:1,127.1.2.3:1');
CREATE USER MAPPING FOR regress_kappa_owner SERVER ks OPTIONS (ssl_key_location '/etc/passwd');
CREATE USER MAPPING FOR regress_kappa_owner SERVER ks OPTIONS (secret 'entry');

-- what shows only when the server is used
\set VERBOSITY default
SELECT * FROM kappa.topics('ks');
ALTER SERVER ks OPTIONS (ADD sasl_mechanism 'PLAIN');
SELECT * FROM kappa.topics('ks');
CREATE USER MAPPING FOR regress_kappa_owner SERVER ks OPTIONS (sasl_username 'u');
SELECT * FROM kappa.topics('ks');
ALTER SERVER ks OPTIONS (DROP bootstrap_servers);
SELECT * FROM kappa.topics('ks');
SELECT * FROM kappa.topics('no_such_server');

-- rights: USAGE on the server is needed, and enough
SET ROLE regress_kappa_other;
SELECT * FROM kappa.check_server('kt');
SELECT * FROM kappa.topics('kt');
SELECT * FROM kappa.topic_offsets('kt', 't');
SELECT * FROM kappa.peek('kt', 't');
SELECT kappa.infer_table('kt', 't');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER kt TO regress_kappa_other;
SET ROLE regress_kappa_other;

-- nothing listens on port 1
SELECT step, ok FROM kappa.check_server('kt');
SELECT step, ok FROM kappa.check_server('kt') WHERE NOT ok;
RESET ROLE;
\set VERBOSITY terse

-- arguments
SELECT * FROM kappa.peek('kt', 't', n => 0);
SELECT * FROM kappa.peek('kt', 't', options => '{"group_id": "CANARY"}');
SELECT * FROM kappa.peek('kt', 't', options => '{"bootstrap_servers": "CANARY:1"}');
SELECT * FROM kappa.peek('kt', 't', options => '{"fetch_max_byte": 1}');
SELECT * FROM kappa.peek('kt', 't', options => '{"fetch_max_bytes": {}}');
SELECT * FROM kappa.peek('kt', 't', options => '[]');
SELECT kappa.infer_table(NULL, 't');
SELECT count(*) FROM kappa.topics(NULL);

-- a cancelled question ends at once and leaves the session usable
SET statement_timeout = '300ms';
SELECT * FROM kappa.topics('kt');
RESET statement_timeout;
SELECT 1 AS alive;

-- addresses that the server's administrator allows
SET kappa.allowed_brokers = 'kafka.example:9092, other.example:*';
SELECT * FROM kappa.topics('kt');
CREATE SERVER kx FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'kafka.example:9093');
CREATE SERVER kx FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'KAFKA.example:9092,other.example:7');
RESET kappa.allowed_brokers;

-- secrets by name
CREATE USER MAPPING FOR CURRENT_USER SERVER kt OPTIONS (secret 'entry');
SELECT * FROM kappa.topics('kt');
DROP USER MAPPING FOR CURRENT_USER SERVER kt;

-- options of a mapping are hidden from other roles
CREATE USER MAPPING FOR regress_kappa_owner SERVER kt OPTIONS (sasl_username 'u', sasl_password 'CANARY');
SET ROLE regress_kappa_other;
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'kt';
RESET ROLE;

-- only servers of this wrapper
CREATE FOREIGN DATA WRAPPER regress_kappa_fdw;
CREATE SERVER kother FOREIGN DATA WRAPPER regress_kappa_fdw;
SELECT * FROM kappa.topics('kother');
DROP FOREIGN DATA WRAPPER regress_kappa_fdw CASCADE;

-- everything is documented
SELECT p.oid::regprocedure
FROM pg_proc p
WHERE p.pronamespace = 'kappa'::regnamespace
	AND p.proname IN ('check_server', 'topics', 'topic_offsets', 'peek', 'infer_table', 'kafka_fdw_validator')
	AND obj_description(p.oid, 'pg_proc') IS NULL;

DROP SERVER kt, ks, ks_tls, ks_local, kx CASCADE;
DROP OWNED BY regress_kappa_owner, regress_kappa_other;
DROP ROLE regress_kappa_owner, regress_kappa_other;
