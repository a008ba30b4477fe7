# Security: code that a table's owner or the author of a schema plants gains nothing,
# views show each role its own, functions stand any argument, names any letter,
# secrets stay where they are, and the install script trusts no search_path.

use strict;
use warnings;
use utf8;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $address = broker_start();
my $node = kappa_node('security', 'log_min_messages = debug5', 'log_min_error_statement = panic', 'log_statement = none');

sub psql_as
{
	my ($role, $sql) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "SET SESSION AUTHORIZATION $role;\n$sql");
	return ($code, $out, $err);
}

sub sql { return $node->safe_psql('postgres', join ' ', @_); }

sub ok_as
{
	my ($role, $sql) = @_;
	my ($code, $out, $err) = psql_as($role, $sql);
	die "$role: $sql: $err" if $code;
	return $out;
}

sub consumed { return sql("SELECT coalesce(sum(consumed), 0) FROM kappa.balance WHERE name = '$_[0]'"); }

# ---------------------------------------------------------------- who is who

kappa_server($node, $address);
sql(q{
	CREATE ROLE app LOGIN; CREATE ROLE mallory LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	CREATE ROLE colleague LOGIN IN ROLE app;
	GRANT mallory TO app; GRANT USAGE ON FOREIGN SERVER main TO app;
	CREATE SCHEMA app AUTHORIZATION app; CREATE SCHEMA mallory AUTHORIZATION mallory; GRANT USAGE ON SCHEMA mallory TO PUBLIC;
	CREATE TABLE app.private AS SELECT 'for app alone' AS word; ALTER TABLE app.private OWNER TO app;
});

# The attacks: each in a block of its own; what succeeds is written down, and who it was
my %attacks = (
	'SET ROLE' => 'SET ROLE postgres', 'RESET ROLE' => 'RESET ROLE', 'SET LOCAL ROLE' => 'SET LOCAL ROLE app',
	'RESET SESSION AUTHORIZATION' => 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION' => 'SET SESSION AUTHORIZATION postgres',
	'role by set_config' => q{SELECT set_config('role', 'postgres', false)},
	'kappa.subscription' => 'SELECT 1/count(*) FROM kappa.subscription', 'kappa.position' => 'UPDATE kappa.position SET next_offset = 0',
	'pg_authid' => 'SELECT 1/count(*) FROM pg_authid', 'CREATE elsewhere' => 'CREATE TABLE public.planted (x int)',
	'superuser' => 'ALTER ROLE mallory SUPERUSER', 'file' => q{SELECT pg_read_file('postgresql.conf')},
	'program' => q{COPY (SELECT 1) TO PROGRAM 'true'}, 'replication role' => q{SET session_replication_role = replica},
	'temporary table' => 'CREATE TEMP TABLE planted (x int)', 'LISTEN' => 'LISTEN planted', 'cursor' => 'DECLARE planted CURSOR WITH HOLD FOR SELECT 1',
	'log settings' => 'SET log_min_messages = panic', 'deferred' => 'SET CONSTRAINTS ALL DEFERRED; INSERT INTO mallory.late VALUES (1)');
