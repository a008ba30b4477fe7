
# Window views, rule by rule: the worked example of the docs, queries that are refused, rights,
# errors in expressions, aggregates of extensions, crashes at each fault point, a stream that
# falls silent, and what is done by hand.

use strict;
use warnings;

use FormatTest;
use KappaTest qw(seed pick poll_until tool broker_folder);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WindowTest;

seed();
my $node = start('window_rules', "kappa.fault = ''", "log_statement = none");

# "ERROR SQLSTATE message", as an owner or another role types it
sub error_of
{
	my ($query, $role) = @_;
	my (undef, undef, $err) = $node->psql('postgres', ($role ? "SET ROLE $role;\n" : '') . "\\set VERBOSITY verbose\n$query");

	return $err =~ /ERROR:  (.*)/ ? $1 : '';
}

# ---------------------------------------------------------------- the example of the docs

{
	my (%tables, @lines);

	for (split /\n/, slurp_file('docs/window_views.md'))
	{
		my @cells = map { s/^\s+|\s+$//gr } split /\|/;

		push @lines, [ @cells[ 1 .. 5 ] ] if @cells == 6 && $cells[1] =~ /^\d+$/;
		$tables{ $cells[1] } = [ @cells[ 2 .. 4 ] ] if @cells == 5 && $cells[1] =~ /^12:0\d$/;
	}
	is(scalar @lines, 7, 'the example has its messages');
	stream('example', 1, watermark_delay => "'5 s'", idle_timeout => "'1 hour'", batch_rows => 1);
	view('example_1m', "SELECT kappa.tumble(ts, '1 minute'), count(*) AS n FROM example GROUP BY 1");
	for my $line (@lines)
	{
		my ($offset, $time, $judged_by, $window, $watermark) = @$line;
		my $before = sql("SELECT to_char(verdict_watermark, 'HH24:MI:SS') FROM kappa.stat_partition WHERE name = 'example'");

		is($before, $judged_by, "offset $offset is judged by this");
		give('example', click("2026-01-01T${time}Z"));
		settled('example');
		is(sql("SELECT to_char(verdict_watermark, 'HH24:MI:SS') FROM kappa.stat_partition WHERE name = 'example'"), $watermark, 'and moves the watermark there');
		is(sql("SELECT count(*) FROM kappa.late_rows WHERE view_name = 'example_1m' AND kafka_offset = $offset"), $window eq 'late' ? 1 : 0, "it counts: $window");
	}
	for my $window (sort keys %tables)
	{
		is(join(' ', split /\|/, sql("SELECT s.n, b.n, CASE WHEN is_final THEN 'yes' ELSE 'no' END FROM example_1m s JOIN example_1m_batch b USING (window_start)
			WHERE window_start = '2026-01-01 $window+00'")), "@{ $tables{$window} }", "window $window: streaming, batch, final");
	}
	# another query under the same name
	sql('CREATE ROLE onlooker; GRANT SELECT ON example_1m TO onlooker; CREATE VIEW on_top AS SELECT n FROM example_1m; CREATE TABLE were AS SELECT * FROM example_1m');
	is(sql("SELECT kappa.rebuild('example_1m', \$\$SELECT kappa.tumble(ts, '1 minute'), count(*) FILTER (WHERE user_id < 5) AS n FROM example GROUP BY 1\$\$)"), 7, 'rebuilt by another query');
	is(sql('SELECT count(*) FROM ((TABLE example_1m EXCEPT ALL TABLE were) UNION ALL (TABLE were EXCEPT ALL TABLE example_1m)) d'), 0, 'the same windows leave the same rows out');
	is(sql("SELECT query ~ 'FILTER' FROM kappa.window_views WHERE name = 'example_1m'"), 't', 'and the view says what it is');
	is(sql("SELECT kappa.rebuild('example_1m', \$\$SELECT kappa.tumble(ts, '2 minutes'), count(*) AS n FROM example GROUP BY 1\$\$)"), 7, 'rebuilt with other windows');
	is(sql("SELECT sum(n), (SELECT count(*) FROM kappa.late_rows WHERE view_name = 'example_1m') FROM example_1m"), '7|0', 'all rows that are there count in them');
	is(sql('SET ROLE onlooker; SELECT sum(n) FROM example_1m'), 7, 'who could read it still can');
	is(sql('SELECT sum(n) FROM on_top'), 7, 'and what was made on top of it stands');
	give('example', click('2026-01-01T13:00:00Z'));
	settled('example');
	is(sql('SELECT sum(n) FROM example_1m'), 8, 'and it goes on');
	is(sql("SELECT count(*) FROM kappa.reconcile('example_1m')"), 0, 'and agrees with its rows');
	like(error_of("SELECT kappa.rebuild('example_1m', \$\$SELECT kappa.tumble(ts, '1 minute'), count(*) AS m FROM example GROUP BY 1\$\$)"), qr/^42P16: .*cannot change the columns/, 'its columns stay');
	like(error_of("SELECT kappa.rebuild('example_1m', 'SELECT 1')"), qr/^(42|0A)/, 'no query of a window view');
	is(sql("SELECT count(*) FROM pg_tables WHERE tablename ~ '^window_state'"), sql('SELECT count(*) FROM kappa.window_views'), 'no table is left behind');
	is(sql("SET TimeZone = 'Asia/Kathmandu'; SELECT bool_and(extract(epoch FROM window_start)::bigint % 60 = 0) FROM example_1m"), 't', "the reader's time zone changes no window");
}

# ---------------------------------------------------------------- sessions as Kafka Streams has them

stream('vector', 1, watermark_delay => "'1 hour'", idle_timeout => "'1 hour'", batch_rows => 1);
view('vector_s', "SELECT kappa.session(ts, '5 s'), user_id, count(*) AS n, min(value), max(value) FROM vector GROUP BY 1, 2");
give('vector', map { click("2026-01-01T00:00:${_}Z", value => $_) } 10, 12, 20);
settled('vector');
is(sql("SELECT string_agg(concat_ws(' ', min, max, n), ', ' ORDER BY window_start) FROM vector_s"), '10 12 2, 20 20 1', 'gap 5: 10, 12, 20 are two sessions');
give('vector', click('2026-01-01T00:00:16Z', value => 16));
settled('vector');
is(sql("SELECT string_agg(concat_ws(' ', min, max, n), ', ') FROM vector_s"), '10 20 4', '16 bridges them');
give('vector', click('2026-01-01T00:00:25Z', value => 25), click('2026-01-01T00:00:30.001Z', value => 30));
settled('vector');
is(sql("SELECT string_agg(concat_ws(' ', min, max, n), ', ' ORDER BY window_start) FROM vector_s"), '10 25 5, 30 30 1', 'a distance equal to the gap joins, a larger one does not');
is(sql("SELECT count(*) FROM kappa.reconcile('vector_s')"), 0, 'reconcile agrees');
is(sql('SELECT count(*) FROM ' . sql("SELECT state FROM kappa.window_view WHERE view = 'vector_s'::regclass")), 2, 'bridged sessions leave no row behind');

# ---------------------------------------------------------------- queries that are refused

stream('plain', 1);
sql("CREATE TABLE keyed (id integer PRIMARY KEY, ts timestamptz); CREATE TABLE dim (page text PRIMARY KEY, section text);
	CREATE TABLE naive (ts timestamp, kafka_offset bigint);
	CREATE FUNCTION dice() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 4'");
topic('keyed');
subscribe('keyed', mode => "'upsert'", event_time => "'ts'");
my $w = "kappa.tumble(ts, '1 minute')";
for (
	[ "SELECT page, count(*) FROM plain GROUP BY page", '0A000', qr/must group by kappa\.tumble/ ],
	[ "SELECT count(*) FROM plain", '0A000', qr/must have GROUP BY/ ],
	[ "SELECT $w, count(*) FROM dim, (VALUES (now())) v(ts) GROUP BY 1", '0A000', qr/must read the target of a subscription/ ],
	[ "SELECT $w, count(*) FROM keyed GROUP BY 1", '0A000', qr/upsert subscription/ ],
	[ "SELECT $w, count(*) FROM plain JOIN example USING (ts) GROUP BY 1", '0A000', qr/two subscriptions/ ],
	[ "SELECT kappa.tumble(a.ts, '1 minute'), count(*) FROM plain a JOIN plain b USING (page) GROUP BY 1", '0A000', qr/two subscriptions|stands 2 times/ ],
	[ "SELECT kappa.tumble(ts::timestamp, '1 minute'), count(*) FROM plain GROUP BY 1", '42804', qr/timestamp with time zone/ ],
	[ "SELECT kappa.tumble(ts + interval '1 s', '1 minute'), count(*) FROM plain GROUP BY 1", '0A000', qr/must be the event_time column "ts"/ ],
	[ "SELECT kappa.tumble(ts, make_interval(secs => value)), count(*) FROM plain GROUP BY 1", '0A000', qr/must be a constant/ ],
	[ "SELECT kappa.tumble(ts, '-1 minute'), count(*) FROM plain GROUP BY 1", '22023', qr/greater than zero/ ],
	[ "SELECT kappa.tumble(ts, NULL), count(*) FROM plain GROUP BY 1", '22004', qr/NULL/ ],
	[ "SELECT $w, kappa.hop(ts, '5 min', '1 min'), count(*) FROM plain GROUP BY 1, 2", '0A000', qr/one window only/ ],
	[ "SELECT $w, count(DISTINCT page) FROM plain GROUP BY 1", '0A000', qr/DISTINCT cannot be kept/ ],
	[ "SELECT $w, string_agg(page, ',' ORDER BY page) FROM plain GROUP BY 1", '0A000', qr/cannot be kept/ ],
	[ "SELECT $w, array_agg(page) FROM plain GROUP BY 1", '0A000', qr/cannot be kept/ ],
	[ "SELECT $w, percentile_cont(0.5) WITHIN GROUP (ORDER BY value) FROM plain GROUP BY 1", '0A000', qr/cannot be kept/ ],
	[ "SELECT $w, count(*) FROM plain WHERE ts > now() - interval '1 h' GROUP BY 1", '0A000', qr/now\(\)/ ],
	[ "SELECT $w, count(*) FROM plain WHERE value > random() GROUP BY 1", '0A000', qr/random\(\)/ ],
	[ "SELECT $w, dice() + count(*) FROM plain GROUP BY 1", '0A000', qr/dice\(\)/ ],
	[ "SELECT $w, current_user, count(*) FROM plain GROUP BY 1", '0A000', qr/present time or user/ ],
	[ "SELECT DISTINCT $w, count(*) FROM plain GROUP BY 1", '0A000', qr/DISTINCT/ ],
	[ "SELECT $w, count(*) FROM plain GROUP BY 1 ORDER BY 1", '0A000', qr/ORDER BY/ ],
	[ "SELECT $w, count(*) FROM plain GROUP BY 1 LIMIT 1", '0A000', qr/LIMIT/ ],
	[ "SELECT $w, count(*), sum(count(*)) OVER () FROM plain GROUP BY 1", '0A000', qr/OVER/ ],
	[ "SELECT $w, page, count(*) FROM plain GROUP BY ROLLUP (1, 2)", '0A000', qr/ROLLUP/ ],
	[ "WITH p AS (SELECT * FROM plain) SELECT $w, count(*) FROM p GROUP BY 1", '0A000', qr/WITH/ ],
	[ "SELECT $w, count(*) FROM plain GROUP BY 1 UNION SELECT $w, 1 FROM plain", '0A000', qr/UNION/ ],
	[ "SELECT lower($w), count(*) FROM plain GROUP BY $w", '0A000', qr/inside of an expression/ ],
	[ "SELECT $w, no_such_column, count(*) FROM plain GROUP BY 1, 2", '42703', qr/no_such_column/ ],
	[ "SELECT $w, sum(page) FROM plain GROUP BY 1", '42883', qr/sum\(text\)/ ],
	[ "SELEC 1", '42601', qr/syntax error/ ], [ "DELETE FROM plain", '0A000', qr/must be a SELECT/ ], [ "SELECT 1; SELECT 2", '42601', qr/2 statements/ ],
	[ "SELECT $w, count(*) AS window_start FROM plain GROUP BY 1", '42701', qr/window_start/ ])
{
	my ($query, $sqlstate, $what) = @$_;
	my $error = error_of("SELECT kappa.create_window_view('refused', \$q\$$query\$q\$)");

	like($error, qr/^$sqlstate: .*$what/, "refused: $query");
}
is(sql("SELECT count(*) FROM pg_class WHERE relname ~ 'refused'"), 0, 'nothing is left of them');
like((($node->psql('postgres', "SELECT kappa.create_window_view('refused', \$q\$SELECT $w, nothing FROM plain GROUP BY 1, 2\$q\$)"))[2]), qr/LINE 1: SELECT kappa\.tumble.*\n.*\^/,
	'the error points to its place in the query');
like(error_of("SELECT kappa.create_window_view(NULL, 'x')"), qr/^22004/, 'NULL for a name');
like(error_of("SELECT kappa.create_window_view('v', \$q\$SELECT $w, count(*) FROM plain GROUP BY 1\$q\$, allowed_lateness => '-1 s')"), qr/^22023/, 'negative lateness');
like(error_of("SELECT kappa.$_"), qr/^42704/, "$_: no such view") for "drop_window_view('none')", "rebuild('none')", "reconcile('none')", "roll_up('x', 'none', '1 h')";
like(error_of('SELECT kappa.rolling(1, \'1 min\')'), qr/^42809/, 'rolling needs the type of a window view');
like(error_of("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.create_window_view('v', \$q\$SELECT $w, count(*) FROM plain GROUP BY 1\$q\$)"), qr/^0A000/, 'not with an old snapshot');

# ---------------------------------------------------------------- rights, dependencies, replaced definitions

sql("CREATE ROLE stranger; CREATE ROLE reader; GRANT CREATE ON SCHEMA public TO stranger");
view('plain_1m', "SELECT $w, page, count(*), avg(value) AS mean FROM plain GROUP BY 1, 2");
sql('GRANT SELECT ON plain_1m TO reader');
give('plain', map { click(sprintf('2026-01-01T00:%02d:00Z', $_), value => $_) } 0 .. 9);
settled('plain');
is(sql('SET ROLE reader; SELECT count(*), sum(mean) FROM plain_1m'), '10|45', 'who may read the view needs no other right');
is(sql("SET ROLE reader; SELECT count(*) FROM kappa.rolling(NULL::plain_1m, '10 minutes', 'watermark')"), 1, 'nor for rolling');
like(error_of("SELECT * FROM $_", 'reader'), qr/^42501/, "but not $_") for 'kappa.window_state_' . sql("SELECT max(id) FROM kappa.window_view"), 'plain_1m_batch', 'kappa.window_view', 'kappa.late_row';
like(error_of($_, 'stranger'), qr/^42501/, "a stranger may not: $_") for "SELECT kappa.create_window_view('mine', \$q\$SELECT $w, count(*) FROM plain GROUP BY 1\$q\$)",
  "SELECT kappa.drop_window_view('plain_1m')", "SELECT kappa.rebuild('plain_1m')", "SELECT * FROM kappa.reconcile('plain_1m')",
  "SELECT * FROM kappa.rolling(NULL::plain_1m, '1 minute')", "SELECT kappa.roll_up('mine', 'plain_1m', '1 hour')", q{SELECT '\x00000000'::kappa.partial};
is(sql('SET ROLE stranger; SELECT count(*) FROM kappa.window_views'), 0, 'and sees no view');
my $state = sql("SELECT state FROM kappa.window_view WHERE view = 'plain_1m'::regclass");
like(error_of("SELECT kappa.combine(a1, 'sum(numeric)'::regprocedure, NULL::numeric) FROM $state"), qr/^22023/, 'a partial goes into no other aggregate');
like(error_of("SELECT kappa.combine(a1, 'count(*)'::regprocedure, NULL::text) FROM $state"), qr/^4/, 'nor into another type');
like(error_of('ALTER TABLE plain DROP COLUMN page'), qr/^2BP01/, 'a column that a view uses cannot be dropped');
like(error_of('ALTER TABLE plain ALTER COLUMN value TYPE text'), qr/^0A000/, 'nor changed');
sql('ALTER TABLE plain RENAME COLUMN page TO address');
give('plain', '{"user_id": 1, "address": "/b", "value": 10, "ts": "2026-01-01T00:30:00Z"}');
settled('plain');
is(sql("SELECT page, mean FROM plain_1m WHERE window_start = '2026-01-01 00:30+00'"), '/b|10', 'a renamed column is followed');
sql("CREATE OR REPLACE VIEW plain_1m_batch AS SELECT NULL::timestamptz AS window_start, NULL::timestamptz AS window_end, NULL::text AS page, NULL::bigint AS count, NULL::double precision AS mean;
	SELECT kappa.disable('plain'); SELECT kappa.enable('plain')");
give('plain', '{"user_id": 1, "address": "/c", "value": 10, "ts": "2026-01-01T00:31:00Z"}');
settled('plain');
like(sql("SELECT reason FROM kappa.window_views WHERE name = 'plain_1m' AND status = 'stopped'"), qr/replaced by another query/, 'a replaced definition stops the view, not the rows');
sql("SELECT kappa.unsubscribe('keyed')");

# ---------------------------------------------------------------- errors in expressions, views beside each other

stream('divided', 1);
view('fraction', "SELECT $w, sum(1 / value) FROM divided GROUP BY 1");
view('whole', "SELECT $w, count(*) FROM divided GROUP BY 1");
give('divided', click('2026-01-01T00:00:00Z', value => 2), click('2026-01-01T00:00:01Z', value => 0), click('2026-01-01T00:00:02Z', value => 4));
settled('divided');
is(sql('SELECT count(*) FROM divided'), 3, 'an error of a view costs no row');
is(sql('SELECT count FROM whole'), 3, 'and stops no other view');
like(sql("SELECT status || ': ' || reason || ' ' || next_step FROM kappa.window_views WHERE name = 'fraction'"), qr/^stopped: 22012: division by zero SELECT kappa\.rebuild\('fraction'\);$/, 'it says so');
sql("DELETE FROM divided WHERE value = 0; SELECT kappa.rebuild('fraction')");
give('divided', click('2026-01-01T00:00:03Z', value => 4));
settled('divided');
is(sql('SELECT sum FROM fraction'), '1', 'a rebuild starts it again');
is(sql("SELECT keys, streaming - 'nothing', cause FROM kappa.reconcile('whole')"), '[]|{"count 1": 4}|deleted by hand', 'what was deleted by hand is told');
sql("INSERT INTO divided VALUES (NULL, NULL, 1, '/x', 1, '2026-01-01 00:10+00'); UPDATE divided SET ts = '2026-01-01 00:20+00' WHERE kafka_offset = 2");
is(sql("SELECT string_agg(DISTINCT cause, ', ' ORDER BY cause) FROM kappa.reconcile('whole', '2026-01-01 00:10+00', '2026-01-01 00:11+00')"), 'added by hand', 'and what was added');
like(error_of("SELECT kappa.unsubscribe('divided')"), qr/^55/, 'unsubscribe refuses while there are window views');
sql("SELECT kappa.drop_window_view('fraction'); SELECT kappa.unsubscribe('divided', force => true)");
is(sql("SELECT count(*) FROM pg_class WHERE relname ~ '^(fraction|whole)'"), 0, 'and drops them where it is told to');

# ---------------------------------------------------------------- aggregates of extensions and of many types

stream('types', 2, workers => 2, watermark_delay => "'1 day'");
my @aggregates = qw(count(page) sum(user_id) sum(value) avg(user_id) avg(value) avg(user_id::numeric) sum(user_id::numeric(10,2)) min(page) max(page) min(ts) stddev(value) variance(user_id) var_pop(value::numeric)
  corr(value,user_id) regr_slope(value,user_id) bool_and(value>0) bool_or(page='/3') bit_or(user_id) bit_xor(user_id) max(user_id::smallint) min(value::real) sum(make_interval(secs=>value)) max(ARRAY[user_id]) min(ts::date));
my $expected = join ', ', map { "$aggregates[$_] AS c$_" } 0 .. $#aggregates;
my @extensions = grep { sql("SELECT count(*) FROM pg_available_extensions WHERE name = '$_'") } 'hll', 'tdigest';
is("@extensions", 'hll tdigest', 'hll and tdigest are there to be tested with');
sql("CREATE EXTENSION $_") for @extensions;
$expected .= ', hll_cardinality(hll_add_agg(hll_hash_integer(user_id))) AS users, tdigest_percentile(value, 100, 0.9) AS p90';
view('types_1h', "SELECT kappa.tumble(ts, '1 hour'), user_id % 5 AS fifth, $expected FROM types GROUP BY 1, 2");
for my $round (1 .. 6)
{
	give_to('types', $_, map { click(sprintf('2026-01-01T%02d:%02d:00Z', pick(3), pick(60)), user_id => pick(20) ? pick(1000) : 'null', page => pick(20) ? '"/' . pick(9) . '"' : 'null',
			value => pick(20) ? pick(1000) / 8 : 'null') } 1 .. 100) for 0, 1;
	settled('types');
}
is(sql("SELECT count(*) FROM kappa.reconcile('types_1h')"), 0, 'all of them combine to what batch says') or diag(sql("SELECT window_start, keys, streaming, batch, cause FROM kappa.reconcile('types_1h') LIMIT 2"));
is(sql('SELECT count(*) FROM (SELECT c0, c3, c7, c12, c20, users FROM types_1h EXCEPT SELECT c0, c3, c7, c12, c20, users FROM types_1h_batch) x'), 0, 'in the view, too');

# ---------------------------------------------------------------- crashes

stream('crash', 2, workers => 2, batch_rows => 50, watermark_delay => "'2 s'");
view("crash_$_->[0]", "SELECT $_->[1], user_id, count(*), sum(value) FROM crash GROUP BY 1, 2")
  for [ tumble => "kappa.tumble(ts, '10 s')" ], [ hop => "kappa.hop(ts, '30 s', '10 s')" ], [ session => "kappa.session(ts, '3 s')" ];
my $sent = 0;
for my $point (qw(after_poll after_decode mid_insert before_position before_commit after_commit))
{
	for my $action ('kill', 'error')
	{
		my $offset = -s $node->logfile;

		$node->adjust_conf('postgresql.conf', 'kappa.fault', "'$point:$action:" . (1 + pick(2)) . "'");
		$node->reload;
		poll_until(30, sub { sql('SELECT current_setting(\'kappa.fault\') LIKE \'' . $point . ':' . $action . '%\'') eq 't' });
		give_to('crash', $_, map { my $s = $sent++ / 40 + pick(3); click(sprintf('2026-01-01T%02d:%02d:%06.3fZ', $s / 3600, $s / 60 % 60, $s - 60 * int($s / 60)), user_id => pick(30), value => pick(9)) } 1 .. 120) for 0, 1;
		ok(poll_until(30, sub { slurp_file($node->logfile, $offset) =~ /fault point $point reached/ }), "$action at $point");
		poll_until(30, sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 });
		$node->adjust_conf('postgresql.conf', 'kappa.fault', "''");
		$node->reload;
		# an ERROR outside of any attempt stops the partitions, and says what to do
		my $left = sub { sql("SELECT $sent - (SELECT sum(next_offset) FROM kappa.stat_partition WHERE name = 'crash')") };
		my $step = $action eq 'error' && poll_until(2, sub { $left->() > 0 && sql("SELECT next_step FROM kappa.subscriptions WHERE status = 'stopped' AND name = 'crash'") });

		sql($step) if $step;
		settled('crash', 90);
	}
}
for my $kind ('tumble', 'hop', 'session')
{
	is(sql("SELECT count(*) FROM kappa.reconcile('crash_$kind')"), 0, "$kind: windows agree with the rows after all crashes");
	cmp_ok(sql("SELECT count(*) FROM crash_$kind"), '>', 50, 'and there are some');
}
is(sql("SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM crash"), "$sent|$sent", 'no row is missing, none is there twice');

# ---------------------------------------------------------------- a stream that falls silent

stream('quiet', 3, workers => 2, watermark_delay => "'1 s'", idle_timeout => "'2 s'");
view('quiet_10s', "SELECT kappa.tumble(ts, '10 s'), count(*) FROM quiet GROUP BY 1", "allowed_lateness => '1 s'");
give_to('quiet', 0, map { click("2026-01-01T00:00:0${_}Z") } 0 .. 9);
give_to('quiet', 1, click('2026-01-01T00:00:05Z'), click('2036-01-01T00:00:00Z'));
settled('quiet');
{
	my $last = time;
	my $due = (10 - 9) + 1 + 1 + 2 + 5;    # to the window's end, watermark_delay, lateness, idle_timeout, and 5 s

	is(sql("SELECT bool_or(is_final) FROM quiet_10s"), 'f', 'nothing is final while a partition has had no message');
	ok(poll_until($due + 10, sub { sql("SELECT is_final FROM quiet_10s WHERE window_start = '2026-01-01 00:00+00'") eq 't' }), 'the last window closes without another message');
	cmp_ok(time - $last, '<', $due, "in less than $due s");
	is(sql("SELECT is_final FROM quiet_10s WHERE window_start > '2035-01-01'"), 'f', 'one that begins in ten years stays open');
	give_to('quiet', 2, click('2026-01-01T00:00:08Z'));
	settled('quiet');
	is(sql("SELECT count FROM quiet_10s WHERE window_start = '2026-01-01 00:00+00'"), 11, 'and takes no more rows');
	is(sql("SELECT count(*) FROM kappa.late_rows WHERE view_name = 'quiet_10s'"), 1, 'which are listed');
}

# ---------------------------------------------------------------- final windows: one row each, kept as long as told

stream('closed', 2, workers => 2, watermark_delay => "'1 s'", idle_timeout => "'1 s'");
view("closed_$_->[0]", "SELECT $_->[1], user_id, count(*) AS n, sum(value) FROM closed GROUP BY 1, 2", @$_[ 2 .. $#$_ ])
  for [ tumble => "kappa.tumble(ts, '10 s')" ], [ hop => "kappa.hop(ts, '20 s', '10 s')" ], [ session => "kappa.session(ts, '2 s')" ],
  [ short => "kappa.tumble(ts, '10 s')", "retention => '30 s'" ], [ short_hop => "kappa.hop(ts, '20 s', '10 s')", "retention => '30 s'" ];
{
	my $state = sub { sql("SELECT state FROM kappa.window_view WHERE view = 'closed_$_[0]'::regclass") };
	my $rows = sub { my ($k, $where) = @_; sql('SELECT count(*) FROM ' . $state->($k) . " WHERE $where") };

	for my $minute (0, 1)
	{
		give_to('closed', $_, map { click(sprintf('2026-01-01T00:%02d:%02d.%d00Z', $minute, $_ / 5, $_ % 5 * 2), user_id => $_ % 3, value => $_) } 0 .. 290) for 0, 1;
		settled('closed');
	}
	is(sql("SELECT count(*) FROM kappa.reconcile('closed_$_')"), 0, "$_: agrees before all is final") for 'tumble', 'hop', 'session';
	ok(poll_until(30, sub { sql("SELECT bool_and(is_final) FROM closed_$_") eq 't' }), "$_: all is final at last") for 'tumble', 'hop', 'session';
	for my $kind ('tumble', 'hop', 'session')
	{
		ok(poll_until(30, sub { $rows->($kind, 'worker >= 0') == 0 }), "$kind: no row is a worker's any more");
		is(sql("SELECT count(*) FROM kappa.reconcile('closed_$kind')"), 0, "$kind: and the windows are the same");
		is(sql("SELECT count(*) FROM closed_$kind"), $rows->($kind, 'true'), "$kind: one row each") unless $kind eq 'hop';
	}
	ok(poll_until(30, sub { sql('SELECT min(window_end) > \'2026-01-01 00:01:00+00\' FROM closed_short') eq 't' }), 'what is older than the retention goes');
	is(sql("SELECT count(*) FROM kappa.reconcile('$_')"), 0, "$_: the rest agrees") for 'closed_short', 'closed_short_hop';
	is(sql("SELECT string_agg(DISTINCT cause, ' ') FROM kappa.reconcile('closed_short', '2025-01-01 00:00+00')"), 'retention', 'what is gone has a cause');
	isnt(sql("SELECT last_close_time IS NULL FROM kappa.stat_window_view WHERE name = 'closed_tumble'"), 't', 'the closer says when');
}

# ---------------------------------------------------------------- definitions that their owner has replaced

{
	my $up_since = sql('SELECT pg_postmaster_start_time()');
	my %replaced = (
		another_table => "SELECT i.window_start, i.window_end, i.page, count(*) AS n FROM (SELECT lower(win) AS window_start, upper(win) AS window_end, page FROM
			(SELECT kappa.tumble(r.ts, '1 minute') AS win, r.* FROM (SELECT o.ts, o.page FROM other o) r) w) i GROUP BY 1, 2, 3",
		nothing => 'SELECT now() AS window_start, now() AS window_end, NULL::text AS page, 1::bigint AS n FROM (SELECT FROM (SELECT 1) r) i',
		constants => 'SELECT now() AS window_start, now() AS window_end, NULL::text AS page, 1::bigint AS n',
	);

	stream('replaced', 1);
	sql('CREATE TABLE other (filler text, page text, ts timestamptz, kafka_partition integer, kafka_offset bigint)');
	for my $how (sort keys %replaced)
	{
		view($how, "SELECT $w, page, count(*) AS n FROM replaced GROUP BY 1, 2");
		sql("CREATE OR REPLACE VIEW ${how}_batch AS $replaced{$how}");
	}
	# the shape that we make ourselves, over another table
	view('shape', "SELECT $w, page, count(*) AS n FROM replaced GROUP BY 1, 2");
	my $definition = sql("SELECT pg_get_viewdef('shape_batch'::regclass)") =~ s/\breplaced\b/other/gr;
	sql("CREATE OR REPLACE VIEW shape_batch AS $definition");
	sql("CREATE OR REPLACE VIEW shape AS SELECT now() AS window_start, now() AS window_end, NULL::text AS page, 1::bigint AS n, true AS is_final");
	sql("SELECT kappa.disable('replaced'); SELECT kappa.enable('replaced')");
	give('replaced', click('2026-01-01T00:00:00Z', page => '"a page whose name is long"'));
	settled('replaced');
	is(sql("SELECT count(*) FROM kappa.window_views WHERE source = 'replaced' AND status = 'stopped' AND reason ~ 'replaced by another query'"), 4, 'each replaced definition stops its view');
	is(sql('SELECT count(*) FROM replaced'), 1, 'and costs no row');
	like(error_of("SELECT * FROM kappa.rolling(NULL::shape, '1 hour')"), qr/^55000: .*replaced by another query/, 'a replaced view does not roll');
	like(error_of("SELECT kappa.roll_up('rolled', 'shape', '1 hour')"), qr/^55000: .*replaced by another query/, 'nor roll up');
	is(sql('SELECT pg_postmaster_start_time()'), $up_since, 'and the server is the same');
	view('by_hand', "SELECT $w, count(*) AS n FROM replaced GROUP BY 1");
	sql('DROP VIEW by_hand, by_hand_batch');
	my $gone = sql("SELECT next_step FROM kappa.window_views WHERE source = 'replaced' AND reason ~ 'dropped by hand'");
	like($gone, qr/^SELECT kappa.drop_window_view\('\d+'\);$/, 'what was dropped by hand says so');
	my $views = sql('SELECT count(*) FROM kappa.window_views');
	sql($gone);
	is(sql('SELECT count(*) FROM kappa.window_views'), $views - 1, 'and its next step takes the rest away');
	like(error_of("SELECT kappa.create_window_view('v', \$q\$SELECT kappa.hop(ts, '1 day', '1 ms'), count(*) FROM replaced GROUP BY 1\$q\$)"), qr/^54000: .*10000 hopping windows/, 'hopping windows have a bound');
	sql("SELECT kappa.unsubscribe('replaced', force => true)");
}

# ---------------------------------------------------------------- what a definition may rest on

stream('joined', 1);
sql("CREATE TABLE place (page text PRIMARY KEY, town text); INSERT INTO place VALUES ('/a', 'Ulm'), ('/b', 'Bonn')");
view('by_town', "SELECT $w, p.town, count(*) AS n, sum(j.value) FROM joined j JOIN place p ON p.page = j.page GROUP BY 1, 2");
give('joined', click('2026-01-01T00:00:00Z'));
settled('joined');
sql('ALTER TABLE joined ADD COLUMN extra text; ALTER TABLE joined RENAME COLUMN page TO address; ALTER TABLE joined DROP COLUMN user_id');
give('joined', '{"address": "/b", "value": 7, "extra": "x", "ts": "2026-01-01T00:00:01Z"}');
settled('joined');
is(sql('SELECT string_agg(concat_ws(\' \', town, n, sum), \', \' ORDER BY town) FROM by_town'), 'Bonn 1 7, Ulm 1 1', 'a join goes on when columns come, go and are renamed');
is(sql("SELECT status FROM kappa.window_views WHERE name = 'by_town'"), 'ok', 'and its view with it');
sql("SELECT kappa.unsubscribe('joined', force => true)");

stream('odd', 1, watermark_delay => "'0 s'", idle_timeout => "'1 hour'");
like(error_of("SELECT kappa.create_window_view('v', \$q\$SELECT $w, $_, count(*) FROM odd GROUP BY 1, 2\$q\$)"), qr/^0A000/, "not by $_") for 'tableoid', 'ctid', 'xmin';
sql("CREATE FUNCTION first_sfunc(anyelement, anyelement) RETURNS anyelement IMMUTABLE STRICT LANGUAGE sql AS 'SELECT \$1';
	CREATE AGGREGATE any_of(anyelement) (SFUNC = first_sfunc, STYPE = anyelement, COMBINEFUNC = first_sfunc, PARALLEL = SAFE)");
view('odd_any', "SELECT $w, any_of(page) AS page, count(*) AS n FROM odd GROUP BY 1");
view('odd_xid', "SELECT $w, user_id::text::xid AS xid, count(*) AS n FROM odd GROUP BY 1, 2");
view('odd_late', "SELECT $w, count(*) AS n FROM odd GROUP BY 1", "allowed_lateness => '1 day'");
give('odd', click('2026-03-07T12:00:00Z'), click('294270-01-01T00:00:00Z'), click('2026-03-08T12:00:30Z'));
settled('odd');
is(sql('SELECT page, n FROM odd_any WHERE window_start < \'2026-03-08\''), '/a|1', 'a polymorphic aggregate is kept');
is(sql('SELECT sum(n) FROM odd_xid'), 2, 'a key without an order too');
is(sql("SELECT count(*) FROM odd_any_batch"), 2, 'a time at the end of the type is in no window, here and there');
is(sql("SELECT count(*) FROM kappa.reconcile('odd_any')"), 0, 'reconcile can read them');
is(sql("SET TimeZone = '$_'; SELECT string_agg(is_final::text, ' ' ORDER BY window_start) FROM odd_late"), 'false false', "a day of lateness has 24 hours in $_") for 'UTC', 'America/New_York';
give('odd', click('2026-03-07T12:00:00Z'));
settled('odd');
is(sql('SELECT max(n) FROM odd_late'), 2, 'so a row in time counts');

# an enum's state survives where its labels get other numbers: it is text
sql("CREATE TYPE mood AS ENUM ('sad', 'glad'); ALTER TABLE odd ADD COLUMN mood mood");
view('odd_mood', "SELECT $w, max(mood) AS mood, max(ARRAY[mood]) AS moods FROM odd GROUP BY 1");
give('odd', '{"ts": "2026-03-10T00:00:00Z", "mood": "sad"}', '{"ts": "2026-03-10T00:00:01Z", "mood": "glad"}');
settled('odd');
is(sql("SELECT mood, moods FROM odd_mood WHERE window_start = '2026-03-10 00:00+00'"), 'glad|{glad}', 'states of enums');
is(sql(q{SELECT convert_from(substr(a1::text::bytea, 9), 'UTF8') FROM } . sql("SELECT state FROM kappa.window_view WHERE view = 'odd_mood'::regclass") . q{ WHERE window_start = '2026-03-10 00:00+00'}), 'glad', 'are labels, not numbers');
like(error_of("SELECT kappa.create_window_view('$_->[0]', \$q\$$_->[1]\$q\$$_->[2])"), $_->[3], $_->[4])
  for [ 'pg_temp.v', "SELECT $w, count(*) FROM odd GROUP BY 1", '', qr/^0A000: .*temporary/, 'no temporary view' ],
  [ 'v', "SELECT $w, count(*) FROM odd GROUP BY 1", ", allowed_lateness => '1 month'", qr/^22023: .*months/, 'no lateness of months' ],
  [ 'v', "SELECT $w, unnest(ARRAY[page]), count(*) FROM odd GROUP BY 1, 2", '', qr/^0A000: .*set-returning/, 'no set-returning key' ],
  [ 'v', "SELECT $w, count(*) FROM odd TABLESAMPLE SYSTEM (10) GROUP BY 1", '', qr/^0A000: .*TABLESAMPLE/, 'no sample' ],
  [ 'v', "SELECT $w, odd::text, count(*) FROM odd GROUP BY 1, 2", '', qr/^0A000: .*whole row/, 'no whole row' ];

# the owner's right to the rows is looked at in each batch
sql("CREATE ROLE leaver; GRANT postgres TO leaver; GRANT CREATE ON SCHEMA public TO leaver; GRANT SELECT ON odd TO leaver");
sql("SET ROLE leaver; SELECT kappa.create_window_view('left_behind', \$q\$SELECT $w, max(page) FROM odd GROUP BY 1\$q\$)");
sql('REVOKE postgres FROM leaver');
give('odd', click('2026-03-10T00:00:02Z', page => '"secret"'));
settled('odd');
is(sql("SELECT count(*) FROM left_behind WHERE max = 'secret'"), 0, 'who has lost the right gets no new rows');
like(sql("SELECT reason FROM kappa.window_views WHERE name = 'left_behind'"), qr/no member/, 'and his view says why');

# a dimension that is not ready stops its view, not the stream
sql('CREATE MATERIALIZED VIEW ready AS SELECT * FROM place');
view('not_ready', "SELECT $w, count(*) AS n FROM odd JOIN ready ON ready.page = odd.page GROUP BY 1");
sql('REFRESH MATERIALIZED VIEW ready WITH NO DATA');
give('odd', click('2026-03-10T00:00:03Z'));
settled('odd');
like(sql("SELECT reason FROM kappa.window_views WHERE name = 'not_ready'"), qr/^55000: .*not been populated/, 'what is not ready stops the view alone');

# a rebuild does not lose final windows with rows that somebody has deleted
sql("DELETE FROM odd WHERE ts < '2026-03-08'");
like(error_of("SELECT kappa.rebuild('odd_any')"), qr/^55000: .*would change 1 final windows/, 'a rebuild refuses to change final windows');
is(sql("SELECT count(*) FROM odd_any WHERE window_start < '2026-03-08'"), 1, 'so they are there');
sql("SELECT kappa.rebuild('odd_any', force => true)");
is(sql("SELECT count(*) FROM odd_any WHERE window_start < '2026-03-08'"), 0, 'unless it is forced');
# aggregates need the right to run them
sql("CREATE FUNCTION reveal(anyelement) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'; CREATE AGGREGATE hidden(anyelement) (SFUNC = first_sfunc, STYPE = anyelement, COMBINEFUNC = first_sfunc);
	REVOKE ALL ON FUNCTION hidden(anyelement) FROM PUBLIC");
like(error_of("SELECT kappa.combine(NULL, 'hidden(anyelement)'::regprocedure, NULL::text)", 'stranger'), qr/^42501/, 'kappa.combine asks for the right to the aggregate');
sql('ALTER VIEW odd_any OWNER TO stranger');
like(error_of("SELECT * FROM kappa.rolling(NULL::odd_any, '1 minute')"), qr/^55000: .*different owners/, 'views of two owners do not roll');

# read again after a seek: which copy was late nobody can tell
sql("SELECT kappa.seek('odd', start_from => '{\"0\": 0}')");
settled('odd');
like(error_of("SELECT kappa.rebuild('odd_xid', force => true)"), qr/^55000: .*read more than once/, 'what was read twice is not rebuilt by guessing');
sql("SELECT kappa.unsubscribe('odd', force => true)");

# ---------------------------------------------------------------- a broker that is cut off is not idle

stream('cut', 2, watermark_delay => "'0 s'", idle_timeout => "'2 s'");
view('cut_10s', "SELECT kappa.tumble(ts, '10 s'), count(*) FROM cut GROUP BY 1");
give_to('cut', 0, click('2026-01-01T00:00:01Z'));
settled('cut');
my ($broker) = slurp_file(broker_folder() . '/pid') =~ /(\d+)/;
kill 'STOP', $broker;
{
	my $until = time + 8;

	# its silence is seen for longer than idle_timeout; what is watched is that nothing closes
	my $closed = poll_until($until - time, sub { sql('SELECT bool_or(is_final) FROM cut_10s') eq 't' });
	ok(!$closed, 'a broker that does not answer proves nothing idle');
	is(sql("SELECT string_agg(coalesce(idle, false)::text, ' ') FROM kappa.stat_partition WHERE name = 'cut'"), 'false false', 'its partitions are not idle');
}
kill 'CONT', $broker;
ok(poll_until(60, sub { sql('SELECT bool_and(is_final) FROM cut_10s') eq 't' }), 'when it answers again the window closes');
finish();
