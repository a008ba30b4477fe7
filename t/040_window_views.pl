
# Window views over random streams: disorder, late and future rows, rows without a time, NULL
# keys, views made before and amid, one worker and two, batches of one row and of thousands.
#
# The oracle is SQL over the rows and kappa.batch_log, which tells by which watermark each
# batch was judged; it knows windows, lateness and sessions by their definitions and calls none
# of our functions.  It says what each view and its list of late rows must hold; and the watermarks
# follow from the log itself.  Rows seen as final are looked at again at the end.
#
#   KAPPA_SEED=N replays the choices; KAPPA_STREAMS=N that many streams.

use strict;
use warnings;

use FormatTest;
use KappaTest qw(seed pick poll_until);
use Test::More;

seed();
my $streams = $ENV{KAPPA_STREAMS} // ($ENV{KAPPA_LONG} ? 200 : 12);
my $node = start('windows', 'kappa.batch_log = 1000000');

sql('CREATE TABLE dimension (page text PRIMARY KEY, section text);
	INSERT INTO dimension SELECT \'/p\' || i, CASE WHEN i < 3 THEN \'front\' ELSE \'back\' END FROM generate_series(0, 5) i');

# name => [ query over the table, oracle: windows of a row ("w", seconds since the epoch), length or gap, keys, sums, filter ]
my %views = (
	tumble => {
		query => "SELECT kappa.tumble(ts, '10 s'), page, count(*) AS n, sum(value) AS total, min(value), max(user_id), count(page) FILTER (WHERE value > 50) AS large FROM %s GROUP BY 1, 2",
		starts => 'floor(ep / 10) * 10', size => 10, keys => 'page',
		sums => 'count(*), sum(value), min(value), max(user_id), count(page) FILTER (WHERE value > 50)', where => 'true' },
	hop => {
		query => "SELECT kappa.hop(ts, '30 s', '10 s'), user_id %% 3 AS third, count(*), avg(value) AS mean FROM %s WHERE value IS NOT NULL GROUP BY third, kappa.hop(ts, '30 s', '10 s')",
		starts => 'generate_series(floor(ep / 10)::bigint * 10 - 20, floor(ep / 10)::bigint * 10, 10)', size => 30, keys => 'user_id % 3',
		sums => 'count(*), avg(value)', where => 'value IS NOT NULL' },
	odd_hop => {
		query => "SELECT count(*) AS n, bool_and(value > 10) AS b, stddev(value) AS s FROM %s GROUP BY kappa.hop(ts, '25 s', '10 s')",
		starts => 'generate_series(floor(ep / 10)::bigint * 10 - 20, floor(ep / 10)::bigint * 10, 10)', size => 25, keys => undef,
		sums => 'count(*), bool_and(value > 10), stddev(value)', where => 'true' },
	joined => {
		query => "SELECT kappa.tumble(e.ts, '20 s', origin => '2000-01-01 00:00:05+00'), d.section, count(*) * 2 AS twice, max(e.page) FROM %s e JOIN dimension d USING (page) GROUP BY 1, 2",
		starts => 'floor((ep - 5) / 20) * 20 + 5', size => 20, keys => '(SELECT section FROM dimension d WHERE d.page = r.page)',
		sums => 'count(*) * 2, max(page)', where => 'page IN (SELECT page FROM dimension)' },
	session => {
		query => "SELECT kappa.session(ts, '3 s'), user_id, count(*), sum(value), min(page) FROM %s GROUP BY 1, 2",
		gap => 3, keys => 'user_id', sums => 'count(*), sum(value), min(page)', where => 'true' });

# ---------------------------------------------------------------- streams

# Event times go on by steps; some rows are a little late, a few very, one is ten years ahead.
sub message
{
	my ($stream, $i) = @_;
	my $ep = 1_767_225_600 + $i * $stream->{step} + pick(1000) / 1000;
	my $kind = pick(200);

	$ep -= pick(20) if $kind < 40;
	$ep -= 20 + pick(200) if $kind >= 40 && $kind < 46;
	my $ts = $kind == 50 ? 'null' : $kind == 51 ? '"infinity"' : $kind == 52 ? '"-infinity"' : $kind == 53 ? '"2036-01-01T00:00:00Z"' : sprintf '"@%.3f"', $ep;
	my ($sec, $ms) = split /\./, sprintf '%.3f', $ep;
	my @t = gmtime $sec;
	$ts = sprintf '"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ"', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0], $ms if $ts =~ /@/;
	my $page = pick(12) ? '"/p' . (pick(4) ? 0 : pick(8)) . '"' : 'null';

	return sprintf '{"user_id": %s, "page": %s, "value": %s, "ts": %s}', pick(15) ? pick($stream->{users}) : 'null',
	  $page, pick(10) ? pick(100) : 'null', $ts;
}