my $attempts = join "\n", map {
	"BEGIN EXECUTE \$a\$$attacks{$_}\$a\$; INSERT INTO mallory.evidence VALUES (place, '$_', current_user, true); EXCEPTION WHEN OTHERS THEN NULL; END;"
} sort keys %attacks;
ok_as('mallory', qq{
	CREATE TABLE mallory.evidence (place text, attack text, who text, gained bool); GRANT ALL ON mallory.evidence TO PUBLIC;
	CREATE TABLE mallory.late (x int);
	CREATE FUNCTION mallory.late() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
		INSERT INTO mallory.evidence VALUES ('deferred trigger', 'runs', current_user, current_user <> 'mallory'); RETURN NULL; END \$\$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mallory.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.late();
	CREATE FUNCTION mallory.attack(place text) RETURNS bool LANGUAGE plpgsql AS \$\$ BEGIN
		INSERT INTO mallory.evidence VALUES (place, 'runs', current_user, false);
		BEGIN PERFORM 1/count(*) FROM app.private; INSERT INTO mallory.evidence VALUES (place, 'app.private', current_user, current_user <> 'app');
			EXCEPTION WHEN OTHERS THEN NULL; END;
		$attempts RETURN true; END \$\$;
	CREATE FUNCTION mallory.quiet(place text, x anyelement) RETURNS anyelement IMMUTABLE LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM mallory.attack(place); RETURN x; END \$\$;
	CREATE FUNCTION mallory.on_row() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM mallory.attack(TG_WHEN || ' trigger');
		INSERT INTO mallory.evidence SELECT 'operator class', 'runs', w, false FROM current_setting('mallory.compares', true) w WHERE w <> '';
		PERFORM set_config('search_path', 'mallory, pg_catalog', false); RETURN NEW; END \$\$;
	CREATE DOMAIN mallory.dom AS int CHECK (mallory.attack('domain check'));
	CREATE FUNCTION mallory.cmp(a int, b int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
		\$\$ BEGIN PERFORM set_config('mallory.compares', current_user, true); RETURN btint4cmp(a, b); END \$\$;
	CREATE TABLE mallory.plain (id int, d mallory.dom, t text DEFAULT mallory.attack('default')::text,
		g int GENERATED ALWAYS AS (mallory.quiet('generated column', id)) STORED, CHECK (mallory.attack('check')));
	CREATE INDEX ON mallory.plain ((mallory.quiet('index expression', id)));
	CREATE TRIGGER after_row AFTER INSERT ON mallory.plain FOR EACH ROW EXECUTE FUNCTION mallory.on_row();
	CREATE TABLE mallory.general (LIKE mallory.plain INCLUDING ALL);
	CREATE TRIGGER before_row BEFORE INSERT ON mallory.general FOR EACH ROW EXECUTE FUNCTION mallory.on_row();
	CREATE TABLE mallory.keyed (id int, d int);
	CREATE INDEX ON mallory.keyed ((id + mallory.quiet('constant of an index', 1)));
	ALTER TABLE mallory.keyed ADD PRIMARY KEY (id);
});
# A superuser makes the operator class, its function is the table owner's.  It only notes who it is:
# an index calls it with a buffer locked, where no code may fail.
sql(q{CREATE OPERATOR CLASS mallory.ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
	FUNCTION 1 mallory.cmp(int, int)});
ok_as('mallory', "CREATE INDEX ON mallory.$_ (id mallory.ops)") for 'plain', 'general';

# what ran while all this was made, in a session of a superuser's
sql('TRUNCATE mallory.evidence');

tool('create', 'attack', 1);
tool('send', 'attack', 0, 'k', qq({"id":$_,"d":1})) for 1 .. 4;
ok_as('app', "SELECT kappa.subscribe(name => '$_', server => 'main', topic => 'attack', target => 'mallory.$_')") for 'plain', 'general';
ok_as('app', "SELECT kappa.subscribe(name => 'keyed', server => 'main', topic => 'attack', target => 'mallory.keyed', mode => 'upsert')");
for my $target ('plain', 'general', 'keyed')
{
	ok(poll_until(30, sub { consumed($target) == 4 }), "$target: messages are consumed") or diag(sql('SELECT name, reason FROM kappa.subscriptions'));
	# planning a query on "keyed" would run the constants of its indexes as whoever asks
	is(sql("SELECT count(*) FROM mallory.$target"), '4', "$target: rows are stored although their code attacks") unless $target eq 'keyed';
}
is(sql(q{SELECT string_agg(DISTINCT place, ', ' ORDER BY place) FROM mallory.evidence WHERE attack = 'runs'}),
	'AFTER trigger, BEFORE trigger, check, constant of an index, default, domain check, generated column, index expression, operator class', 'the planted code ran in each place');
is(sql(q{SELECT string_agg(DISTINCT who, ', ') FROM mallory.evidence WHERE NOT (place = 'constant of an index' AND who = 'app')}), 'mallory', 'as the table owner alone');
is(sql(q{SELECT string_agg(DISTINCT place || ': ' || attack || ' as ' || who, ', ') FROM mallory.evidence WHERE gained}), '', 'and gained nothing');

# A superuser who runs it himself keeps his settings
is(sql("SELECT kappa.disable('plain'); SELECT kappa.seek('plain', 'earliest'); SELECT kappa.run('plain'); SELECT kappa.enable('plain'); SHOW search_path") =~ s/.*\n//sr,
	'"$user", public', 'a SET of a trigger ends with the batch');

# A transform sees hostile functions and operators, by its owner's own search_path
sql('TRUNCATE mallory.evidence');
ok_as('mallory', q{
	CREATE FUNCTION mallory.upper(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('function'); RETURN pg_catalog.upper($1); END $$;
	CREATE FUNCTION mallory.get(jsonb, text) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN PERFORM mallory.attack('operator'); RETURN pg_catalog.jsonb_object_field_text($1, $2); END $$;
	CREATE OPERATOR mallory.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = mallory.get)});
ok_as('app', q{CREATE TABLE app.out (word text); SET search_path = mallory, pg_catalog;
	SELECT kappa.subscribe(name => 'transform', server => 'main', topic => 'attack', target => 'app.out',
		transform => 'SELECT upper(value ->> ''id'') AS word FROM message')});
ok(poll_until(30, sub { consumed('transform') == 4 }), 'the transform runs') or diag(sql('SELECT name, reason FROM kappa.subscriptions'));
is(sql(q{SELECT string_agg(DISTINCT place, ', ' ORDER BY place) FROM mallory.evidence WHERE attack = 'runs' AND place <> 'deferred trigger'}), 'function, operator', 'shadowed names are called');
is(sql(q{SELECT string_agg(DISTINCT who, ', ') FROM mallory.evidence}), 'app', "with the owner's rights alone");
is(sql(q{SELECT string_agg(DISTINCT attack, ', ') FROM mallory.evidence WHERE gained AND place <> 'deferred trigger'}), '', 'and gain no others');

# ---------------------------------------------------------------- views

tool('send', 'attack', 0, 'k', 'not JSON at all');
ok(poll_until(30, sub { sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'plain'") eq '1' }), 'there is a dead letter');
my @views = split /\n/, sql("SELECT relname FROM pg_class WHERE relnamespace = 'kappa'::regnamespace AND relkind = 'v'
	AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'name')
	AND relname IN ('subscriptions', 'stat_subscription', 'stat_partition', 'balance', 'dead_letters')");
for my $view (@views)
{
	is(ok_as('stranger', "SELECT count(*) FROM kappa.$view"), '0', "a stranger sees nothing in $view");
	cmp_ok(ok_as($_, "SELECT count(*) FROM kappa.$view"), '>', 0, "$_ sees $view") for 'app', 'colleague';
	my $seen = ok_as('watcher', "SELECT count(*) FROM kappa.$view");
	$view eq 'dead_letters' ? is($seen, '0', 'pg_monitor sees no payload') : cmp_ok($seen, '>', 0, "pg_monitor sees $view");
}
# the history is counters alone, which pg_monitor may see
for my $table (split /\n/, sql("SELECT relname FROM pg_class WHERE relnamespace = 'kappa'::regnamespace AND relkind = 'r'"))
{
	like((psql_as($_, "TABLE kappa.$table"))[2], qr/permission denied/, "$_ cannot read kappa.$table") for 'stranger', $table =~ /_history|^index_seen$/ ? () : 'watcher';
}
for my $call (map { "kappa.$_" } q{disable('plain')}, q{run('plain')}, q{redrive('plain')}, q{unsubscribe('plain', true)}, q{seek('plain', 'earliest')},
	q{skip('plain', 0, 0)}, q{purge_dead_letters('plain')}, q{alter_subscription('plain', workers => 2)}, q{drain('plain')}, q{topics('main')})
{
	my ($code, $out, $err) = psql_as('stranger', "\\set VERBOSITY verbose\nSELECT $call");
	like($err, qr/ERROR:  42501/, "a stranger may not $call");
}

# ---------------------------------------------------------------- any argument

tool('create', 'victim', 1);
sql(q{CREATE TABLE public.victim (value jsonb);
	SELECT kappa.subscribe(name => 'victim', server => 'main', topic => 'victim', target => 'public.victim', enabled => false)});
sql(q{
	CREATE FUNCTION public.try(call text) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			BEGIN EXECUTE call; EXCEPTION WHEN query_canceled THEN RETURN '57014'; END;
			RAISE SQLSTATE 'TT000';
		EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || CASE WHEN SQLSTATE LIKE 'XX%' THEN ' ' || SQLERRM ELSE '' END; END $$;
	CREATE TABLE public.usual (arg text, type text, value text);
	INSERT INTO usual VALUES ('name', 'text', '''victim'''), ('server', 'text', '''main'''), ('topic', 'text', '''victim'''), ('target', 'text', '''public.victim'''),
		('format', 'text', '''json'''), ('mode', 'text', '''append'''), ('start_from', 'text', '''earliest'''), ('on_error', 'text', '''stop'''),
		('part', 'integer', '0'), ('at', 'bigint', '0'), ('timeout', 'interval', '''10 ms'''), ('size', 'interval', '''1 min'''), ('slide', 'interval', '''1 min''');
	CREATE TABLE public.absurd (type text, value text);
	INSERT INTO absurd SELECT t, v FROM (VALUES
		('text', ARRAY['''''', 'repeat(''x'', 100000)', 'E''\x01\x7f''', 'E''a\'';"\\\\''', '''é😀''', '''{"0":-1}''', '''{"0":99999999999999999999}''', '''[]''', '''%s%n''', '''.''']),
		('integer', ARRAY['-2147483648', '2147483647', '-1', '0']), ('bigint', ARRAY['-9223372036854775808', '9223372036854775807', '-1', '0']),
		('interval', ARRAY['''-1 s''', '''178000000 years''', '''0''', '''1 us''', '''-178000000 years''', '''1 mon -30 days''']),
		('timestamp with time zone', ARRAY['''infinity''', '''-infinity''', '''294276-12-31''', '''4713-01-01 BC''']),
		('timestamp without time zone', ARRAY['''infinity''', '''-infinity''', '''294276-12-31''', '''4713-01-01 BC''']),
		('date', ARRAY['''infinity''', '''-infinity''', '''5874897-12-31''', '''4713-01-01 BC''']),
		('jsonb', ARRAY['''null''', '''[]''', '''"x"''', '''1e400''', '''{"a":{"b":[1]}}''', '''{"value":"$."}''', '''{"value":"$..x[999999999999]"}''', '(repeat(''['', 5000) || repeat('']'', 5000))']),
		('text[]', ARRAY['''{}''', '''{NULL}''', '''{{a,b},{c,d}}''', '''[-5:-4]={a,b}''', 'array_fill(''x''::text, ARRAY[10000])']),
		('bigint[]', ARRAY['''{}''', '''{NULL}''', '''{{1,2},{3,4}}''', '''{-9223372036854775808}''']),
		('boolean', ARRAY['true', 'false']), ('oid', ARRAY['0', '4294967295']), ('name', ARRAY[''''''])) a(t, vs), unnest(vs) v;
	-- each function with all NULL, and with one absurd value (or NULL) among usual ones
	CREATE VIEW public.calls AS
		WITH f AS (SELECT oid, proname, prokind, pronargs, proargnames, format_type(t, NULL) AS type, n, proargnames[n] AS arg
			FROM pg_proc LEFT JOIN LATERAL unnest(proargtypes) WITH ORDINALITY a(t, n) ON true
			WHERE pronamespace = 'kappa'::regnamespace AND prokind IN ('f', 'w') AND prorettype <> 'trigger'::regtype),
		u AS (SELECT f.*, format('%s::%s', coalesce((SELECT value FROM usual WHERE usual.arg = f.arg AND usual.type = f.type),
			(SELECT min(value) FROM absurd WHERE absurd.type = f.type), 'NULL'), f.type) AS usual FROM f),
		v AS (SELECT u.oid, u.n, coalesce(a.value, 'NULL') AS value FROM u LEFT JOIN LATERAL (SELECT value FROM absurd WHERE type = u.type UNION ALL SELECT 'NULL') a ON true
			UNION ALL SELECT oid, 0, NULL FROM pg_proc WHERE pronamespace = 'kappa'::regnamespace AND prokind = 'f' AND prorettype <> 'trigger'::regtype)
		SELECT format('SELECT * FROM kappa.%I(%s)', min(u.proname), string_agg(CASE WHEN v.n = 0 THEN 'NULL::' || u.type WHEN v.n = u.n THEN v.value || '::' || u.type
			ELSE u.usual END, ', ' ORDER BY u.n)) AS call
		FROM v JOIN u ON u.oid = v.oid AND u.n IS NOT NULL GROUP BY v.oid, v.n, v.value;
});
my ($calls, $internal) = split /\|/, sql(q{SET statement_timeout = '10min'; SET lock_timeout = '2s'; SET client_min_messages = error;
	SELECT count(*), coalesce(string_agg(left(call, 200) || ' -> ' || state, E'\n') FILTER (WHERE state LIKE 'XX%'), '') FROM (SELECT call, public.try(call) AS state FROM calls OFFSET 0) x}), 2;
cmp_ok($calls, '>', 300, "$calls calls with absurd arguments, and the server is there");
is($internal, '', 'none ended with an internal error');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'and none with a crash');

# ---------------------------------------------------------------- any name

my @names = ('o\'hara "x" \\ %s', 'snö😀тест', 'n' x 63, '$1; DROP TABLE x --');
for my $i (0 .. $#names)
{
	my ($q, $l) = ($names[$i] =~ s/"/""/gr, $names[$i] =~ s/'/''/gr);
	my $col = substr($q, 0, 40);
	my $json = substr($names[$i], 0, 40) =~ s/([\\"])/\\$1/gr;

	utf8::encode($_) for $q, $l, $col, $json;
	tool('create', "n.a_m-e$i", 1);
	sql(qq{CREATE SCHEMA "$q"; CREATE TABLE "$q"."$q" ("$col" text PRIMARY KEY, "v" int);
		SELECT kappa.subscribe(name => '$l', server => 'main', topic => 'n.a_m-e$i', target => '"${\ ($q =~ s/'/''/gr) }"."${\ ($q =~ s/'/''/gr) }"', mode => 'upsert')});
	tool('send', "n.a_m-e$i", 0, 'k', qq({"$json":"x","v":$_})) for 1, 2;
	ok(poll_until(30, sub { consumed($l) == 2 }), "name $i: consumed") or diag(sql("SELECT status, reason FROM kappa.subscriptions WHERE name = '$l'"));
	is(sql(qq{SELECT v FROM "$q"."$q" WHERE "$col" = 'x'}), '2', "name $i: stored");
	sql("SELECT kappa.disable('$l'); SELECT kappa.unsubscribe('$l')");
}
for my $bad ("'" . 'x' x 64 . "'", "'" . 'x' x 300 . "'", "''", "E'a\\nb'")
{
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT kappa.subscribe($bad, 'main', 'victim', target => 'public.victim')");
	like($err, qr/ERROR:  42602/, 'a name that is none: ' . substr($bad, 0, 12));
	($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT kappa.subscribe('bad', 'main', $bad, target => 'public.victim')");
	like($err, qr/ERROR:  (?!XX)/, 'a topic that is none: ' . substr($bad, 0, 12));
}

# ---------------------------------------------------------------- secrets

my ($user, $canary) = ('canary-user-5f1', 'canary-word-8d2');
my $said = '';
sub overhear
{
	my ($role, $sql) = @_;
	$said .= join "\n", (psql_as($role, "\\set VERBOSITY verbose\nSET client_min_messages = debug5;\n$sql"))[1, 2];
}
sql("CREATE SERVER guarded FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address', security_protocol 'sasl_plaintext', sasl_mechanism 'SCRAM-SHA-256');
	GRANT USAGE ON FOREIGN SERVER guarded TO app; CREATE USER MAPPING FOR app SERVER guarded OPTIONS (sasl_username '$user', sasl_password '$canary');
	CREATE SERVER late FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$address');
	GRANT USAGE ON FOREIGN SERVER late TO app;");
ok_as('app', "SELECT kappa.subscribe(name => 'late', server => 'late', topic => 'attack', target => 'app.out', format => 'json', transform => 'SELECT topic AS word FROM message')");
overhear('app', $_) for "SELECT * FROM kappa.check_server('guarded')", "SELECT * FROM kappa.topics('guarded')", "SELECT * FROM kappa.peek('guarded', 'attack')",
	"SELECT kappa.subscribe('g', 'guarded', 'attack')";
overhear('postgres', "ALTER USER MAPPING FOR app SERVER guarded OPTIONS ($_)") for "SET sasl_password '$canary', ADD bogus 'x'", "ADD ssl_key_password '$canary', ADD ssl_key_pem '$canary'",
	"ADD sasl_username '$canary'", "SET sasl_password E'$canary\\n'", "ADD secret '$canary'";
# a worker that gets the secret while it runs
sql("ALTER SERVER late OPTIONS (ADD security_protocol 'sasl_plaintext', ADD sasl_mechanism 'SCRAM-SHA-256');
	CREATE USER MAPPING FOR app SERVER late OPTIONS (sasl_username '$user', sasl_password '$canary'); SELECT kappa.disable('late'); SELECT kappa.enable('late')");
ok(poll_until(30, sub { sql("SELECT status = 'backoff' FROM kappa.subscriptions WHERE name = 'late'") eq 't' }), 'a worker with the secret fails to connect');
$said .= sql("SELECT string_agg(t::text, ' ') FROM kappa.$_ t") for @views;
$said .= sql('SELECT string_agg(a::text, chr(10)) FROM pg_stat_activity a WHERE pid <> pg_backend_pid()');
$said .= ok_as('stranger', 'SELECT * FROM pg_user_mappings');
like($said, qr/guarded/, 'much was said');
unlike($said, qr/\Q$canary\E|\Q$user\E/, 'no secret in errors, views and pg_stat_activity');
my @leaks = grep { /\Q$canary\E|\Q$user\E/ } split /\n/, slurp_file($node->logfile);
is(scalar @leaks, 0, 'no secret in the log at debug5') or diag(join "\n", splice @leaks, 0, 3);

# ---------------------------------------------------------------- the install script

my $script = slurp_file((glob('pg_kappa--*.sql'))[0]) =~ s/--.*//gr;
unlike($script, qr/CREATE\s+OR\s+REPLACE|IF\s+NOT\s+EXISTS|SECURITY\s+DEFINER|\@ext/i, 'nothing is replaced, adopted or run as definer');
my @unqualified = grep { !/^(?:kappa|pg_catalog)\./ } $script =~ s/'[^']*'//gr =~ /CREATE\s+(?:UNLOGGED\s+)?(?:TABLE|VIEW|FUNCTION|TYPE|SEQUENCE|DOMAIN|AGGREGATE|PROCEDURE|OPERATOR)\s+([\w."]+)/g;
is("@unqualified", '', 'all that is created is qualified');
is(sql(q{SELECT string_agg(oid::regprocedure::text, ', ') FROM pg_proc p WHERE pronamespace = 'kappa'::regnamespace AND (prosecdef OR
	(SELECT lanname FROM pg_language l WHERE l.oid = prolang) NOT IN ('c', CASE WHEN prokind = 'a' THEN 'internal' END) AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false))}), '', 'a function is in C or pins its search_path');
is(sql(q{SELECT string_agg(relname, ', ') FROM pg_class WHERE relnamespace = 'kappa'::regnamespace AND relkind = 'v' AND NOT coalesce(reloptions::text LIKE '%security_barrier%', false)
	AND has_table_privilege('public', oid, 'SELECT')}), '', 'a public view is a security barrier');
sql('CREATE DATABASE hostile');
$node->safe_psql('hostile', q{
	GRANT CREATE ON SCHEMA public TO mallory; GRANT CREATE ON DATABASE hostile TO mallory;
	SET SESSION AUTHORIZATION mallory;
	CREATE TABLE evidence (who text); GRANT ALL ON evidence TO PUBLIC;
	CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS 'INSERT INTO public.evidence VALUES (current_user) RETURNING who';
	CREATE FUNCTION pg_has_role(oid, text) RETURNS bool LANGUAGE sql AS 'INSERT INTO public.evidence VALUES (current_user) RETURNING true';
	CREATE FUNCTION same(text, text) RETURNS bool LANGUAGE sql AS 'INSERT INTO public.evidence VALUES (current_user) RETURNING true';
	CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = same); CREATE OPERATOR || (LEFTARG = text, RIGHTARG = text, FUNCTION = format);
	CREATE SCHEMA kappa});
my ($code, $out, $err) = $node->psql('hostile', "SET search_path = public, pg_catalog; CREATE EXTENSION pg_kappa CASCADE");
like($err, qr/schema "kappa" already exists/, 'a schema that somebody else has made is not adopted');
is($node->safe_psql('hostile', q{DROP SCHEMA kappa; SET search_path = public, pg_catalog; CREATE EXTENSION pg_kappa CASCADE;
	SELECT count(*) FROM (SELECT FROM kappa.subscriptions, kappa.stat_partition, kappa.balance, kappa.dead_letters) x; SELECT count(*) FROM evidence}) =~ s/\n/ /gr,
	'0 0', 'hostile functions and operators are not called');
sql("SELECT kappa.disable(name) FROM kappa.subscriptions");
$node->stop;
done_testing();
