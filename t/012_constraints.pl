
# Errors that the table finds: each kind of constraint and trigger, one culprit in
# a hundred of 5,000 messages in one batch.  The culprits become dead letters and all
# neighbours are stored.  Then on_error => 'stop': what stands before the culprit is
# committed, the position stands on it, and skip goes on.

use strict;
use warnings;

use FormatTest;
use KappaTest qw(seed pick poll_until);
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;
use Time::HiRes qw(time);

seed();
my $node = start('constraints');
my $many = 5000;

sql(q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.bad THEN
			IF TG_ARGV[0] = 'state' THEN RAISE SQLSTATE 'XY123' USING MESSAGE = 'refused', DETAIL = 'The trigger says so.'; END IF;
			RAISE EXCEPTION 'refused';
		END IF;
		RETURN NEW;
	END $$;
	CREATE FUNCTION drop_bad() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.bad THEN NULL ELSE NEW END; END $$;
	CREATE TABLE parent (id integer PRIMARY KEY);
	INSERT INTO parent VALUES (1);
});

# [ name, columns (id, bad, kafka_offset come by themselves), what to do besides, culprit's members, good one's, SQLSTATE, reason ]
my @kinds = (
	[ 'c_check', 'v integer CHECK (v < 10)', '', '"v": 10', '"v": 1', '23514', qr/c_check_v_check/ ],
	[ 'c_not_null', 'v integer NOT NULL', '', '"v": null', '"v": 1', '23502', qr/"v"/ ],
	[ 'c_domain', 'v integer', "CREATE DOMAIN c_small AS integer CHECK (VALUE < 10); ALTER TABLE c_domain ALTER v TYPE c_small", '"v": 10',
		'"v": 1', '23514', qr/c_small/ ],
	[ 'c_length', 'v varchar(3)', '', '"v": "long"', '"v": "ok"', '22001', qr/too long/ ],
	[ 'c_index', 'v text', 'CREATE INDEX ON c_index ((100 / length(v)))', '"v": ""', '"v": "x"', '22012', qr/zero/ ],
	[ 'c_generated', 'v integer, g integer GENERATED ALWAYS AS (100 / v) STORED', '', '"v": 0', '"v": 1', '22012', qr/zero/ ],
	[ 'c_default', 'v integer, w integer DEFAULT 1 / (random() * 0)::integer', '', '"v": 0', '"w": 1', '22012', qr/zero/ ],
	[ 'c_foreign', 'v integer REFERENCES parent', '', '"v": 2', '"v": 1', '23503', qr/c_foreign_v_fkey.*not present/ ],
	[ 'c_deferred', 'v integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED', '', '"v": 2', '"v": 1', '23503', qr/c_deferred_v_fkey/ ],
	[ 'c_unique', 'v integer UNIQUE', 'INSERT INTO c_unique (v) VALUES (-1)', '"v": -1', '"v": null', '23505', qr/c_unique_v_key/ ],
	[ 'c_unique_deferred', 'v integer UNIQUE DEFERRABLE INITIALLY DEFERRED', 'INSERT INTO c_unique_deferred (v) VALUES (-1)', '"v": -1',
		'"v": null', '23505', qr/c_unique_deferred_v_key/ ],
	[ 'c_exclude', "v int4range, EXCLUDE USING gist (v WITH &&)", "INSERT INTO c_exclude (v) VALUES ('[1,5)')", '"v": "[2,3)"', '"v": null',
		'23P01', qr/c_exclude_v_excl/ ],
	[ 'c_before', 'v integer', 'CREATE TRIGGER t BEFORE INSERT ON c_before FOR EACH ROW EXECUTE FUNCTION refuse()', '"bad": true', '"v": 1',
		'P0001', qr/^refused/ ],
	[ 'c_after', 'v integer', 'CREATE TRIGGER t AFTER INSERT ON c_after FOR EACH ROW EXECUTE FUNCTION refuse()', '"bad": true', '"v": 1',
		'P0001', qr/^refused/ ],
	[ 'c_state', 'v integer', "CREATE TRIGGER t AFTER INSERT ON c_state FOR EACH ROW EXECUTE FUNCTION refuse('state')", '"bad": true',
		'"v": 1', 'XY123', qr/^refused.*says so/ ],
	[ 'c_late', 'v integer', 'CREATE CONSTRAINT TRIGGER t AFTER INSERT ON c_late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()', '"bad": true', '"v": 1', 'P0001', qr/^refused/ ],
	[ 'c_part', 'v integer', '', '"v": 20', '"v": 1', '23514', qr/no partition/ ]);

