
# Window views in the life of a database: changes of the subscription and the table below them,
# redrive and run, a held snapshot, dump and restore, two workers under the eyes of a reader.

use strict;
use warnings;

use FormatTest;
use KappaTest qw(seed pick poll_until tool);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WindowTest;

seed();
my $node = start('window_life', 'log_statement = none');
my $w = "kappa.tumble(ts, '1 minute')";

# "SQLSTATE: message HINT: hint"
sub error_of
{
	my ($query) = @_;
	my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$query");

	my ($message) = $err =~ /ERROR:  (.*)/ or return '';
	my ($hint) = $err =~ /HINT:  (.*)/;

	return $message . ($hint ? " HINT: $hint" : '');
}

# ---------------------------------------------------------------- changes of the subscription

stream('base', 1);
sql("ALTER TABLE base ADD COLUMN other timestamptz; CREATE TABLE elsewhere (LIKE base); CREATE UNIQUE INDEX ON base (user_id)");
view('base_1m', "SELECT $w, user_id, count(*) AS n, sum(value) FROM base GROUP BY 1, 2");
for ([ "target => 'elsewhere'", 'target' ], [ "mode => 'upsert', key_columns => '{user_id}'", 'mode' ], [ "event_time => 'other'", 'event_time' ], [ "event_time => ''", 'no event_time' ])
{
	like(error_of("SELECT kappa.alter_subscription('base', $_->[0])"), qr/^55006: .*has window views HINT: .*kappa\.window_views/, "below a view this stays: $_->[1]");
}
like(error_of("SELECT kappa.subscribe('base_too', 'main', 'base', 'base')"), qr/^55006: .*"base" has window views/, 'no other subscription fills the table');
sql("SELECT kappa.alter_subscription('base', watermark_delay => '1 s', workers => 2, batch_rows => 100, event_time => 'ts')");
sql("DROP INDEX base_user_id_idx; ALTER TABLE base RENAME ts TO at");
give('base', map { "{\"user_id\": $_, \"value\": 2, \"at\": \"2026-01-01T00:00:0${_}Z\"}" } 1 .. 5);
like(stopped('base'), qr/"ts"/, 'a renamed event_time column stops the rows');
sql("SELECT kappa.alter_subscription('base', event_time => 'at')");
settled('base');
is(sql('SELECT count(*), sum(n) FROM base_1m'), '5|5', 'named anew, it is the same column');
agrees('base_1m');

# ---------------------------------------------------------------- the table gets what changes rows

