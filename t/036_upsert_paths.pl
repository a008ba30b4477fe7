# Upsert by the key's index and by SQL give the same table, whatever the key's type and the
# other indexes; B-trees whose entries went in in their own order are sound (amcheck); and
# sessions that change, delete, insert and lock the same rows beside the worker take nothing
# from the result: the last message of each key stands.
#
#   KAPPA_SEED=N replays a run's choices.

use strict;
use warnings;

use FormatTest;
use IPC::Run ();
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = seed();
my $node = start('upsert_paths', 'max_worker_processes = 40', 'kappa.max_workers = 32', "kappa.fault = ''");
my $messages = $ENV{KAPPA_LONG} ? 20_000 : 3_000;

sql(q{CREATE EXTENSION amcheck;
	CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE DOMAIN small AS integer CHECK (VALUE < 1000000);
	CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'});

# Every valid B-tree of the table, every page of the heap
sub is_sound
{
	my ($table) = @_;

	is( sql("SELECT count(bt_index_parent_check(indexrelid, true, true)::text)
		FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
		WHERE amname = 'btree' AND indrelid = '$table'::regclass") > 0, 1, "$table: its B-trees are sound");
	is(sql("SELECT count(*) FROM verify_heapam('$table')"), 0, "$table: and so is the heap");
}

# ---------------------------------------------------------------- by index, by SQL

# name => [ key columns, PRIMARY KEY, fields of key number n, the Kafka key ]
my %keys = (
	int => [ 'id integer', 'id', sub { "\"id\": $_[0]" }, sub { $_[0] } ],
	big => [ 'id bigint', 'id', sub { '"id": ' . ($_[0] << 33) }, sub { $_[0] << 33 } ],
	letters => [ 'id text COLLATE any_case', 'id', sub { '"id": "' . (pick(2) ? 'key' : 'KEY') . $_[0] . '"' }, sub { "KeY$_[0]" } ],
	number => [ 'id numeric', 'id', sub { "\"id\": $_[0]." . '0' x (1 + pick(3)) }, sub { "$_[0].00" } ],
	two => [ 'a text, b integer', 'b, a', sub { '"a": "' . ($_[0] % 7) . '", "b": ' . $_[0] }, sub { '{"a": "' . ($_[0] % 7) . "\", \"b\": $_[0]}" } ],
	uuid => [ 'id uuid', 'id', sub { sprintf '"id": "%08x-0000-4000-8000-000000000000"', $_[0] * 7919 },
		sub { sprintf '%08x-0000-4000-8000-000000000000', $_[0] * 7919 } ],
	time => [ 'id timestamptz', 'id', sub { sprintf '"id": "2024-01-01T00:%02d:%02dZ"', $_[0] / 60 % 60, $_[0] % 60 },
		sub { sprintf '2024-01-01 01:%02d:%02d+01', $_[0] / 60 % 60, $_[0] % 60 } ],
	small => [ 'id small', 'id', sub { "\"id\": $_[0]" }, sub { $_[0] } ]);

for my $key (sort keys %keys)
{
	my ($columns, $primary, $fields, $stone) = @{ $keys{$key} };
	my @batches = (1 + pick(50), 1000, 50_000);
	my $n = 0;

	for my $way ('index', 'sql')
	{
		sql("CREATE TABLE ${key}_$way (gone integer, $columns, v text DEFAULT 'd', n integer CHECK (n >= 0), j jsonb, wide text,
			PRIMARY KEY ($primary)) WITH (fillfactor = 60); ALTER TABLE ${key}_$way DROP COLUMN gone;
			CREATE INDEX ON ${key}_$way (n DESC NULLS FIRST, v) INCLUDE (j); CREATE INDEX ON ${key}_$way USING brin (n);
			CREATE INDEX ON ${key}_$way USING gin (j); CREATE INDEX ON ${key}_$way USING hash (v);
			CREATE INDEX ON ${key}_$way (v) WHERE n > 50; CREATE INDEX ON ${key}_$way (lower(v), n)");
	}
	sql("CREATE TRIGGER nothing AFTER INSERT ON ${key}_sql FOR EACH STATEMENT EXECUTE FUNCTION nothing()");
	topic($key);
	subscribe("${key}_$_", topic => "'$key'", target => "'public.${key}_$_'", mode => "'upsert'", batch_rows => $batches[ pick(3) ])
		for 'index', 'sql';
	for my $round (1 .. 3)
	{
		give($key, map {
			my $k = 1 + pick(200);
			my $wide = pick(60) ? 'null' : '"' . join('', map { chr(97 + pick(26)) } 1 .. 9000) . '"';
			my $n = pick(40) ? pick(100) : pick(2) ? 'null' : -1;

			pick(6) == 0 ? { key => $stone->($k), value => undef }
			: '{' . $fields->($k) . (pick(9) ? ", \"v\": \"v" . pick(30) . '"' : '') . ", \"n\": $n, \"j\": {\"a\": " . pick(9) . "}, \"wide\": $wide}"
		} 1 .. $messages / 3);
		settled("${key}_$_") for 'index', 'sql';
		sql("ALTER TABLE ${key}_$_ ADD COLUMN more$round integer DEFAULT $round") for 'index', 'sql';
	}
	is_rows("SELECT * FROM ${key}_index", "SELECT * FROM ${key}_sql", "$key: by index as by SQL");
	cmp_ok(sql("SELECT count(*) FROM ${key}_index"), '>', 50, "$key: rows are left");
	is( sql("SELECT count(*) FROM (SELECT kafka_offset, sqlstate FROM kappa.dead_letters WHERE name = '${key}_index'
		EXCEPT SELECT kafka_offset, sqlstate FROM kappa.dead_letters WHERE name = '${key}_sql') d WHERE sqlstate <> '23514'"),
		0, "$key: no other dead letters");
	is_sound("${key}_$_") for 'index', 'sql';
	sql("SELECT kappa.disable('${key}_$_')") for 'index', 'sql';
}

# Another unique index refuses: the message, not the batch
{
	for my $way ('index', 'sql')
	{
		sql("CREATE TABLE other_$way (id integer PRIMARY KEY, u integer UNIQUE, v text)");
		sql("CREATE TRIGGER nothing AFTER INSERT ON other_sql FOR EACH STATEMENT EXECUTE FUNCTION nothing()") if $way eq 'sql';
	}
	topic('other');
	give('other', map { my $u = $_ % 50 == 0 ? $_ - 1 : $_; "{\"id\": $_, \"u\": $u, \"v\": \"v$_\"}" } 1 .. 1000);
	for my $way ('index', 'sql')
	{
		subscribe("other_$way", topic => "'other'", target => "'public.other_$way'", mode => "'upsert'");
		settled("other_$way");
		is(sql("SELECT count(*), count(*) FILTER (WHERE sqlstate = '23505') FROM kappa.dead_letters WHERE name = 'other_$way'"),
			'20|20', "another unique index, by $way: twenty dead letters");
		is_sound("other_$way");
	}
	is_rows('SELECT * FROM other_index', 'SELECT * FROM other_sql', 'and the same rows');
}

# The index says which keys are equal, not the column; another unique index refuses.  The
# operators of a type of an extension are found where they are.
my %equality = (
	finer => [ 'id text COLLATE any_case NOT NULL', 'CREATE UNIQUE INDEX ON %s (id COLLATE "C")', 'B|2 C|5 b|6' ],
	coarser => [ 'id text NOT NULL', 'CREATE UNIQUE INDEX ON %s (id COLLATE any_case)', 'B|6' ],
	pattern => [ 'id text NOT NULL', 'CREATE UNIQUE INDEX ON %s (id text_pattern_ops)', 'B|2 C|5 b|6' ],
	several => [ 'id text NOT NULL', 'CREATE UNIQUE INDEX ON %1$s (id COLLATE any_case); ALTER TABLE %1$s ADD PRIMARY KEY (id)',
		'b|6', '2 23505 5 23505' ],
	citext => [ 'id citext', 'ALTER TABLE %s ADD PRIMARY KEY (id)', 'B|6' ],
	ltree => [ 'id ltree', 'ALTER TABLE %s ADD PRIMARY KEY (id)', 'B|2 C|5 b|6' ],
	varying => [ 'id varchar(5)', 'ALTER TABLE %s ADD PRIMARY KEY (id)', 'B|2 C|5 b|6' ],
	domains => [ 'id word', 'ALTER TABLE %s ADD PRIMARY KEY (id)', 'B|2 C|5 b|6' ],
	arrays => [ 'id text[]', 'ALTER TABLE %s ADD PRIMARY KEY (id)', 'B|2 C|5 b|6' ]);

sql('CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE DOMAIN word AS varchar COLLATE "C"');
for my $case (sort keys %equality)
{
	my ($columns, $index) = @{ $equality{$case} };
	my $id = $case eq 'arrays' ? '["%s"]' : '"%s"';

	topic($case);
	for my $way ('index', 'sql')
	{
		my $name = "${case}_$way";

		sql("CREATE TABLE $name ($columns, v integer)");
		sql(sprintf $index, $name);
		sql("CREATE TRIGGER nothing AFTER INSERT ON $name FOR EACH STATEMENT EXECUTE FUNCTION nothing()") if $way eq 'sql';
	}
	my $v = 0;
	give($case, map { sprintf "{\"id\": $id, \"v\": %d}", $_, $v++ } qw(b b B z c C));
	subscribe("${case}_$_", topic => "'$case'", mode => "'upsert'", key_columns => "'{id}'") for 'index', 'sql';
	$equality{$case}->[4] = $id;
}
for my $case (sort keys %equality)
{
	my $id = $equality{$case}->[4];

	settled("${case}_$_") for 'index', 'sql';
	give($case, sprintf("{\"id\": $id, \"v\": 6}", 'b'), map { { key => sprintf("{\"id\": $id}", $_), value => undef } } qw(c z));
}
for my $name (map { ("${_}_index", "${_}_sql") } sort keys %equality)
{
	my (undef, undef, $rows, $dead) = @{ $equality{ $name =~ s/_.*//r } };

	settled($name);
	is(sql("SELECT string_agg(format('%s|%s', translate(id::text, '{}', ''), v), ' ' ORDER BY id::text COLLATE \"C\") FROM $name"),
		$rows, "$name: equal keys are those of the index");
	is(sql("SELECT string_agg(kafka_offset || ' ' || sqlstate, ' ' ORDER BY kafka_offset) FROM kappa.dead_letters WHERE name = '$name'"),
		$dead // '', "$name: dead letters");
	sql("SELECT kappa.disable('$name')");
}

# Rows of a table that inherits are not the target's
{
	topic('parent');
	give('parent', '{"id": 1, "v": 2}', map { { key => $_, value => undef } } 1, 2);
	for my $name ('parent_index', 'parent_sql')
	{
		sql("CREATE TABLE $name (id integer PRIMARY KEY, v integer); CREATE TABLE ${name}_child () INHERITS ($name);
			INSERT INTO $name SELECT n, 0 FROM generate_series(1, 3) n; INSERT INTO ${name}_child SELECT n, 0 FROM generate_series(1, 3) n");
		sql("CREATE TRIGGER nothing AFTER INSERT ON $name FOR EACH STATEMENT EXECUTE FUNCTION nothing()") if $name =~ /sql/;
		subscribe($name, topic => "'parent'", mode => "'upsert'");
	}
	for my $name ('parent_index', 'parent_sql')
	{
		settled($name);
		is(sql("SELECT string_agg(id::text, ' '), (SELECT count(*) FROM ${name}_child WHERE v = 0) FROM ONLY $name"), '3|3',
			"$name: upsert leaves a child's rows alone");
		sql("SELECT kappa.disable('$name')");
	}
}

# Deletes that are published need an identity of the row, by either way
{
	topic('published');
	give('published', { key => 1, value => undef });
	for my $name ('published_index', 'published_sql')
	{
		sql("CREATE TABLE $name (id integer PRIMARY KEY, v integer); ALTER TABLE $name REPLICA IDENTITY NOTHING;
			CREATE PUBLICATION $name FOR TABLE $name WITH (publish = 'delete'); INSERT INTO $name VALUES (1), (2)");
		sql("CREATE TRIGGER nothing AFTER INSERT ON $name FOR EACH STATEMENT EXECUTE FUNCTION nothing()") if $name =~ /sql/;
		subscribe($name, topic => "'published'", mode => "'upsert'");
	}
	for my $name ('published_index', 'published_sql')
	{
		ok(poll_until(20, sub { sql("SELECT reason FROM kappa.subscriptions WHERE name = '$name'") =~ /replica identity/ }),
			"$name: a tombstone waits for a replica identity");
		is(sql("ALTER TABLE $name REPLICA IDENTITY DEFAULT; SELECT string_agg(id::text, ' ' ORDER BY id) FROM $name"), '1 2', 'and has deleted nothing');
		sql("SELECT kappa.enable('$name')");
		settled($name);
		is(sql("SELECT id FROM $name"), '2', 'it deletes once there is one');
		sql("SELECT kappa.disable('$name')");
	}
}

# Another session is faster with a key that two indexes have: each of them only says so, no row
# is an error.  The constraint holds the worker up between its look and its insert.
{
	my ($out, $err) = ('', '');

	sql(q{CREATE TABLE faster (id integer PRIMARY KEY, v integer); CREATE UNIQUE INDEX ON faster (id DESC); CREATE SEQUENCE checks;
		CREATE FUNCTION hold(n integer) RETURNS boolean LANGUAGE plpgsql AS
			$$ BEGIN PERFORM nextval('public.checks'), pg_advisory_xact_lock_shared(77); RETURN true; END $$;
		ALTER TABLE faster ADD CHECK (hold(id))});
	my $other = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=1', '-c',
		q{DO $$ BEGIN PERFORM pg_advisory_lock(77);
			WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted) AND clock_timestamp() < now() + '60 s' LOOP
				PERFORM pg_sleep(0.01); END LOOP;
			INSERT INTO faster VALUES (1, -1); COMMIT; PERFORM pg_advisory_unlock(77); END $$} ], '>', \$out, '2>', \$err);
	poll_until(60, sub { sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77") }) or die 'no lock';
	consume('faster', [ '{"id": 1, "v": 1}' ], mode => "'upsert'");
	ok(IPC::Run::finish($other), 'another session is faster') or diag($err);
	is(sql('SELECT v, last_value FROM faster, checks'), '1|3', 'one insert given up, one update: the batch was not tried again with care');
}

# Where updates change nothing of an index, it clears away old versions; no others try to
{
	sql('CREATE EXTENSION pg_walinspect; CREATE TABLE churn (id integer PRIMARY KEY, a integer, b integer); CREATE INDEX churn_a ON churn (a);
		CREATE INDEX churn_b ON churn (b); ALTER TABLE churn SET (autovacuum_enabled = off)');
	topic('churn');
	subscribe('churn', mode => "'upsert'");
	my $start = sql('SELECT pg_current_wal_insert_lsn()');
	for my $round (1 .. 6)
	{
		give('churn', map { sprintf '{"id": %d, "a": %d, "b": %d}', $_, ($_ * 7919 + $round * 104729) % 100000, $_ % 100 } 1 .. 1500);
		settled('churn');
	}
	is(sql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class c WHERE relname IN ('churn_a', 'churn_b', 'churn_pkey') AND EXISTS
			(SELECT FROM pg_get_wal_records_info('$start', pg_current_wal_flush_lsn()) WHERE resource_manager = 'Btree' AND record_type = 'DELETE'
			AND block_ref LIKE '%/' || pg_relation_filenode(c.oid) || ' %')"),
		'churn_b churn_pkey', 'old versions are cleared away in the indexes that do not change');
	sql("SELECT kappa.disable('churn')");
}

# A constraint's own code writes a key that the batch has too: the row is at fault, not the server
{
	sql(q{CREATE TABLE planted (id integer PRIMARY KEY, v text);
		CREATE FUNCTION plant(n integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
			IF n = 1 AND NOT EXISTS (SELECT FROM public.planted WHERE id = 2) THEN INSERT INTO public.planted VALUES (2, 'planted'); END IF;
			RETURN true; END $$;
		ALTER TABLE planted ADD CHECK (plant(id))});
	consume('planted', [ '{"id": 1, "v": "a"}', '{"id": 2, "v": "b"}' ], mode => "'upsert'");
	is(sql('SELECT id, v FROM planted ORDER BY id'), "1|a\n2|b", 'a constraint that writes a key of the batch');
	is_balanced('planted', stored => 2);
}

# A row that moves between the look into the index and the look into the table is deleted all
# the same.  (A build with FAULTS=1: fault.h)
sub fault
{
	my ($fault) = @_;

	$node->adjust_conf('postgresql.conf', 'kappa.fault', "'$fault'");
	$node->reload;
	poll_until(60, sub { sql("SELECT '<' || current_setting('kappa.fault') || '>'") eq "<$fault>" }) or die 'the setting does not come';
}

SKIP:
{
	skip('built without FAULTS=1', 1) if sql("SELECT count(*) FROM pg_settings WHERE name = 'kappa.fault'") eq '0';
	sql('CREATE TABLE moves (id integer PRIMARY KEY, v integer); CREATE INDEX ON moves (v); INSERT INTO moves VALUES (1, 0), (2, 0)');
	topic('moves');
	fault('before_heap:stop');
	subscribe('moves', mode => "'upsert'");
	give('moves', { key => 1, value => undef }, { key => 3, value => undef });
	my $pid;
	ok( poll_until(60, sub { $pid = sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pg_kappa moves %'");
		$pid && slurp_file("/proc/$pid/stat") =~ /\) T / }), 'the worker stands between index and table');
	sql('UPDATE moves SET v = 1');
	kill 'CONT', $pid;
	settled('moves');
	is(sql('SELECT * FROM moves'), '2|1', 'a tombstone finds the row that has just moved');
	fault('');
	sql("SELECT kappa.disable('moves')");
}

# ---------------------------------------------------------------- append: duplicates in a batch and across

for my $batch (7, 50_000)
{
	my $name = "once_$batch";

	sql("CREATE TABLE $name (id integer UNIQUE, t text, m integer, kafka_offset bigint);
		CREATE UNIQUE INDEX ON $name (t DESC, m); CREATE INDEX ON $name (m)");
	topic($name);
	give($name, map { my $id = 1 + pick(400); "{\"id\": $id, \"t\": \"t$id\", \"m\": " . pick(3) . '}' } 1 .. 800);
	subscribe($name, batch_rows => $batch);
	settled($name);
	is( sql("SELECT count(*) FROM $name, kappa.dead_letters d WHERE d.name = '$name' AND d.kafka_offset < $name.kafka_offset
			AND convert_from(d.value, 'UTF8')::jsonb->>'id' = $name.id::text"), 0, "$name: the first one of a key is stored");
	is( sql("SELECT count(*) FILTER (WHERE sqlstate <> '23505'), count(*) + (SELECT count(*) FROM $name) FROM kappa.dead_letters WHERE name = '$name'"),
		'0|800', "$name: the rest are dead letters");
	is_sound($name);
}

# Leaves with indexes, more of them in a batch than groups that stand open
{
	sql("CREATE TABLE leaves (id integer, k integer, PRIMARY KEY (k, id)) PARTITION BY LIST (k); CREATE INDEX ON leaves (id DESC)");
	sql("CREATE TABLE leaves_$_ PARTITION OF leaves FOR VALUES IN ($_)") for 0 .. 44;
	topic('leaves');
	give('leaves', map { "{\"id\": $_, \"k\": " . pick(45) . '}' } 1 .. 3000);
	subscribe('leaves');
	settled('leaves');
	is(sql('SELECT count(*), count(DISTINCT id) FROM leaves'), '3000|3000', '45 partitions: all rows');
	is_sound("leaves_$_") for 0, 22, 44;
}

# ---------------------------------------------------------------- run in a transaction with one snapshot

{
	sql('CREATE TABLE snap (id integer PRIMARY KEY, v text)');
	topic('snap');
	give('snap', map { "{\"id\": " . ($_ % 10) . ", \"v\": \"$_\"}" } 1 .. 100);
	subscribe('snap', mode => "'upsert'", enabled => 'false');
	is(sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.run('snap'); SELECT string_agg(v, ' ' ORDER BY id) FROM snap; COMMIT"),
		"100\n100 91 92 93 94 95 96 97 98 99", 'kappa.run in REPEATABLE READ');
}

# ---------------------------------------------------------------- others beside the worker

{
	my $nkeys = 60;
	my @others;

	sql('CREATE TABLE shared (id integer PRIMARY KEY, n integer, who text); CREATE INDEX ON shared (n)');
	topic('shared', 2);
	subscribe('shared', mode => "'upsert'", workers => 2, batch_rows => 40);
	for my $session (1 .. 3)
	{
		my ($out, $err) = ('', '');
		my $body = "DECLARE k int; BEGIN PERFORM setseed(0.$session$seed); FOR i IN 1 .. 1500 LOOP k := 1 + floor(random() * $nkeys);
			BEGIN
				CASE floor(random() * 5) WHEN 0 THEN UPDATE shared SET n = -1, who = 'user' WHERE id = k;
				WHEN 1 THEN DELETE FROM shared WHERE id = k;
				WHEN 2 THEN INSERT INTO shared VALUES (k, -2, 'user') ON CONFLICT DO NOTHING;
				WHEN 3 THEN PERFORM FROM shared WHERE id = k FOR UPDATE;
				ELSE UPDATE shared SET n = n + 1 WHERE id = k; RAISE division_by_zero; END CASE;
			EXCEPTION WHEN division_by_zero THEN NULL; END;
			COMMIT; END LOOP; END";

		push @others, [ IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=1',
			'-c', "DO \$\$ $body \$\$" ], '>', \$out, '2>', \$err), \$err ];
	}
	for my $round (1 .. 20)
	{
		give_to('shared', $_, map { my $id = 1 + pick($nkeys); "{\"id\": $id, \"n\": $round, \"who\": \"worker\"}" } 1 .. 100) for 0, 1;
	}
	my $failed = grep { !IPC::Run::finish($_->[0]) } @others;
	is(join('', map { ${ $_->[1] } } @others), '', 'three sessions change, delete, insert and lock the same rows');
	# now nobody else: the last message of each key
	give_to('shared', $_ % 2, "{\"id\": $_, \"n\": $_, \"who\": \"last\"}") for 1 .. $nkeys;
	settled('shared');
	is(sql("SELECT count(*), count(*) FILTER (WHERE n = id AND who = 'last') FROM shared"), "$nkeys|$nkeys", 'the last message of each key stands');
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'shared'"), 0, 'and no message was blamed');
	is_balanced('shared', stored => 20 * 200 + $nkeys);
	is_sound('shared');
	note('deadlocks: ' . sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"));
}

finish();