for my $kind (@kinds)
{
	my ($name, $columns, $more, $bad, $good, $state, $reason) = @$kind;
	my %culprit;
	my @messages;

	$culprit{ pick($many) } = 1 for 1 .. $many / 100;
	push @messages, sprintf('{"id": %d, %s}', $_, $culprit{$_} ? $bad : $good) for 0 .. $many - 1;
	sql("CREATE TABLE $name (id integer, bad boolean, kafka_offset bigint, $columns)" . ($name eq 'c_part' ? ' PARTITION BY LIST (v)' : ''));
	sql('CREATE TABLE c_part_1 PARTITION OF c_part FOR VALUES IN (1)') if $name eq 'c_part';
	sql($more) if $more ne '';

	my $started = time();
	consume($name, \@messages);
	my $took = time() - $started;

	is(sql("SELECT string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM kappa.dead_letters WHERE name = '$name'"),
		join(' ', sort { $a <=> $b } keys %culprit), "$name: the culprits are the dead letters");
	is(sql("SELECT string_agg(DISTINCT sqlstate, ' ') FROM kappa.dead_letters WHERE name = '$name'"), $state, "$name: SQLSTATE $state");
	like(sql("SELECT min(error) FROM kappa.dead_letters WHERE name = '$name'"), $reason, "$name: the reason");
	is(sql("SELECT count(*), count(DISTINCT id) FROM $name WHERE id IS NOT NULL"), join('|', ($many - keys %culprit) x 2),
		"$name: all neighbours are stored, once");
	is_balanced($name, stored => $many - keys %culprit, dead_lettered => scalar keys %culprit);
	note(sprintf('%s: %d messages, %d culprits: %.2f s', $name, $many, scalar keys %culprit, $took));
	cmp_ok($took, '<', 60, "$name: in bounded time");
}

# A unique value twice in a batch: the first one stays
{
	sql('CREATE TABLE twice (id integer PRIMARY KEY, kafka_offset bigint)');
	consume('twice', [ map { '{"id": ' . ($_ % 700) . '}' } 0 .. 999 ]);
	is(sql('SELECT count(*), max(kafka_offset) FROM twice'), '700|699', 'of equal keys the first one stays');
	is_balanced('twice', stored => 700, dead_lettered => 300);
}