stream('guarded', 1);
view('guarded_1m', "SELECT $w, page, count(*) AS n FROM guarded GROUP BY 1, 2");
sql("CREATE TABLE aside (LIKE guarded);
	CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.value > 5 THEN NULL ELSE NEW END; END'");
my $minute = 0;
for (
	[ 'trigger', 'CREATE TRIGGER drops BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION drops()', 'DROP TRIGGER drops ON guarded' ],
	[ 'rule', 'CREATE RULE drops AS ON INSERT TO guarded WHERE NEW.value > 5 DO INSTEAD INSERT INTO aside VALUES (NEW.*)', 'DROP RULE drops ON guarded' ])
{
	my ($what, $make, $drop) = @$_;

	give('guarded', click(sprintf '2026-01-01T00:%02d:00Z', $minute++));
	settled('guarded');
	sql($make);
	give('guarded', map { click(sprintf('2026-01-01T00:%02d:00Z', $minute), value => $_) } 1, 9);
	$minute++;
	settled('guarded');
	like(sql("SELECT reason FROM kappa.window_views WHERE name = 'guarded_1m' AND status = 'stopped'"), qr/rules or BEFORE ROW triggers/, "a $what stops the view");
	like(error_of("SELECT kappa.rebuild('guarded_1m')"), qr/^0A000: .* HINT: /, 'which cannot be rebuilt as long as it is there');
	like(error_of("SELECT kappa.create_window_view('more', \$q\$SELECT $w, count(*) FROM guarded GROUP BY 1\$q\$)"), qr/^0A000/, 'nor another be made');
	sql("$drop; SELECT kappa.rebuild('guarded_1m')");
	give('guarded', click(sprintf('2026-01-01T00:%02d:30Z', $minute), value => 9));
	settled('guarded');
	is(sql('SELECT sum(n) FROM guarded_1m'), sql('SELECT count(*) FROM guarded'), 'mended, it counts again');
	agrees('guarded_1m');
}
is(sql('SELECT count(*) FROM guarded'), 6, 'the rows went on');

sql("CREATE TABLE parted (" . click_columns() . ") PARTITION BY RANGE (ts);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-01 01:00+00');
	CREATE TABLE parted_2 (" . click_columns() . "); CREATE TRIGGER drops BEFORE INSERT ON parted_2 FOR EACH ROW EXECUTE FUNCTION drops()");
stream('parted', 1);
view('parted_1m', "SELECT $w, count(*) AS n FROM parted GROUP BY 1");
give('parted', click('2026-01-01T00:30:00Z'));
settled('parted');
sql("ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES FROM ('2026-01-01 01:00+00') TO ('2026-01-01 02:00+00')");
give('parted', click('2026-01-01T00:30:01Z'));
settled('parted');
is(sql("SELECT status FROM kappa.window_views WHERE name = 'parted_1m'"), 'ok', 'a partition that changes its rows does no harm as long as none comes') or diag(sql('SELECT * FROM kappa.window_views'));
give('parted', click('2026-01-01T01:30:00Z'), click('2026-01-01T01:30:01Z', value => 9), click('2026-01-01T00:31:00Z'));
settled('parted');
like(sql("SELECT reason FROM kappa.window_views WHERE name = 'parted_1m' AND status = 'stopped'"), qr/a partition of the target/, 'then the view stops');
is(sql('SELECT count(*) FROM parted'), 4, 'and the rows go on');
like(error_of("SELECT kappa.rebuild('parted_1m')"), qr/^0A000: /, 'no rebuild before the partition is mended');
sql("DROP TRIGGER drops ON parted_2; SELECT kappa.rebuild('parted_1m')");
give('parted', click('2026-01-01T01:30:02Z', value => 9));
settled('parted');
is(sql('SELECT string_agg(n::text, \' \' ORDER BY window_start) FROM parted_1m'), '2 1 2', 'a rebuild mends it');
agrees('parted_1m');

# ---------------------------------------------------------------- columns that the server computes

sql("CREATE TABLE computed (" . click_columns() . ", twice double precision GENERATED ALWAYS AS (value * 2) STORED)");
sql("CREATE TABLE dimension (page text, number integer); INSERT INTO dimension VALUES ('/a', 1)");
stream('computed', 1);
for ("SELECT $w, sum(twice) FROM computed GROUP BY 1", "SELECT $w, twice, count(*) FROM computed GROUP BY 1, 2", "SELECT $w, count(*) FROM computed WHERE twice > 1 GROUP BY 1",
	"SELECT kappa.tumble(j.ts, '1 minute'), sum(j.twice) FROM (computed JOIN dimension USING (page)) AS j GROUP BY 1",
	"SELECT $w, count(*) FILTER (WHERE EXISTS (SELECT 1 FROM base b WHERE b.value = twice)) FROM computed GROUP BY 1")
{
	like(error_of("SELECT kappa.create_window_view('refused', \$q\$$_\$q\$)"), qr/^0A000: .*generated column of the target HINT: Write/, "refused: $_");
}
like(error_of("SELECT kappa.create_window_view('refused', \$q\$SELECT $w, count(c) FROM computed c GROUP BY 1\$q\$)"), qr/^0A000: .*whole row/, 'or in a whole row');
like(error_of("SELECT kappa.create_window_view('refused', \$q\$SELECT $w, tableoid, count(*) FROM computed GROUP BY 1, 2\$q\$)"), qr/^0A000: .*system column/, 'or a system column');
view('computed_1m', "SELECT $w, value * 2 AS twice, count(*) AS n, max(b::text) AS last FROM computed JOIN dimension b USING (page) GROUP BY 1, 2");
give('computed', map { click("2026-01-01T00:00:0${_}Z", value => $_) } 1 .. 3);
settled('computed');
is(sql("SELECT string_agg(concat_ws(' ', twice, n, last), ', ' ORDER BY twice) FROM computed_1m"), '2 1 (/a,1), 4 1 (/a,1), 6 1 (/a,1)', 'the table may have them');
agrees('computed_1m');

# ---------------------------------------------------------------- what comes while a view stands still

stream('paused', 2, watermark_delay => "'0 s'", idle_timeout => "'1 hour'", batch_rows => 10);
view("paused_$_->[0]", "SELECT $_->[1], count(*) AS n, sum(1 / value) AS s FROM paused GROUP BY 1", "allowed_lateness => '5 s'")
  for [ t => "kappa.tumble(ts, '10 s')" ], [ h => "kappa.hop(ts, '20 s', '10 s')" ], [ s => "kappa.session(ts, '3 s')" ];
sub paused { my ($value, @seconds) = @_; for my $s (@seconds) { give_to('paused', $_, click(sprintf('2026-01-01T00:%02d:%02dZ', $s / 60, $s % 60), value => $value)) for 0, 1; settled('paused'); } }
paused(1, 1, 12, 31, 33);
my @kinds = ('paused_t', 'paused_h', 'paused_s');
sql("CREATE TABLE final_$_ AS SELECT * FROM $_ WHERE is_final") for @kinds;
is(sql("SELECT count(*) FROM final_paused_t"), 2, 'two windows are final');
my $paused_late = sql('SELECT count(*) FROM kappa.late_rows');
paused(0, 34);
is(sql("SELECT count(*) FROM kappa.window_views WHERE status = 'stopped' AND name LIKE 'paused%'"), 3, 'the views stop');
# late by the watermark of the stop; not late by it, though by now; in time
paused(1, 90, 2, 36, 91);
is(sql("SELECT count(*) FROM (SELECT * FROM $_ WHERE is_final EXCEPT SELECT * FROM final_$_) x"), 0, "$_: none becomes final meanwhile") for @kinds;
sql("DELETE FROM paused WHERE value = 0");
for my $view (@kinds)
{
	sql("SELECT kappa.rebuild('$view')");
	is(sql("SELECT count(*) FROM (SELECT * FROM final_$view EXCEPT SELECT * FROM $view) x"), 0, "$view: a rebuild changes no final window");
	agrees($view);
}
is(sql('SELECT n FROM paused_t WHERE window_start = \'2026-01-01 00:00:30+00\''), 6, 'what was not late then counts');
is(sql("SELECT count(*) FROM kappa.late_rows WHERE view_name = 'paused_t' AND event_time = '2026-01-01 00:00:02+00'"), 2, 'what was late is listed');
paused(1, 92, 3);
sql("CREATE TABLE was_$_ AS SELECT * FROM $_; SELECT kappa.rebuild('$_')") for @kinds;
is_rows("SELECT * FROM $_", "SELECT * FROM was_$_", "$_: and they go on as ever") for @kinds;
agrees($_) for @kinds;

# ---------------------------------------------------------------- redrive and run

stream('letters', 2, watermark_delay => "'0 s'", idle_timeout => "'1 hour'", batch_rows => 50, workers => 2);
sql('ALTER TABLE letters ADD CONSTRAINT low CHECK (value < 100)');
view('letters_10s', "SELECT kappa.tumble(ts, '10 s'), user_id, count(*) AS n, sum(value) FROM letters GROUP BY 1, 2", "allowed_lateness => '5 s'");
view('letters_hop', "SELECT kappa.hop(ts, '30 s', '10 s'), count(*) AS n FROM letters GROUP BY 1", "allowed_lateness => '5 s'");
view('letters_s', "SELECT kappa.session(ts, '2 s'), user_id, count(*) AS n FROM letters GROUP BY 1, 2");
sub letters { my ($part, @seconds) = @_; give_to('letters', $part, map { my ($s, $value) = ref ? @$_ : ($_, 1); click(sprintf('2026-01-01T00:00:%02dZ', $s), value => $value, user_id => $s % 3) } @seconds); settled('letters'); }
letters(0, 1, [ 5, 100 ], 12, [ 41, 101 ]);
letters(1, 2, [ 6, 102 ], 13, 27, [ 42, 103 ]);
letters($_, 38 + $_) for 0, 1;
letters(0, 40);
is(sql("SELECT part, count(*) FROM kappa.dead_letters WHERE name = 'letters' GROUP BY 1 ORDER BY 1"), "0|2\n1|2", 'four dead letters');
my %watermark = map { split /\|/ } split /\n/, sql("SELECT part, extract(epoch FROM verdict_watermark - '2026-01-01 00:00+00')::integer FROM kappa.stat_partition WHERE name = 'letters'");
sql('ALTER TABLE letters DROP CONSTRAINT low');
is(sql("BEGIN; SELECT kappa.redrive('letters'); SELECT count(*) FROM letters; ROLLBACK"), "4\n12", 'redriven, and rolled back');
agrees($_) for 'letters_10s', 'letters_hop', 'letters_s';
is(sql("SELECT kappa.redrive('letters')"), 4, 'redriven');
# windows of 10 s that end 5 s or more before the partition's watermark take no row
my @late = map { my ($part, $offset, $s) = @$_; my $end = (int($s / 10) + 1) * 10; $end + 5 <= $watermark{$part} ? "$part|$offset" : () } [ 0, 1, 5 ], [ 0, 3, 41 ], [ 1, 1, 6 ], [ 1, 4, 42 ];
cmp_ok(scalar @late, '==', 2, 'two of them are late by the definition');
is(sql("SELECT part, kafka_offset FROM kappa.late_rows WHERE view_name = 'letters_10s' ORDER BY 1, 2"), join("\n", @late), 'and listed so');
is(sql("SELECT sum(n) FROM letters_10s"), 10, 'the others count');
agrees($_) for 'letters_10s', 'letters_hop', 'letters_s';
letters($_, 41, 42, 43) for 0, 1;
is(sql("SELECT sum(n) FROM letters_10s"), 16, 'the workers go on in the same windows');
agrees($_) for 'letters_10s', 'letters_hop', 'letters_s';
sql("SELECT kappa.disable('letters')");
my $letters_state = sql("SELECT state FROM kappa.window_view WHERE view = 'letters_10s'::regclass");
my $shared = sub { sql("SELECT count(*) FROM (SELECT FROM $letters_state WHERE window_end < '2026-01-01 00:01:00+00' GROUP BY window_start, k1 HAVING count(*) > 1) s") };
cmp_ok($shared->(), '>', 0, 'windows of two workers have a row of each');
give_to('letters', $_, map { click("2026-01-01T00:00:${_}Z", user_id => $_ % 3) } 3, 42, 44, 58) for 0, 1;
is(sql("BEGIN; SELECT kappa.run('letters', 100); SELECT sum(n) FROM letters_10s; ROLLBACK"), "8\n22", 'run, and rolled back');
is(sql("BEGIN; SAVEPOINT a; SELECT kappa.run('letters', 1) > 0; ROLLBACK TO a; SELECT kappa.run('letters', 100); COMMIT; SELECT sum(n) FROM letters_10s"), "t\n8\n22", 'run after a part that was rolled back');
agrees($_, "run: $_ agrees") for 'letters_10s', 'letters_hop', 'letters_s';
give_to('letters', 0, click('2026-01-01T00:01:30Z'));
give_to('letters', 1, click('2026-01-01T00:01:31Z'));
sql("SELECT kappa.run('letters', 10)");
give_to('letters', $_, click('2026-01-01T00:01:32Z')) for 0, 1;
sql("SELECT kappa.run('letters', 10)");
is($shared->(), 0, 'run closes windows, too: one row each');
is(sql("SELECT kappa.run('letters', 1); SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'window view'"), "0\n0", 'and leaves no memory behind');
sql("SELECT kappa.enable('letters')");
letters($_, [ 59, 7 ]) for 0, 1;
agrees($_, "$_ after all") for 'letters_10s', 'letters_hop', 'letters_s';
is(sql("SELECT count(*) FROM (SELECT * FROM letters_10s EXCEPT ALL SELECT *, true FROM letters_10s_batch) x WHERE is_final") > 0, 1, 'final windows lack the late rows');

# ---------------------------------------------------------------- reading by window and key

stream('wide', 1, watermark_delay => "'1 day'", batch_rows => 5000);
view('wide_hop', "SELECT kappa.hop(ts, '60 s', '10 s'), user_id, count(*) AS n FROM wide GROUP BY 1, 2");
view('wide_10s', "SELECT kappa.tumble(ts, '10 s'), user_id, count(*) AS n FROM wide GROUP BY 1, 2");
give('wide', map { click(sprintf('2026-01-01T%02d:%02d:%02dZ', $_ / 3600, $_ / 60 % 60, $_ % 60), user_id => pick(7)) } map { $_ * 4 } 0 .. 4999);
settled('wide');
sub plan_of { return sql("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $_[0]"); }
my ($hops) = plan_of('SELECT * FROM wide_hop') =~ /Function Scan on window_hops.*rows=(\d+)/;
cmp_ok($hops, '>', 1900, 'there are many hopping windows');
my $one = "SELECT * FROM wide_hop WHERE window_start = '2026-01-01 02:00+00' AND user_id = 3";
my $plan = plan_of($one);
ok($plan =~ /Function Scan on window_hops h \(actual rows=1(\.00)? / && $plan !~ /Function Scan.*\n.*\n.*Rows Removed/, 'a query for one lists one') or diag($plan);
$plan = plan_of("SELECT * FROM wide_hop WHERE window_start > '2026-01-01 01:59:30+00' AND '2026-01-01 02:00+00' >= window_start ORDER BY 1");
ok($plan =~ /Function Scan on window_hops h \(actual rows=3(\.00)? / && $plan !~ /Rows Removed by Filter: \d\d/, 'or those between two times') or diag($plan);
is(sql("PREPARE w AS SELECT count(*), sum(n) FROM wide_hop WHERE window_start = \$1; SET plan_cache_mode = force_generic_plan; EXECUTE w ('2026-01-01 02:00+00'); EXECUTE w (NULL); EXECUTE w ('2030-01-01')"),
	sql("SELECT count(*), sum(n) FROM (SELECT * FROM wide_hop OFFSET 0) w WHERE window_start = '2026-01-01 02:00+00'") . "\n0|\n0|", 'with a parameter, too');
my @wrong;
for (1 .. 25)
{
	my $time = sub { sprintf "'2026-01-01 00:00:%02d.%d+00'::timestamptz + interval '%d s'", pick(2) * 10, pick(2), pick(2000) * 10 };
	my $where = join ' AND ', map { pick(2) ? "window_start " . ('<', '<=', '=', '>=', '>', '<>')[ pick(6) ] . ' ' . $time->() : $time->() . ' ' . ('<', '<=', '>=', '>')[ pick(4) ] . ' window_start' } 0 .. pick(3);

	$where = "($where) OR user_id = 9" unless pick(5);
	push @wrong, $where unless sql("SELECT count(*), sum(n), min(window_start), max(window_start) FROM wide_hop WHERE $where") eq
	  sql("SELECT count(*), sum(n), min(window_start), max(window_start) FROM (SELECT * FROM wide_hop OFFSET 0) w WHERE $where");
}
is("@wrong", '', 'conditions of any kind give what they give on all windows');
like(plan_of("SELECT * FROM wide_10s WHERE window_start = '2026-01-01 02:00+00' AND user_id = 3"), qr/Index Cond: .*(k1 = 3|window_start = )/, 'a tumbling view is read by an index');

# keys too long for an index themselves are in it by their hash
stream('texts', 1, watermark_delay => "'1 day'");
sql("CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
view('texts_tumble', "SELECT kappa.tumble(ts, '10 s'), page, value::numeric AS number, count(*) AS n FROM texts GROUP BY 1, 2, 3");
view('texts_hop', "SELECT kappa.hop(ts, '20 s', '10 s'), page::varchar(20000) AS page, count(*) AS n FROM texts GROUP BY 1, 2");
view('texts_session', "SELECT kappa.session(ts, '2 s'), page COLLATE nocase AS page, count(*) AS n FROM texts GROUP BY 1, 2");
my @pages = (map({ my $long = ''; $long .= chr(97 + pick(26)) for 1 .. 6000; $long } 1, 2), 'A', 'a', '', map { "/p$_" } 1 .. 30);
give('texts', map { click(sprintf('2026-01-01T00:%02d:%02dZ', pick(10), pick(60)), page => pick(20) ? '"' . $pages[ pick(scalar @pages) ] . '"' : 'null', value => (1, 1.5, 1e20)[ pick(3) ]) } 1 .. 3000);
settled('texts');
for my $view ('texts_tumble', 'texts_hop', 'texts_session')
{
	my $answers = sub { my ($from, $where) = @_; sql("SET jit = off; SET enable_seqscan = off; SELECT count(*), sum(n), md5(string_agg(x::text, ',' ORDER BY x::text)) FROM $from x WHERE $where") };
	my @differ;

	for my $where (map({ "page = '$_'" } @pages), "page IN ('A', '$pages[0]', '/p3', NULL)", "page = ANY (ARRAY['/p1'])", "page IS NULL", "page = '/p1' AND page = '/p2'", "page = 'a' OR page = '/p1'",
		"page = 'A' COLLATE \"C\"", "page <> 'a'", "lower(page) = 'a'", "page = (SELECT '/p' || 4)", $view eq 'texts_tumble' ? ("page = '/p1' AND number = 1.0", "number = 1.50") : ())
	{
		push @differ, substr $where, 0, 80 if $answers->($view, $where) ne $answers->("(SELECT * FROM $view OFFSET 0)", $where);
	}
	is("@differ", '', "$view: a key finds what it finds without an index");
	like(sql("SET jit = off; SET enable_seqscan = off; EXPLAIN SELECT * FROM $view WHERE page = '/p1'" . ($view eq 'texts_tumble' ? ' AND number = 1' : '')), qr/Index Cond: .*key_hash\(k1\)/, 'and by it');
	unlike(sql("EXPLAIN SELECT * FROM $view"), qr/key_given/, 'which costs nothing else');
	agrees($view);
}

# ---------------------------------------------------------------- progress

stream('long', 1);
sql("CREATE ROLE nobody; CREATE FUNCTION waits(double precision) RETURNS double precision IMMUTABLE LANGUAGE plpgsql AS
	'BEGIN IF \$1 = 1 THEN PERFORM pg_advisory_lock_shared(42); PERFORM pg_advisory_unlock_shared(42); END IF; RETURN \$1; END';
	INSERT INTO long SELECT NULL, NULL, 1, '/a', (i = 25000)::integer, '2026-01-01 00:00+00'::timestamptz + make_interval(secs => i) FROM generate_series(1, 30000) i; ANALYZE long");
my $stops = $node->background_psql('postgres');
my $worker = $node->background_psql('postgres');
for ([ "create_window_view('long_1m', \$q\$SELECT $w, sum(waits(value)) AS n FROM long GROUP BY 1\$q\$)", 'long|filling a window view' ], [ "rebuild('long_1m', force => true)", 'long_1m|rebuilding' ])
{
	my ($call, $phase) = @$_;

	$stops->query_safe('SELECT pg_advisory_lock(42)');
	$worker->query_until(qr/begins/, "\\echo begins\nSELECT kappa.$call;\n");
	my $progress = "SELECT name, phase, done, total, eta BETWEEN interval '0' AND interval '10 minutes' FROM kappa.stat_progress WHERE phase <> 'catching up'";
	ok(poll_until(30, sub { sql($progress) eq "$phase|20000|30000|t" }), "$phase: another session sees how far") or diag(sql($progress));
	is(sql("SET ROLE nobody; $progress"), '', 'but no stranger');
	$stops->query_safe('SELECT pg_advisory_unlock(42)');
	$worker->query_safe('SELECT 1');
	is(sql($progress), '', 'until it is done');
}
$_->quit for $stops, $worker;
is(sql('SELECT sum(n) FROM long_1m'), 1, 'all rows count');

# ---------------------------------------------------------------- one giant session

stream('giant', 1, watermark_delay => "'1 minute'", batch_rows => 500);
view('giant_s', "SELECT kappa.session(ts, '30 s'), user_id, count(*) AS n, max(value) FROM giant GROUP BY 1, 2");
my $giant_state = sql("SELECT state FROM kappa.window_view WHERE view = 'giant_s'::regclass");
my (@rows, @bytes);
for my $round (0 .. 9)
{
	# disorder of up to 10 s; a commit adds to one session at both of its ends, too
	give('giant', map { my $s = $round * 1000 + $_ + pick(10); click(sprintf('2026-01-01T%02d:%02d:%02dZ', $s / 3600, $s / 60 % 60, $s % 60), value => $s) } 0 .. 999);
	settled('giant');
	sql("VACUUM $giant_state");
	push @rows, sql("SELECT count(*) FROM $giant_state");
	push @bytes, sql("SELECT pg_total_relation_size('$giant_state')");
}
is("@rows", join(' ', (1) x 10), 'a session that never ends is one row of the state');
cmp_ok($bytes[-1], '<=', $bytes[0] + 16384, "and takes no more room: @bytes[0, -1] bytes");
is(sql('SELECT n FROM giant_s'), 10000, 'with all of its rows');
agrees('giant_s');

# ---------------------------------------------------------------- a held snapshot

stream('held', 1, watermark_delay => "'1 hour'", batch_rows => 20, batch_wait => "'0 s'");
view('held_1m', "SELECT $w, user_id, count(*) AS n, sum(value) FROM held GROUP BY 1, 2");
my $held_state = sql("SELECT state FROM kappa.window_view WHERE view = 'held_1m'::regclass");
sql("ALTER TABLE $held_state SET (autovacuum_enabled = off); CREATE TABLE sizes (at serial, batches bigint, bytes bigint)");
my $commits = $ENV{KAPPA_LONG} ? 20000 : 2000;
sub hold { my $n = shift; give('held', map { click('2026-01-01T00:00:30Z', user_id => $_ % 20) } 1 .. 20 * $n); settled('held', 120); }
sub size { return sql("SELECT pg_total_relation_size('$held_state')"); }
hold(50);
my $before = size();
my $holder = $node->background_psql('postgres', on_error_stop => 0);
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM held_1m');
my @took;
for (1 .. 4)
{
	my $start = time;

	hold($commits / 4);
	push @took, time - $start;
}
my $grown = size();
my $per_commit = ($grown - $before) / $commits;
# 20 groups of some 150 bytes each are written anew in each commit, with an index entry where the page is full
cmp_ok($per_commit, '<', 20 * 400, sprintf('a held snapshot: %.0f bytes a commit of 20 groups, over %d commits', $per_commit, $commits));
cmp_ok($took[3], '<', 3 * $took[0] + 2, sprintf('a batch costs the same in the end: %s s for each quarter', join ' ', map { sprintf '%.2f', $_ } @took));
is($holder->query_safe('SELECT sum(n) FROM held_1m'), 1000, 'its holder reads what was');
$holder->query_safe('COMMIT');
$holder->quit;
sql("VACUUM $held_state");
my $vacuumed = size();
hold($commits / 2);
cmp_ok(size(), '<=', $grown + 65536, sprintf('afterwards the room is used again: %d kB before, %d held, %d vacuumed, %d after more commits', map { $_ / 1024 } $before, $grown, $vacuumed, size()));
agrees('held_1m');

# ---------------------------------------------------------------- a reader while two workers commit

stream('raced', 4, workers => 2, watermark_delay => "'1 s'", idle_timeout => "'1 hour'", batch_rows => 40, batch_wait => "'0 s'");
view('raced_t', "SELECT kappa.tumble(ts, '2 s'), user_id, count(*) AS n, sum(value) FROM raced GROUP BY 1, 2");
view('raced_h', "SELECT kappa.hop(ts, '6 s', '2 s'), count(*) AS n FROM raced GROUP BY 1", "allowed_lateness => '1 s'");
view('raced_s', "SELECT kappa.session(ts, '20 ms'), user_id, count(*) AS n FROM raced GROUP BY 1, 2");
sql("CREATE TABLE seen (view text, start timestamptz, what text, PRIMARY KEY (view, start, what))");
my $reads = 0;
my $raced_end = time + ($ENV{KAPPA_LONG} ? 120 : 8);
my $clock = 0;
my $looker = $node->background_psql('postgres');
while (time < $raced_end)
{
	# partitions move apart and together again; some rows are late
	for my $part (0 .. 3)
	{
		my $from = $clock + pick(3);

		give_to('raced', $part, map { my $s = $from + pick(40) / 10 - (pick(10) ? 0 : pick(12)); $s = 0 if $s < 0; click(sprintf('2026-01-01T%02d:%02d:%06.3fZ', $s / 3600, $s / 60 % 60, $s - 60 * int($s / 60)), user_id => pick(4)) } 1 .. 60 + pick(200)) if pick(8);
	}
	$clock += pick(3);
	for my $view ('raced_t', 'raced_h', 'raced_s')
	{
		# one statement, one snapshot: what is final now goes to what was seen so
		$looker->query_safe("INSERT INTO seen SELECT '$view', window_start, to_jsonb(x)::text FROM $view x WHERE is_final ON CONFLICT DO NOTHING");
		$reads++;
	}
}
$looker->quit;
settled('raced', 120);
for my $view ('raced_t', 'raced_h', 'raced_s')
{
	my $seen = sql("SELECT count(*) FROM seen WHERE view = '$view'");

	cmp_ok($seen, '>', 5, "$view: $seen final rows were seen in $reads looks");
	is(sql("SELECT count(*) FROM seen s WHERE view = '$view' AND NOT EXISTS (SELECT 1 FROM $view x WHERE to_jsonb(x)::text = s.what)"), 0, 'and none has changed');
	agrees($view);
}
cmp_ok(sql("SELECT count(*) FROM kappa.late_rows WHERE view_name LIKE 'raced%'"), '>', 0, 'rows came late, too');

# ---------------------------------------------------------------- dump and restore

sql("SELECT kappa.disable(name) FROM kappa.subscriptions WHERE name <> 'raced'");
my $dumped = $node->basedir . '/windows.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dumped ], 'pg_dump');
sql('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dumped ], 'restored');
sub copy_sql { return $node->safe_psql('copy', $_[0]); }
is(copy_sql("SELECT status || ': ' || reason FROM kappa.subscriptions WHERE name = 'raced'"), 'stopped: identity: made in another cluster or database', 'the copy is idle');
for my $view ('raced_t', 'raced_h', 'raced_s', 'letters_10s', 'texts_tumble', 'parted_1m')
{
	my $all = "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY x::text)) FROM (SELECT to_jsonb(v) - 'is_final' AS x FROM $view v) v";

	is(copy_sql($all), sql($all), "$view has its windows there");
}
is(copy_sql('SELECT count(*) FROM kappa.late_rows'), sql('SELECT count(*) FROM kappa.late_rows'), 'and its late rows');
copy_sql("SELECT kappa.enable('raced')");
give_to('raced', $_, map { click(sprintf('2026-01-01T00:%02d:30Z', 40 + pick(10)), user_id => pick(4)) } 1 .. 100) for 0 .. 3;
settled('raced');
ok(poll_until(60, sub { copy_sql("SELECT string_agg(next_offset::text, ' ' ORDER BY part) FROM kappa.stat_partition WHERE name = 'raced'") eq
	sql("SELECT string_agg(next_offset::text, ' ' ORDER BY part) FROM kappa.stat_partition WHERE name = 'raced'") }), 'enabled, it goes on');
is(copy_sql("SELECT count(*) FROM kappa.reconcile('$_')"), 0, "$_: reconcile finds nothing in the copy") for 'raced_t', 'raced_h', 'raced_s';
is(copy_sql("SELECT count(*) - (SELECT count(*) FROM kappa.late_rows WHERE view_name = 'raced_t') - (SELECT sum(n) FROM raced_t) FROM raced"), 0, 'without loss');
copy_sql("SELECT kappa.rebuild('raced_s'); SELECT kappa.drop_window_view('raced_h')");
like(($node->psql('copy', 'DROP EXTENSION pg_kappa'))[2], qr/other objects depend on it/, 'DROP EXTENSION asks for CASCADE');
copy_sql('ALTER EXTENSION pg_kappa UPDATE; DROP EXTENSION pg_kappa CASCADE');
is(copy_sql("SELECT count(*) FROM pg_class WHERE relname ~ '(raced|letters|window_state)_'"), 0, 'which takes the views with it');
is(copy_sql('SELECT count(*) > 0 FROM raced'), 't', 'the rows stay');
is(copy_sql('CREATE EXTENSION pg_kappa CASCADE; SELECT count(*) FROM kappa.window_views'), 0, 'and it can be made again');
agrees('raced_t', 'the original is as it was');

finish();
