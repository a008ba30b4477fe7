# What kappa says of vacuum, against what the server then does: the forecast against
# the live autovacuum and against the numbers that it logs while it decides, freeze
# limits by using up transaction ids, blockers by ending them, the visibility map and
# the versions of rows against pg_visibility and VACUUM.
#
# That autovacuum does not come is proved by its coming for another table, twice, in
# passes over the same database that began later; one worker makes one pass at a time.
# No broker, and the library is not preloaded.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = kappa_node('vacuum', "shared_preload_libraries = ''", 'fsync = off', 'autovacuum = off', 'autovacuum_naptime = 1s', 'autovacuum_max_workers = 1', 'autovacuum_analyze_threshold = 1000000',
	'autovacuum_vacuum_cost_delay = 0', 'log_autovacuum_min_duration = 0', 'wal_level = logical', 'max_wal_senders = 4',
	'max_replication_slots = 4', 'max_prepared_transactions = 2');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub becomes
{
	my ($query, $wanted, $name) = @_;
	my $got = '';

	poll_until(60, sub { ($got = sql($query)) eq $wanted });
	is($got, $wanted, $name);
}

# Switch settings, and with autovacuum wait until its last process is gone, or its launcher there.
sub settings
{
	my (%set) = @_;

	sql(join '', map { "ALTER SYSTEM SET $_ = '$set{$_}';" } sort keys %set);
	$node->reload;
	return unless $set{autovacuum};
	poll_until(60, sub {
		sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'") eq '0' }) or die 'autovacuum goes on'
	  if $set{autovacuum} eq 'off';
}

# Two more passes of autovacuum over the database have begun and ended
sub passes
{
	for (1 .. 2)
	{
		my $before = sql("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'sentinel'");

		sql('DELETE FROM sentinel WHERE ctid = (SELECT min(ctid) FROM sentinel)');
		poll_until(60, sub {
			sql("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'sentinel'") > $before })
		  or die 'autovacuum does not come';
	}
}

# Columns of the forecast, for one table (a row of values, as psql -A prints them)
sub forecast { return sql("SELECT $_[1] FROM kappa.vacuum_forecast WHERE rel = $_[0]"); }

seed();

# ------------------------------------------------------------ the trigger, to the row

# name => [ options, what is counted, how many rows are one too few (by the documented formula,
# 1,000 rows in the table) ].  One row in a TOAST table is one value.
my %cases = (
	dead_default => [ '', 'dead', 50 + 0.2 * 1000 ],
	dead_options => [ 'autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0.01', 'dead', 20 ],
	dead_no_scale => [ 'autovacuum_vacuum_threshold = 7, autovacuum_vacuum_scale_factor = 0', 'dead', 7 ],
	'Odd name' => [ 'autovacuum_vacuum_threshold = 11, autovacuum_vacuum_scale_factor = 0', 'dead', 11 ],
	ins_default => [ '', 'ins', 1000 + 0.2 * 1000 ],
	ins_options => [ 'autovacuum_vacuum_insert_threshold = 5, autovacuum_vacuum_insert_scale_factor = 0.001', 'ins', 6 ],
	analyze_options => [ 'autovacuum_analyze_threshold = 10, autovacuum_analyze_scale_factor = 0.05', 'mods', 60 ],
	toast_default => [ '', 'toast', 50 + 0.2 * 1000 ],
	toast_own => [ 'toast.autovacuum_vacuum_threshold = 8, toast.autovacuum_vacuum_scale_factor = 0', 'toast', 8 ],
	toast_inherits => [ 'autovacuum_vacuum_threshold = 6, autovacuum_vacuum_scale_factor = 0', 'toast', 6 ],
	# never
	disabled => [ 'autovacuum_enabled = off', 'dead', 600 ],
	ins_off => [ 'autovacuum_vacuum_insert_threshold = -1', 'ins', 3000 ]);
my %never = (disabled => 1, ins_off => 1);
my @names = sort keys %cases;

# As a literal of type regclass, and the relation whose counters are meant
sub rel { return "'\"$_[0]\"'::regclass"; }
sub counted { return $cases{ $_[0] }[1] eq 'toast' ? '(SELECT reltoastrelid FROM pg_class WHERE oid = ' . rel($_[0]) . ')' : rel($_[0]); }

# Tables with random options and random work: nothing is expected of them but that we agree with the server
my @random = map { "random_$_" } 1 .. ($ENV{KAPPA_LONG} ? 200 : 30);

sub random_options
{
	my %option = (vacuum_threshold => 200, vacuum_scale_factor => 1, vacuum_insert_threshold => 400, vacuum_insert_scale_factor => 1,
		analyze_threshold => 300, analyze_scale_factor => 1);
	my @set;

	for my $name (sort keys %option)
	{
		push @set, "autovacuum_$name = " . ($option{$name} == 1 ? pick(1000) / 1777 : pick($option{$name})) if pick(2);
	}
	push @set, 'autovacuum_enabled = off' if pick(6) == 0;
	return @set ? 'WITH (' . join(', ', @set) . ')' : '';
}

sub make_tables
{
	my @make = ('CREATE TABLE sentinel (id int) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)',
		'INSERT INTO sentinel SELECT generate_series(1, 100)');

	for my $name (@names)
	{
		my $table = qq("$name");
		my $with = $cases{$name}[0] ? "WITH ($cases{$name}[0])" : '';

		if ($cases{$name}[1] eq 'toast')
		{
			# each value is one chunk: too wide a row, and at most TOAST_MAX_CHUNK_SIZE
			push @make, "CREATE TABLE $table (id int, pad char(200), v text) $with",
			  "ALTER TABLE $table ALTER pad SET STORAGE PLAIN, ALTER v SET STORAGE EXTERNAL",
			  "INSERT INTO $table SELECT g, 'x', repeat('v', 1900) FROM generate_series(1, 1000) g";
		}
		else
		{
			push @make, "CREATE TABLE $table (id int, v text) $with", "INSERT INTO $table SELECT g, 'x' FROM generate_series(1, 1000) g";
		}
	}
	for my $name (@random)
	{
		push @make, "CREATE TABLE $name (id int) " . random_options(), "INSERT INTO $name SELECT generate_series(1, 10 + " . pick(900) . ')';
	}
	sql(join ';', @make);
	# in a session of its own: rows inserted before a VACUUM of the same session count after it
	sql(join '', map { qq(VACUUM (ANALYZE) "$_";) } @names, @random, 'sentinel');
}

# So many rows more of what the case counts; rows from one place on, for nothing scans pages
# that have dead rows and would tidy them up on its way
my %done;

sub work
{
	my ($name, $rows) = @_;
	my $from = $done{$name} // 0;
	my $table = qq("$name");

	$done{$name} = $from + $rows;
	return "INSERT INTO $table (id) SELECT generate_series(1, $rows);" if $cases{$name}[1] =~ /ins|mods/;
	return "DELETE FROM $table WHERE ctid = ANY (ARRAY(SELECT place FROM place_of WHERE name = '$name' AND n > $from AND n <= $from + $rows));";
}

make_tables();
sql('CREATE TABLE place_of (name text, n int, place tid) WITH (autovacuum_enabled = off)');
sql(join '', map { qq(INSERT INTO place_of SELECT '$_', id, ctid FROM "$_";) } @names);

# As many as may be
sql(join '', map { work($_, $cases{$_}[2]) } @names);
for my $name (@names)
{
	my ($counter, $n) = @{ $cases{$name} }[1, 2];
	my ($column, $threshold) = $counter eq 'ins' ? ('ins', 'ins_threshold') : $counter eq 'mods' ? ('mods', 'analyze_threshold') : ('dead', 'dead_threshold');
	my $wanted = $never{$name} ? $name eq 'disabled' ? '250' : '' : $n;

	is(forecast(counted($name), "$column, $threshold, due, do_vacuum, do_analyze"), "$n|$wanted|f|f|f", "$name: $n is not more than $n");
}
settings(autovacuum => 'on');
passes();

sub came
{
	return sql(join ' UNION ALL ', map {
			my $function = $cases{$_}[1] eq 'mods' ? 'autoanalyze' : 'autovacuum';
			"SELECT '" . $_ . "' || ' ' || pg_stat_get_${function}_count(" . counted($_) . ')' } @_);
}

is(came(@names), join("\n", map { "$_ 0" } @names), 'at the threshold autovacuum does not come');

# One more; while autovacuum is off, so that the forecast can be read at leisure
settings(autovacuum => 'off');
is(came(@names), join("\n", map { "$_ 0" } @names), 'nor has it come since');
sql(join '', map { work($_, 1) } @names);
my @due = grep { !$never{$_} } @names;
for my $name (@due)
{
	my $what = $cases{$name}[1] eq 'mods' ? 'ANALYZE' : 'VACUUM';

	like(forecast(counted($name), 'due, do_vacuum OR do_analyze, severity, reason, advice'),
		qr/^t\|f\|warn\|Autovacuum is off.* are more than $cases{$name}[2]; .*\|$what .*; ALTER SYSTEM SET autovacuum = on;/,
		"$name: due with one more, but autovacuum is off");
}
like(forecast("'disabled'::regclass", 'due, do_vacuum, severity, reason, advice'),
	qr/^f\|f\|warn\|Autovacuum is disabled for this table .* 601 dead rows are more than 250.*\|VACUUM public.disabled; ALTER TABLE public.disabled RESET \(autovacuum_enabled\);$/,
	'a disabled table is not due, but a finding');
is(forecast("'ins_off'::regclass", "ins, ins_threshold, vacuum_insert_score, due"), '3001||0|f', 'insert threshold -1 is off');

# ------------------------------------------------------------ the server's own numbers

sql(join '', map { my $n = pick(400); my $m = pick(500);
		"DELETE FROM $_ WHERE id <= $n; INSERT INTO $_ SELECT generate_series(1, $m);" } @random);
my @ours = split /\n/, sql("SELECT concat_ws('|', c.relname, f.dead, round(f.dead_threshold), f.ins, COALESCE(round(f.ins_threshold)::text, 'disabled'),
		COALESCE(f.mods, f.dead * 0), COALESCE(round(f.analyze_threshold), -1),
		f.vacuum_score > 1 OR f.vacuum_insert_score > 1, f.analyze_score > 1)
	FROM kappa.vacuum_forecast f JOIN pg_class c ON c.oid = f.rel
	WHERE f.dead IS NOT NULL AND c.oid >= 16384 AND c.relname ~ '^(random|dead|ins|toast|analyze|pg_toast_|Odd)' ORDER BY c.relname");
my %predicted = map { split /\|/, $_ } split /\n/, sql("SELECT c.relname, f.due AND (f.vacuum_score > 1 OR f.vacuum_insert_score > 1), f.due AND f.analyze_score > 1
	FROM kappa.vacuum_forecast f JOIN pg_class c ON c.oid = f.rel WHERE c.relname LIKE 'random%'") =~ s/\|([tf])\|([tf])/|$1$2/gr;
my @queue = split /\n/, sql("SELECT n.nspname || '.' || c.relname FROM kappa.vacuum_forecast f JOIN pg_class c ON c.oid = f.rel
	JOIN pg_namespace n ON n.oid = c.relnamespace WHERE f.due ORDER BY f.queue_pos");
my $log = -s $node->logfile;

settings(log_min_messages => 'debug3', autovacuum => 'on');
# the first line of each table was written before the first vacuum of the pass (a disabled table has none)
poll_until(60, sub { slurp_file($node->logfile, $log) =~ /DEBUG:  dead_default: vac: .*DEBUG:  pg_toast_\d+: vac: /s }) or die 'no pass';
becomes("SELECT min(autovacuum_count + autoanalyze_count) FROM pg_stat_user_tables WHERE relname = 'dead_default'", '1', 'it comes');
settings(log_min_messages => 'info');
my %server;
for my $line (split /\n/, slurp_file($node->logfile, $log))
{
	next unless $line =~ /DEBUG:  (.+): vac: (\d+) \(threshold (\d+)\), ins: (?:(\d+) \(threshold (\d+)\)|\(disabled\)), anl: (\d+) \(threshold (\d+)\)/;
	$server{$1} //= join '|', $2, $3, $4 // '*', $5 // 'disabled', $6, $7;
}
my $compared = 0;
for my $line (@ours)
{
	my ($name, $dead, $dead_threshold, $ins, $ins_threshold, $mods, $analyze_threshold) = split /\|/, $line;
	my $theirs = $server{$name};

	next if !$theirs && $name =~ /^pg_toast_/;
	$theirs //= 'nothing';
	$ins = '*' if $ins_threshold eq 'disabled';
	# of TOAST the server computes an analyze that it then leaves out; a disabled table it does not compute
	$theirs =~ s/\|\d+\|\d+$/|0|-1/ if $name =~ /^pg_toast_/;
	next if $theirs eq 'nothing' && sql("SELECT reloptions::text FROM pg_class WHERE relname = '$name'") =~ /enabled=off/;
	$compared++;
	is("$dead|$dead_threshold|$ins|$ins_threshold|$mods|$analyze_threshold", $theirs, "$name: the numbers that autovacuum logs");
}
cmp_ok($compared, '>', 30, "$compared tables compared with the server's log");

becomes('SELECT count(*) FROM (' . join(' UNION ALL ', map {
			my $function = $cases{$_}[1] eq 'mods' ? 'autoanalyze' : 'autovacuum';
			"SELECT pg_stat_get_${function}_count(" . counted($_) . ') AS n' } @due) . ') c WHERE n > 0', scalar(@due), 'with one more autovacuum comes');
passes();
my (%nth, @order) = map { $_ => 1 } @queue;
for my $name (slurp_file($node->logfile, $log) =~ /automatic (?:vacuum|analyze) of table "postgres\.([^"]+)"/g)
{
	push @order, $name if delete $nth{$name};
}
is_deeply(\@order, \@queue, 'it takes them in the order of queue_pos: ' . @queue . ' tables');
is(came('disabled', 'ins_off'), "disabled 0\nins_off 0", 'for what is disabled it does not');
my %did = map { split /\|/, $_ } split /\n/, sql("SELECT relname || '|' || left((autovacuum_count > 0)::text, 1) || left((autoanalyze_count > 0)::text, 1)
	FROM pg_stat_user_tables WHERE relname LIKE 'random%'");
# what it did changed the numbers of those, so it may have come again for the other reason
for my $name (grep { ($did{$_} // '') ne $predicted{$_} && $predicted{$_} ne 'ff' } keys %predicted)
{
	$did{$name} = $predicted{$name} unless grep { substr($predicted{$name}, $_, 1) eq 't' && substr($did{$name}, $_, 1) eq 'f' } 0, 1;
}
is_deeply(\%did, \%predicted, 'tables of random options: it came for those that were due, and for no other');
note(scalar(grep { $predicted{$_} =~ /^t/ } @random) . ' to vacuum, ' . scalar(grep { $predicted{$_} =~ /t$/ } @random) . ' to analyze, of ' . @random);

sql(forecast("'disabled'::regclass", 'advice') =~ s/VACUUM [^;]+;//r);
becomes("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'disabled'", '1', 'enabled by the advice, it comes');

is(sql("CREATE TABLE parted (id int) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
		INSERT INTO parted SELECT generate_series(0, 999);"), '', 'a partitioned table');
sql('ANALYZE parted_1');
is(forecast("'parted'::regclass", 'severity, dead, due, advice'), 'info||f|ANALYZE public.parted;', 'of the parent nobody knows anything');
sql(forecast("'parted'::regclass", 'advice'));
is(forecast("'parted'::regclass", 'severity, advice'), 'ok|', 'until it is analyzed by hand');
is(sql("SELECT severity, dead, reason LIKE 'unknown: no statistics entry%' FROM kappa.vacuum_forecast WHERE rel = 'pg_largeobject'::regclass"),
	'unknown||t', 'without a statistics entry it is unknown');

# ------------------------------------------------------------ freezing

sub burn
{
	my ($n) = @_;
	sql("SET synchronous_commit = off; DO \$\$ BEGIN FOR i IN 1 .. $n LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END \$\$");
}

sub freeze { return sql("SELECT $_[1] FROM kappa.freeze_status WHERE rel = '$_[0]'::regclass"); }

sql("CREATE TABLE forced (id int) WITH (autovacuum_freeze_max_age = 100000, autovacuum_freeze_min_age = 0, autovacuum_freeze_table_age = 0);
	CREATE TABLE trapped (id int) WITH (autovacuum_freeze_max_age = 100000);
	INSERT INTO forced VALUES (1); INSERT INTO trapped VALUES (1)");
is(freeze('trapped', 'freeze_max_age, forced, loop_trap, severity'), '100000|f|t|info', 'a trap is seen before it shuts');
burn(100000 - 100 - freeze('trapped', 'age'));
is(freeze('forced', 'forced, loop_trap, severity'), 'f|f|ok', 'not forced below the limit');
passes();
is(sql("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'forced'"), 0, 'and no vacuum comes');
$log = -s $node->logfile;
settings(autovacuum => 'off');
burn(200);
# even where autovacuum is off the server starts a worker for a database in danger; this one is not
is(freeze('forced', 'aggressive') . freeze('trapped', 'aggressive'), 'tf', 'in the trap a vacuum would not be aggressive');
is(freeze('forced', 'forced, severity') . ' ' . forecast("'forced'::regclass", 'do_vacuum, for_wraparound, xid_score > 1'), 't|info t|t|t', 'above the limit it is forced');
settings(autovacuum => 'on');
becomes("SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'forced'", 't', 'and a vacuum comes');
is(freeze('forced', 'forced, age < 1000'), 'f|t', 'which lowers the age');
ok(poll_until(30, sub { slurp_file($node->logfile, $log) =~ /automatic aggressive vacuum to prevent wraparound of table "postgres\.public\.forced"/ }),
	'aggressive and to prevent wraparound, the server says');

becomes("SELECT autovacuum_count > 2 FROM pg_stat_user_tables WHERE relname = 'trapped'", 't', 'in the trap vacuum comes again and again');
like(slurp_file($node->logfile, $log), qr/automatic vacuum to prevent wraparound of table "postgres\.public\.trapped"/, 'and is not aggressive');
like(freeze('trapped', 'forced, loop_trap, age > 100000, severity, reason'),
	qr/^t\|t\|t\|warn\|Endless vacuum: at age \d+ \(limit 100000\) .* freezes only rows older than 50000000/, 'and the age does not fall');
my $advice = freeze('trapped', 'advice');
like($advice, qr/^ALTER TABLE public\.trapped SET \(autovacuum_freeze_min_age = 50000, autovacuum_freeze_table_age = 95000\);$/, 'the advice');
sql($advice);
becomes("SELECT forced, loop_trap, age < 50001, severity FROM kappa.freeze_status WHERE rel = 'trapped'::regclass", 'f|f|t|ok', 'ends it');
my $runs = sql("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'trapped'");
passes();
is(sql("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'trapped'"), $runs, 'and no vacuum comes any more');

# the other kinds of trap: of multixacts, of a TOAST table with options of its own, of one without
sql("CREATE TABLE mtrap (id int) WITH (autovacuum_multixact_freeze_max_age = 10000);
	CREATE TABLE \"Toast Trap\" (v text) WITH (toast.autovacuum_freeze_max_age = 100000);
	CREATE TABLE heir (v text) WITH (autovacuum_freeze_max_age = 100000)");
my $trapped = "SELECT count(*) FROM kappa.freeze_status WHERE loop_trap";
is(sql($trapped), 4, 'multixacts, TOAST, and TOAST that inherits');
like(sql("SELECT advice FROM kappa.freeze_status WHERE rel = (SELECT reltoastrelid FROM pg_class WHERE relname = 'Toast Trap')"),
	qr/^ALTER TABLE public\."Toast Trap" SET \(toast\.autovacuum_freeze_min_age = 50000, toast\./, "a TOAST table's option is its main table's");
sql(sql("SELECT string_agg(DISTINCT advice, ' ') FROM kappa.freeze_status WHERE loop_trap"));
is(sql($trapped), 0, 'the advice ends them all');

# multixacts: two who lock a row at once are one
sql("CREATE TABLE locked (id int); INSERT INTO locked VALUES (1);
	CREATE TABLE mforced (id int) WITH (autovacuum_multixact_freeze_max_age = 10000, autovacuum_multixact_freeze_min_age = 0, autovacuum_multixact_freeze_table_age = 0)");
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; SELECT FROM locked FOR SHARE');
sub burn_multixacts
{
	my ($n) = @_;
	sql("SET synchronous_commit = off; DO \$\$ BEGIN FOR i IN 1 .. $n LOOP PERFORM FROM locked FOR SHARE; COMMIT; END LOOP; END \$\$");
}
burn_multixacts(10000 - 5);
is(freeze('mforced', 'forced, mxid_age BETWEEN 9990 AND 10000'), 'f|t', 'multixacts below the limit');
burn_multixacts(10);
$locker->quit;
becomes("SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'mforced'", 't', 'above the limit a vacuum comes');
is(freeze('mforced', 'forced, mxid_age < 1000'), 'f|t', 'which lowers the multixact age');

my $own = sql("SELECT f.age - age(d.datfrozenxid), f.stop_in + f.age FROM kappa.freeze_status f JOIN pg_database d ON d.datname = f.database
	WHERE f.kind = 'database' AND f.database = 'postgres'");
is($own, '0|2144483647', 'the database: its age, and 2^31 - 3,000,001 to the stop');
is(sql("SELECT count(*) FROM kappa.freeze_status f JOIN pg_class c ON c.oid = f.rel WHERE f.age <> age(c.relfrozenxid) OR f.mxid_age <> mxid_age(c.relminmxid)"),
	0, 'ages are those of age() and mxid_age()');

# ------------------------------------------------------------ blockers, versions

settings(autovacuum => 'off');
is(sql('SELECT count(*) FROM kappa.vacuum_blockers'), 0, 'nobody holds anything');
sql('CREATE TABLE held (id int, v int); INSERT INTO held VALUES (1, 0)');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $pid = $holder->query_safe('SELECT pg_backend_pid() FROM held');

sql('UPDATE held SET v = v + 1') for 1 .. 3;
is(sql("SELECT count(*), count(*) FILTER (WHERE state = 'live'), min(chain_len), max(chain_len) FROM kappa.mvcc_versions('held', 0) WHERE xmin IS NOT NULL"),
	'4|1|4|4', 'three updates under a snapshot: a chain of four versions');
sql('CREATE EXTENSION pageinspect');
is(sql("SELECT count(*) FROM kappa.mvcc_versions('held', 0) v FULL JOIN heap_page_items(get_raw_page('held', 0)) p ON p.lp = v.lp
		WHERE (v.xmin, v.xmax, v.ctid) IS DISTINCT FROM (p.t_xmin, NULLIF(p.t_xmax, '0'::xid), p.t_ctid)"), 0, 'as pageinspect has them');
sql('VACUUM held');
like(sql("SELECT string_agg(DISTINCT reason, ';') FROM kappa.mvcc_versions('held', 0) WHERE state = 'recently dead'"),
	qr/^Dead since transaction \d+, kept: Session $pid of /, 'a dead version names who keeps it');

sql("CREATE TABLE left_over (id int); INSERT INTO left_over SELECT generate_series(1, 600)");
$holder->query_safe('COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
sql('DELETE FROM left_over');
sql('VACUUM left_over');
is(sql("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'left_over'"), 600, 'VACUUM leaves 600 dead rows');
my $row = sql("SELECT kind, pid, scope, dead_held >= 600, severity, advice FROM kappa.vacuum_blockers");
is($row, "backend|$pid|tables|t|ok|SELECT pg_catalog.pg_terminate_backend($pid);", 'the session that holds them is named');
like(forecast("'left_over'::regclass", 'severity, reason, advice'),
	qr/^(info|warn)\|600 dead rows are more than .*, although vacuum ran at .*: Session $pid .*\|SELECT pg_catalog\.pg_terminate_backend\($pid\);$/, 'the forecast names it');
burn(100001 - freeze('forced', 'age')) if freeze('forced', 'age') < 100001;
burn(100001 - sql('SELECT xmin_age FROM kappa.vacuum_blockers')) if sql('SELECT xmin_age FROM kappa.vacuum_blockers') < 100001;
like(freeze('forced', 'forced, severity, reason, advice'),
	qr/^t\|warn\|.*a vacuum is forced and cannot lower the age\. Session $pid .*\|SELECT pg_catalog\.pg_terminate_backend\($pid\);$/, 'a forced vacuum that it makes useless');
sql('SELECT pg_catalog.pg_terminate_backend(' . $pid . ')');
becomes('SELECT count(*) FROM kappa.vacuum_blockers', 0, 'ended by the advice, it is gone');
eval { $holder->quit };
sql('VACUUM left_over; VACUUM held');
is(sql("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'left_over'"), 0, 'and so are the dead rows');
is(sql("SELECT count(*), max(chain_len) FROM kappa.mvcc_versions('held', 0) WHERE xmin IS NOT NULL"), '1|1', 'one version is left');

# a session that has written and waits has a transaction id and no snapshot
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; INSERT INTO held VALUES (2, 2)");
is(sql("SELECT kind, xmin = (SELECT backend_xid FROM pg_stat_activity a WHERE a.pid = b.pid AND a.backend_xmin IS NULL), severity FROM kappa.vacuum_blockers b"), 'backend|t|ok',
	'a transaction id without a snapshot');
is(sql("SELECT count(*) FROM kappa.mvcc_versions('held', 0) WHERE state = 'insert in progress'"), 1, 'its row is in progress');
burn(5);
is(sql('SELECT xmin_age >= 5 FROM kappa.vacuum_blockers'), 't', 'its age');
$writer->query_safe('ROLLBACK');
$writer->quit;
is(sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM held; SELECT pid = pg_backend_pid() FROM kappa.vacuum_blockers"), "1\nt", 'one can be it oneself');

sql(q(BEGIN; INSERT INTO held VALUES (3, 3); PREPARE TRANSACTION 'it''s "odd"'));
is(sql('SELECT kind, id, pid, scope, advice FROM kappa.vacuum_blockers'),
	q(prepared transaction|it's "odd"||tables|ROLLBACK PREPARED 'it''s "odd"';), 'a prepared transaction');
sql(sql('SELECT advice FROM kappa.vacuum_blockers'));
is(sql('SELECT count(*) FROM kappa.vacuum_blockers'), 0, 'rolled back by the advice, it is gone');

sql("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')");
is(sql("SELECT kind, id, scope, advice LIKE 'SELECT pg_catalog.pg_drop_replication_slot(''forgotten'');%' FROM kappa.vacuum_blockers"),
	'replication slot|forgotten|catalogs|t', 'a slot that keeps rows of the catalogs');
sql(sql('SELECT advice FROM kappa.vacuum_blockers'));
is(sql('SELECT count(*) FROM kappa.vacuum_blockers'), 0, 'dropped by the advice, it is gone');

# ------------------------------------------------------------ the failsafe

# A prepared transaction keeps its lock over a restart: so the vacuum that is forced then waits for us.
sql('CREATE TABLE failing (id int); INSERT INTO failing VALUES (1)');
burn(10000);
sql('CREATE TABLE safe (id int); INSERT INTO safe VALUES (1)');
burn(96000);
sql("BEGIN; LOCK TABLE failing, safe IN SHARE UPDATE EXCLUSIVE MODE; INSERT INTO held VALUES (4, 4); PREPARE TRANSACTION 'wait'");
settings(autovacuum_freeze_max_age => 100000, vacuum_failsafe_age => 0);
$node->restart;
is(sql("SELECT age > 105000, forced, failsafe, severity, advice FROM kappa.freeze_status WHERE rel = 'failing'::regclass"), 't|t|t|critical|VACUUM (FREEZE) public.failing;',
	'5 percent past autovacuum_freeze_max_age is the failsafe');
is(freeze('safe', 'failsafe'), 'f', 'a younger table is not there yet');
cmp_ok(forecast("'failing'::regclass", 'xid_score'), '>', 1.05, 'its score');
$log = -s $node->logfile;
sql("ROLLBACK PREPARED 'wait'");
ok(poll_until(60, sub { slurp_file($node->logfile, $log) =~ /bypassing nonessential maintenance of table "postgres\.public\.failing" as a failsafe/ }), 'vacuum says so too');
unlike(slurp_file($node->logfile, $log), qr/bypassing nonessential maintenance of table "postgres\.public\.safe"/, 'and not of the other');
sql('ALTER SYSTEM RESET autovacuum_freeze_max_age; ALTER SYSTEM RESET vacuum_failsafe_age');
$node->restart;
sql('VACUUM (FREEZE)');

# ------------------------------------------------------------ the visibility map

sql('CREATE EXTENSION pg_visibility');
sql("CREATE TABLE seen (id int PRIMARY KEY, v text); INSERT INTO seen SELECT g, repeat('x', 50) FROM generate_series(1, 20000) g");
sql('VACUUM (FREEZE) seen');
sql('UPDATE seen SET v = v WHERE id <= 9000');
sql('VACUUM seen; UPDATE seen SET v = v WHERE id % 1000 = 0; UPDATE seen SET v = v WHERE id BETWEEN 12000 AND 17000');
sql('SELECT count(*) FROM seen WHERE id < 5');
my $different = sql("SELECT count(*), count(*) FILTER (WHERE (v.all_visible, v.all_frozen) IS DISTINCT FROM (s.all_visible, s.all_frozen))
	FROM kappa.visibility_status v, LATERAL pg_visibility_map_summary(v.rel) s WHERE v.severity <> 'unknown'");
like($different, qr/^\d{2,}\|0$/, "all tables have pg_visibility_map_summary's numbers: $different");
like(sql("SELECT severity, all_visible_pct BETWEEN 1 AND 79, all_frozen > 0, all_frozen < all_visible, advice FROM kappa.visibility_status('seen')"),
	qr/^info\|t\|t\|t\|VACUUM public\.seen;$/, 'little is all-visible of a table that is read by its index');
sql('VACUUM seen');
is(sql("SELECT severity, all_visible = pages, round(all_visible_pct) FROM kappa.visibility_status WHERE rel = 'seen'::regclass"), 'ok|t|100', 'until it is vacuumed');

# what cannot be answered
$holder = $node->background_psql('postgres');
$holder->query_safe('CREATE TEMP TABLE passing (id int); INSERT INTO passing VALUES (1); BEGIN; LOCK TABLE seen; SELECT 1');
my $temp = sql("SELECT oid FROM pg_class WHERE relname = 'passing'");
is(sql("SELECT severity, all_visible, reason FROM kappa.visibility_status('seen')"), 'unknown||unknown: another session holds a lock on it', 'a locked table is not waited for');
is(sql("SELECT severity, lp, reason FROM kappa.mvcc_versions('seen')"), 'unknown||unknown: another session holds a lock on it', 'nor are its versions');
is(sql("SELECT severity, reason FROM kappa.mvcc_versions($temp)"), 'unknown|unknown: it is a temporary table of another session', "another session's table");
is(sql("SELECT severity, reason FROM kappa.visibility_status('parted')"), 'unknown|unknown: it holds no rows itself', 'a partitioned table');
is(sql('SELECT count(*) FROM kappa.mvcc_versions(NULL)'), 0, 'no table, no rows');
$holder->query_safe('ROLLBACK');
$holder->quit;
for my $case ([ "kappa.mvcc_versions('held', 99)", '22023', 'Leave blk out' ], [ "kappa.mvcc_versions('held', -1)", '22023', 'Leave it out' ],
	[ "kappa.mvcc_versions('held', pages => 257)", '22023', 'pages => 256' ])
{
	my (undef, undef, $error) = $node->psql('postgres', "SELECT * FROM $case->[0]", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($error, qr/ERROR:  $case->[1]: .*HINT:  .*$case->[2]/s, $case->[0]);
}

# ------------------------------------------------------------ names, locks, settings

# what a session SETs for itself is not autovacuum's
{
	my $ages = 'SELECT array_agg(s ORDER BY relation) FROM (SELECT relation, freeze_min_age, freeze_table_age, failsafe_age, multixact_freeze_min_age, multixact_freeze_table_age, multixact_failsafe_age
		FROM kappa.autovacuum_state()) s';

	is(sql("SET vacuum_freeze_min_age = 7; SET vacuum_freeze_table_age = 8; SET vacuum_failsafe_age = 2100000000; SET vacuum_multixact_freeze_min_age = 7; SET vacuum_multixact_freeze_table_age = 8;
		SET vacuum_multixact_failsafe_age = 2100000000; $ages"), sql($ages), 'ages are those that autovacuum has, not what this session has SET');
}

# a partition that somebody has locked holds up nothing
sql('CREATE TABLE divided (id int) PARTITION BY RANGE (id); CREATE TABLE divided_1 PARTITION OF divided FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
	CREATE TABLE divided_11 PARTITION OF divided_1 FOR VALUES FROM (0) TO (10); INSERT INTO divided VALUES (1)');
sql('VACUUM divided_11');
{
	my $locker = $node->background_psql('postgres');

	$locker->query_safe('BEGIN; LOCK TABLE divided_11 IN ACCESS EXCLUSIVE MODE');
	is(sql("SET lock_timeout = '100ms'; SELECT severity, advice FROM kappa.vacuum_forecast WHERE rel = 'divided'::regclass"), 'info|ANALYZE public.divided;', 'a locked partition is not waited for');
	$locker->query_safe('ROLLBACK');
	$locker->quit;
}

# a line end in a name does not end a comment
{
	my $name = "two\nSELECT 1/0; --";

	sql(qq{CREATE DATABASE "$name"});
	$node->safe_psql($name, "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'elsewhere'");
	is(sql("SELECT advice FROM kappa.vacuum_blockers WHERE id = 'elsewhere'"), qq{ROLLBACK PREPARED 'elsewhere'; -- in database "two SELECT 1/0; --"}, 'a name of two lines stays in its comment');
	is(sql(q{SELECT count(*), count(*) FILTER (WHERE advice ~ E'\n') FROM kappa.upgrade_check(19) WHERE check_name = 'prepared transactions'}), '1|0', 'also of upgrade_check');
	$node->safe_psql($name, "ROLLBACK PREPARED 'elsewhere'");
	sql(qq{DROP DATABASE "$name"});
}

# ------------------------------------------------------------ rights

my @objects = ('kappa.vacuum_forecast', 'kappa.vacuum_blockers', 'kappa.freeze_status', 'kappa.visibility_status', "kappa.visibility_status('held')", "kappa.mvcc_versions('held')");
sql('CREATE ROLE monitor IN ROLE pg_monitor; CREATE ROLE "No Body"; CREATE ROLE scanner IN ROLE pg_stat_scan_tables');
for my $object (@objects)
{
	my $all = sql("SELECT count(*) FROM $object");
	my (undef, undef, $error) = $node->psql('postgres', "SET ROLE \"No Body\"; SELECT count(*) FROM $object", extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	is(sql("SET ROLE monitor; SELECT count(*) FROM $object"), $all, "$object: to pg_monitor it tells all");
	like($error, qr/ERROR:  42501: .*HINT:  .*GRANT pg_monitor TO "No Body"/s, "$object: who may not is told what to ask for");
}
is(sql("SET ROLE scanner; SELECT count(*) FROM kappa.mvcc_versions('held')"), sql("SELECT count(*) FROM kappa.mvcc_versions('held')"), 'pages are for pg_stat_scan_tables');

# ------------------------------------------------------------ a standby

$node->append_conf('pg_hba.conf', "local replication all trust\n");
$node->reload;
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1s\n");
$standby->start;
my $reader = $standby->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM held');
becomes('SELECT kind, scope, pid IS NOT NULL FROM kappa.vacuum_blockers', 'standby|tables|t', 'a standby that reads');
is($standby->safe_psql('postgres', "SELECT DISTINCT severity, dead_held FROM kappa.vacuum_blockers"), 'unknown|', 'on the standby itself it is unknown what is held');
is($standby->safe_psql('postgres', "SELECT DISTINCT severity, advice FROM kappa.vacuum_forecast WHERE rel = 'held'::regclass"), 'unknown|', 'and the forecast is');
is($standby->safe_psql('postgres', "SELECT all_visible = pages, advice FROM kappa.visibility_status('seen')"), 't|', 'the visibility map is there');
is($standby->safe_psql('postgres', "SELECT count(*) > 100, bool_or(forced) FROM kappa.freeze_status"), 't|f', 'and the ages');
is($standby->safe_psql('postgres', "SELECT count(*) FROM kappa.mvcc_versions('held', 0) WHERE state = 'live'"), '1', 'and versions');
$reader->quit;
$standby->stop('immediate');
$node->stop;
done_testing();