# Many of a batch fail, each attempt with its indexes opened anew: the worker's memory stays in bounds
{
	sql('CREATE TABLE replayed (id integer PRIMARY KEY, v integer, kafka_offset bigint);
		CREATE INDEX ON replayed (v); CREATE INDEX ON replayed (kafka_offset);
		INSERT INTO replayed SELECT i FROM generate_series(0, 9999) i WHERE i % 5 < 2');
	topic('replayed');
	give('replayed', map { "{\"id\": $_, \"v\": $_}" } 0 .. 9999);
	my $before = sql('SELECT pg_current_xact_id()');
	subscribe('replayed');
	settled('replayed');
	is_balanced('replayed', stored => 6000, dead_lettered => 4000);
	my $pid = sql("SELECT pid FROM kappa.stat_subscription WHERE name = 'replayed'");
	my ($kb) = slurp_file("/proc/$pid/status") =~ /RssAnon:\s+(\d+)/;
	my $ids = sql('SELECT pg_current_xact_id()') - $before;
	cmp_ok($kb, '<', 256 * 1024, "4,000 dead letters in one batch: the worker holds $kb kB, and took $ids transaction ids");
	sql("SELECT kappa.disable('replayed')");
}

# A trigger's transient error is the row's own where neighbours succeed, be they later; where none does it is not
{
	sql(q{
		CREATE FUNCTION lacks() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.bad THEN PERFORM pg_read_file('no such file'); END IF; RETURN NEW; END $$;
		CREATE TABLE wedge (id integer, bad boolean, kafka_offset bigint); CREATE TABLE outage (LIKE wedge);
		CREATE TRIGGER t AFTER INSERT ON wedge FOR EACH ROW EXECUTE FUNCTION lacks();
		CREATE TRIGGER t AFTER INSERT ON outage FOR EACH ROW EXECUTE FUNCTION lacks()});
	topic($_) for qw(wedge outage);
	give('wedge', '{"id": 0, "bad": true}');
	give('outage', map { "{\"id\": $_, \"bad\": " . ($_ < 5 ? 'false' : 'true') . '}' } 0 .. 19);
	subscribe($_) for qw(wedge outage);
	my $tries = sub {
		my ($name, $n) = @_;
		poll_until(60, sub { sql("SELECT count(*) FROM kappa.stat_subscription WHERE name = '$name' AND retries >= $n") eq '1' });
	};
	ok($tries->('wedge', 1), 'a message with a transient error: it is tried again');
	give('wedge', map { "{\"id\": $_, \"bad\": " . ($_ == 50 || $_ == 99 ? 'true' : 'false') . '}' } 1 .. 99);
	settled('wedge');
	is_balanced('wedge', stored => 97, dead_lettered => 3);
	is_dead('wedge', 'the messages that cause it', map { [ $_, '58P01', qr/no such file/ ] } 0, 50, 99);
	ok($tries->('outage', 4), 'many in a row: it is tried again');
	is_balanced('outage', stored => 0);
	sql('ALTER TABLE outage DISABLE TRIGGER t');
	settled('outage');
	is_balanced('outage', stored => 20);
	sql("SELECT kappa.disable('$_')") for qw(wedge outage);
}

# A trigger that takes no row: filtered
{
	sql('CREATE TABLE dropped (id integer, bad boolean, kafka_offset bigint); CREATE TRIGGER t BEFORE INSERT ON dropped FOR EACH ROW EXECUTE FUNCTION drop_bad()');
	consume('dropped', [ map { "{\"id\": $_, \"bad\": " . ($_ % 3 ? 'false' : 'true') . '}' } 0 .. 299 ]);
	is(sql('SELECT count(*) FROM dropped'), 200, 'a trigger may drop rows');
	is_balanced('dropped', stored => 200, filtered => 100);
}

# All of it at once, several culprits of several kinds
{
	sql('CREATE TABLE mixed (id integer UNIQUE, v integer CHECK (v < 10) REFERENCES parent DEFERRABLE INITIALLY DEFERRED, bad boolean, kafka_offset bigint);
		CREATE TRIGGER t AFTER INSERT ON mixed FOR EACH ROW EXECUTE FUNCTION refuse()');
	consume('mixed', [ map({ "{\"id\": $_}" } 1 .. 50), '{"id": 1}', '{"id": 51, "v": 11}', '{"id": 52, "v": 2}', '{"id": 53, "bad": true}',
		'{"id": "x"}', '{"id": 54, "v": 1}', 'x', '{"id": 54}', map({ "{\"id\": $_}" } 55 .. 100) ]);
	is_dead('mixed', 'each for its own reason', [ 50, '23505', qr/mixed_id_key/ ], [ 51, '23514', qr/mixed_v_check/ ], [ 52, '23503',
		qr/mixed_v_fkey/ ], [ 53, 'P0001', qr/refused/ ], [ 54, '22P02', qr/integer/ ], [ 56, '22P02', qr/JSON/ ], [ 57, '23505', qr/mixed_id_key/ ]);
	is(sql('SELECT count(*) FROM mixed'), 97, 'and the neighbours');
}

# ---------------------------------------------------------------- on_error => 'stop'

my %culprits = (
	decoder => [ '{"id": "x"}', qr/22P02: .*integer/ ], scan => [ '{bad', qr/22P02: .*JSON/ ], 'check' => [ '{"id": -1}',
		qr/23514: .*check/ ], unique => [ '{"id": 0}', qr/23505: .*key/ ],
	trigger => [ '{"id": 900000, "bad": true}', qr/P0001: refused/ ], deferred => [ '{"id": 900001, "v": 2}', qr/23503: .*fkey/ ]);

# One partition, two culprits of a kind: rows before the first, skip, rows before the second, skip, the rest
for my $kind (sort keys %culprits)
{
	for my $batch (10000, 64)
	{
		my ($culprit, $reason) = @{ $culprits{$kind} };
		my $name = "stop_${kind}_$batch";
		my @messages = map { "{\"id\": $_}" } 0 .. 599;

		@messages[ 333, 450 ] = ($culprit) x 2;
		sql("CREATE TABLE $name (id integer UNIQUE CHECK (id >= 0), v integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED, bad boolean, kafka_offset bigint);
			CREATE TRIGGER t AFTER INSERT ON $name FOR EACH ROW EXECUTE FUNCTION refuse()");
		topic($name);
		give($name, @messages);
		subscribe($name, on_error => "'stop'", batch_rows => $batch);
		for my $at (333, 450)
		{
			my $range = $at + 1;
			like(stopped($name), qr/^poison: partition 0, offsets \[$at, $range\): $reason/, "$name: stops on $at");
			is(sql("SELECT max(kafka_offset), count(*) FROM $name"), join('|', $at - 1, $at == 333 ? 333 : 449),
				"$name: what stands before it is committed, nothing behind it");
			is(sql("SELECT next_offset, stored, dead_lettered, balanced FROM kappa.balance WHERE name = '$name'"), join('|', $at,
				$at == 333 ? 333 : 449, 0, 't'), "$name: the position stands on it");
			is(sql("SELECT next_step FROM kappa.subscriptions WHERE name = '$name'"), "SELECT kappa.skip('$name', part => 0, at => $at);",
				"$name: the next step");
			sql("SELECT kappa.skip('$name', part => 0, at => $at)");
		}
		settled($name);
		is_balanced($name, stored => 598, skipped => 2);
		is(sql("SELECT count(*), count(DISTINCT kafka_offset) FROM $name"), '598|598', "$name: all but the culprits, once");
		is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = '$name'"), 0, "$name: no dead letter");
		sql("SELECT kappa.disable('$name')");
	}
}

# Several partitions at once, with different culprits; one has none; the first message, and the last
for my $workers (1, 2)
{
	my $name = "stop_parts_$workers";
	my %at = (0 => [ 0, 'decoder' ], 1 => [ 99, 'check' ], 2 => [ 57, 'unique' ], 4 => [ 30, 'deferred' ]);

	topic($name, 5);
	sql("CREATE TABLE $name (id integer UNIQUE CHECK (id >= 0), v integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED, bad boolean, kafka_partition integer, kafka_offset bigint);
		INSERT INTO $name (id) VALUES (0)");
	for my $part (0 .. 4)
	{
		my @messages = map { '{"id": ' . ($part * 1000 + $_) . '}' } 1 .. 100;
		$messages[ $at{$part}[0] ] = $culprits{ $at{$part}[1] }[0] if $at{$part};
		give_to($name, $part, @messages);
	}
	subscribe($name, on_error => "'stop'", workers => $workers);
	ok(poll_until(60, sub { sql("SELECT count(*) FROM kappa.stat_partition WHERE name = '$name' AND (verdict = 'poison' OR next_offset = 100)") == 5 }), "$name: four partitions stop, one goes on");
	is(sql("SELECT string_agg(part || ':' || next_offset || ':' || stored, ' ' ORDER BY part) FROM kappa.balance WHERE name = '$name'"),
		'0:0:0 1:99:99 2:57:57 3:100:100 4:30:30', "$name: each position stands on its culprit");
	is(sql("SELECT string_agg(p || ':' || n, ' ' ORDER BY p) FROM (SELECT kafka_partition AS p, count(*) AS n FROM $name WHERE kafka_partition IS NOT NULL GROUP BY 1) g"), '1:99 2:57 3:100 4:30', "$name: the rows before each");
	sql("SELECT kappa.skip('$name', part => $_, at => $at{$_}[0])") for sort keys %at;
	settled($name);
	is_balanced($name, stored => 496, skipped => 4);
	sql("SELECT kappa.disable('$name')");
}

# In upsert and with a transform
{
	my @messages = (map({ '{"id": ' . $_ % 20 . ', "v": 1}' } 0 .. 99), '{"id": 50, "v": 2}', map({ '{"id": ' . $_ % 20 . ', "v": null}' } 0 .. 9));

	topic('stop_ways');
	give('stop_ways', @messages);
	for my $way ([ 'stop_upsert', mode => "'upsert'" ], [ 'stop_transform',
		transform => quote(q{SELECT (value->>'id')::integer AS id, kafka_offset, (value->>'v')::integer AS v, 1 / (2 - coalesce((value->>'v')::integer, 0)) AS w FROM message}) ])
	{
		my ($name, %arguments) = @$way;

		sql("CREATE TABLE $name (id integer" . ($name eq 'stop_upsert' ? ' PRIMARY KEY' : '') . ', v integer REFERENCES parent, w integer, kafka_offset bigint)');
		subscribe($name, %arguments, topic => "'stop_ways'", on_error => "'stop'");
		like(stopped($name), qr/^poison: partition 0, offsets \[100, 101\): (23503|22012)/, "$name: stops on the culprit");
		is(sql("SELECT max(kafka_offset), min(v) FROM $name"), '99|1', "$name: with what stands before it");
		sql("SELECT kappa.skip('$name', part => 0, at => 100)");
		settled($name);
		is_balanced($name, stored => 110, skipped => 1);
		sql("SELECT kappa.disable('$name')");
	}
}

finish();