sub new_stream
{
	my ($n) = @_;
	my %stream = (name => "s$n", parts => 1 + pick(4), workers => 1 + pick(2), users => (2, 20, 500)[ pick(3) ],
		batch => (1, 7, 60, 5000)[ pick(4) ], step => (0.02, 0.1, 0.5)[ pick(3) ], delay => (0, 2, 10)[ pick(3) ], lateness => (0, 0, 5, 30)[ pick(4) ],
		sent => 0, made => {});
	$stream{total} = $stream{batch} == 1 ? 250 : 600 + pick(1500);
	sql("CREATE TABLE $stream{name} (kafka_partition integer, kafka_offset bigint, user_id integer, page text, value integer, ts timestamptz)");
	topic($stream{name}, $stream{parts});
	subscribe($stream{name}, event_time => "'ts'", watermark_delay => "'$stream{delay} s'", idle_timeout => "'1 hour'", workers => $stream{workers},
		batch_rows => $stream{batch});
	return \%stream;
}

# Rows that are there before a view are never late: the positions at that time.
sub make_view
{
	my ($stream, $kind) = @_;
	my $name = "$stream->{name}_$kind";
	my $query = sprintf $views{$kind}{query}, $stream->{name};
	my $at = sql("BEGIN; SELECT kappa.create_window_view('$name', \$q\$$query\$q\$, allowed_lateness => '$stream->{lateness} s') IS NULL;
		SELECT 'at ' || string_agg(format('WHEN %s THEN %s', part, next_offset), ' ') FROM kappa.stat_partition WHERE name = '$stream->{name}'; COMMIT");

	($stream->{made}{$kind}) = $at =~ /at (.*)/;
	sql("CREATE TABLE final_$name AS SELECT * FROM $name WHERE is_final");
}

sub send_some
{
	my ($stream, $n) = @_;
	my @for;

	push @{ $for[ pick($stream->{parts}) ] }, message($stream, $stream->{sent}++) for 1 .. $n;
	for my $part (grep { $for[$_] } 0 .. $#for)
	{
		give_to($stream->{name}, $part, @{ $for[$part] });
	}
}

sub note_finals
{
	my ($stream) = @_;

	sql(join ';', map { "INSERT INTO final_$stream->{name}_$_ SELECT * FROM $stream->{name}_$_ WHERE is_final" } keys %{ $stream->{made} });
}

sub play
{
	my ($stream) = @_;
	my @kinds = sort keys %views;

	make_view($stream, shift @kinds) for 1 .. pick(5);
	while ($stream->{sent} < $stream->{total})
	{
		send_some($stream, 1 + pick($stream->{batch} == 1 ? 80 : 400));
		settled($stream->{name}) if pick(2);
		make_view($stream, shift @kinds) if @kinds && !pick(2);
		note_finals($stream) if !pick(3);
	}
	make_view($stream, $_) for @kinds;
	settled($stream->{name});
	note_finals($stream);
}

# ---------------------------------------------------------------- the oracle

# Rows with what they are judged by, "-infinity" for those before the view
sub judged
{
	my ($stream, $kind) = @_;

	return "(SELECT e.*, extract(epoch FROM e.ts)::numeric AS ep, CASE WHEN e.kafka_offset < CASE e.kafka_partition $stream->{made}{$kind} END THEN '-infinity' ELSE b.judged_by END AS judged_by
		FROM $stream->{name} e JOIN kappa.subscription s ON s.name = '$stream->{name}'
		JOIN kappa.batch_log b ON b.subscription = s.id AND b.part = e.kafka_partition AND e.kafka_offset >= b.from_offset AND e.kafka_offset < b.to_offset
		WHERE isfinite(e.ts))";
}

sub expected_panes
{
	my ($stream, $view, $judged) = @_;
	my $keys = $view->{keys} ? ", $view->{keys} AS k" : '';
	my $windows = "(SELECT r.*, to_timestamp(w::double precision) AS ws, to_timestamp((w + $view->{size})::double precision) AS we
		FROM (SELECT r.*, $view->{starts} AS w FROM $judged r WHERE $view->{where}) r WHERE w + $view->{size} > ep)";
	my $late = "we + interval '$stream->{lateness} s' <= judged_by";

	return ("SELECT ws, we" . ($keys ? ', k' : '') . ", $view->{sums} FROM (SELECT r.*$keys FROM $windows r WHERE NOT $late) r GROUP BY ws, we" . ($keys ? ', k' : ''),
		"SELECT ws, we, kafka_partition, kafka_offset, ts, judged_by FROM $windows r WHERE $late");
}

sub expected_sessions
{
	my ($stream, $view, $judged) = @_;
	my $late = "ts + interval '$stream->{lateness} s' <= judged_by";
	my $gap = "interval '$view->{gap} s'";

	return ("SELECT min(ts), max(ts) + $gap, k, $view->{sums} FROM (SELECT r.*, count(*) FILTER (WHERE first) OVER (PARTITION BY k ORDER BY ts) AS number
			FROM (SELECT r.*, $view->{keys} AS k, coalesce(ts > lag(ts) OVER (PARTITION BY $view->{keys} ORDER BY ts) + $gap, true) AS first
				FROM $judged r WHERE NOT $late) r) r GROUP BY k, number",
		"SELECT ts, ts + $gap, kafka_partition, kafka_offset, ts, judged_by FROM $judged r WHERE $late");
}

sub check_view
{
	my ($stream, $kind) = @_;
	my $name = "$stream->{name}_$kind";
	my $view = $views{$kind};
	my ($rows, $late) = ($view->{gap} ? \&expected_sessions : \&expected_panes)->($stream, $view, judged($stream, $kind));
	my $columns = sql("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '$name'::regclass AND attname <> 'is_final'");
	my $what = "$name ($stream->{parts} partitions, $stream->{workers} workers, batches of $stream->{batch}, delay $stream->{delay}, lateness $stream->{lateness})";

	is_rows("SELECT $columns FROM $name", $rows, "$what: windows");
	is_rows("SELECT window_start, window_end, part, kafka_offset, event_time, watermark FROM kappa.late_rows WHERE view_name = '$name'", $late, "$what: late rows");
	is(sql("SELECT count(*) FROM kappa.reconcile('$name')"), 0, "$what: reconcile finds nothing");
	is(sql("SELECT count(*) FROM (SELECT * FROM final_$name EXCEPT SELECT * FROM $name) x"), 0, "$what: no final row has changed");
	is(sql("SELECT count(*) FROM $name v, (SELECT min(coalesce(verdict_watermark, '-infinity')) AS w FROM kappa.stat_partition WHERE name = '$stream->{name}') p
		WHERE v.is_final <> (v.window_end + interval '$stream->{lateness} s' <= p.w)"), 0, "$what: is_final as the watermark says");
}

# What each commit made of the watermark, from the newest event times of all partitions then
sub check_watermarks
{
	my ($stream) = @_;
	my (%newest, %verdict, %seen);
	my @wrong;
	my @lines = map { [ split /\|/ ] } split /\n/, sql("SELECT l.xmin::text, part, extract(epoch FROM judged_by), extract(epoch FROM verdict_watermark), extract(epoch FROM max_event_time)
		FROM kappa.batch_log l JOIN kappa.subscription s ON s.id = l.subscription WHERE s.name = '$stream->{name}' ORDER BY l.id");
	my %of_commit;

	push @{ $of_commit{ $_->[0] } }, $_ for @lines;
	for my $line (@lines)
	{
		my $commit = delete $of_commit{ $line->[0] } or next;

		$newest{ $_->[1] } = $_->[4] for @$commit;
		my ($least) = sort { $a <=> $b } map { $newest{$_} // '-Infinity' } 0 .. $stream->{parts} - 1;
		for (@$commit)
		{
			my $before = $verdict{ $_->[1] } // '-Infinity';
			my $wanted = $least - $stream->{delay} > $before ? $least - $stream->{delay} : $before;

			# two workers: each sees the other's last commit or an earlier one
			my $right = $stream->{workers} == 1 ? abs($_->[3] - $wanted) < 1e-5 || $_->[3] eq $wanted : $_->[3] >= $before && $_->[3] <= $wanted + 1e-5;
			push @wrong, "@$_, not $wanted" unless $right && ($_->[2] eq $before || abs($_->[2] - $before) < 1e-5);
			$verdict{ $_->[1] } = $_->[3];
		}
	}
	is(scalar @wrong, 0, "$stream->{name}: " . @lines . ' moves of the watermark') or diag(join "\n", @wrong[ 0 .. ($#wrong < 5 ? $#wrong : 5) ]);
}

for my $n (1 .. $streams)
{
	my $stream = new_stream($n);

	play($stream);
	check_view($stream, $_) for sort keys %views;
	check_watermarks($stream);
	for my $kind ('tumble', 'hop', 'session')
	{
		my $name = "$stream->{name}_$kind";

		# the stream is silent by now, so time goes on and windows become final: not compared
		sql("CREATE TABLE was_$name AS SELECT to_jsonb(v) - 'is_final' AS row FROM $name v; SELECT kappa.rebuild('$name')");
		is_rows("SELECT to_jsonb(v) - 'is_final' AS row FROM $name v", "SELECT * FROM was_$name", "$name: a rebuild gives the same");
	}
	sql("SELECT kappa.disable('$stream->{name}')");
}
isnt(sql('SELECT count(*) FROM kappa.late_rows'), 0, 'there were late rows');
isnt(sql("SELECT count(*) FROM kappa.late_rows l JOIN kappa.late_rows m USING (view_name, part, kafka_offset) WHERE l.window_start < m.window_start"), 0,
	'some for several of their windows');
finish();
