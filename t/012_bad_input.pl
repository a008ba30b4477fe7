
# Bad input: what cannot be a row becomes a dead letter with the right SQLSTATE,
# a reason and all its bytes; its neighbours are stored; no partition ever stands still.
#
# After the cases by hand come documents at the edges of what is allowed (depth,
# size) and random bytes, the same for the same KAPPA_SEED.

use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use FormatTest;
use KappaTest qw(seed pick poll_until);
use Test::More;
use Time::HiRes qw(time);

seed();
my $node = start('bad_input');

# [ SQLSTATE, reason, value, key, headers ]; '' for a good one
sub judge
{
	my ($name, $cases, %arguments) = @_;
	my (@messages, @dead, @bytes);

	for my $case (@$cases)
	{
		my ($state, $reason, $value, $key, $headers) = @$case;

		if ($state ne '')
		{
			push @dead, [ scalar @messages, $state, $reason ];
			push @bytes, join '|', scalar @messages, defined $key ? md5_hex($key) : '', defined $value ? md5_hex($value) : '';
		}
		push @messages, { value => $value, key => $key, headers => $headers };
		push @messages, '{"a": 1}' if !%arguments;
	}
	consume($name, \@messages, %arguments);
	is_dead($name, 'the right SQLSTATE and a reason', @dead);
	is(sql("SELECT kafka_offset, md5(key), md5(value) FROM kappa.dead_letters WHERE name = '$name' ORDER BY 1"), join("\n", @bytes),
		"$name: byte for byte");
	is(sql("SELECT count(*) FROM $name"), @messages - @dead, "$name: the others are stored");
	is_balanced($name, stored => @messages - @dead, dead_lettered => scalar @dead);
}

my $json = qr/JSON/;
my @bad_json = (
	map({ [ '22P02', $json, $_ ] }
		'', ' ', "\n\t", "\xef\xbb\xbf{\"a\": 1}", "\xff\xfe{\0", '{', '}', '{"a"}', '{"a":}', '{"a": 1', '{"a": 1,}', '{,}', '{"a": 1}}',
			'{"a": 1} {"a": 2}', "{\"a\": 1}\n{\"a\": 2}", '{"a": 1}x', '{"a": 1}' . "\0",
		"\0", '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": +1}', '{"a": 01}', '{"a": 1.}', '{"a": .5}', '{"a": 1e}', '{"a": -}',
			'{"a": 0x1}', '{"a": 1_0}', "{'a': 1}", '{a: 1}', '{"a": True}', '{"a": nul}',
		'{"a": undefined}', '{"a": "unclosed}', "{\"a\": \"line\nbreak\"}", "{\"a\": \"tab\t\"}", "{\"a\": \"nul\0\"}", '{"a": "\x"}',
			'{"a": "\u12"}', '{"a": "\uZZZZ"}', '{"a": "\ud800"}', '{"a": "\udc00\ud800"}',
		'{"a": "\ud800x"}', '{"b": "\ud83d"}', '{"a": 1 /* c */}', '// c', '<xml/>', '{"a": [1,]}', '{"a": [,1]}', '{"a" 1}', '{"a": 1 "b": 2}',
			'{1: 2}', '{null: 2}', '[', ']', '{"a": [}', "\x1f\x8b\x08\x00", "{\"a\": 1}\xc2\xa0", "{\"a\":\xa01}"),
	map({ [ '22P02', qr/not a JSON object/, $_ ] } '[1]', '[{"a": 1}]', '1', '"a"', 'null', 'true', '[]'),
	map({ [ '22021', qr/UTF-8|encoding/, $_ ] } "{\"a\": \"\xff\"}", "{\"b\": \"\xc0\x80\"}", "{\"b\": \"\xed\xa0\x80\"}",
		"{\"b\": \"\xf4\x90\x80\x80\"}", "{\"\xe9\": 1}", "{\"b\": \"cut \xe6\x97\"}"),
	[ '22P05', qr/u0000/, '{"t": "\u0000"}' ], [ '22P05', qr/u0000/, '{"j": {"x": ["a\u0000b"]}}' ], [ '22P05', qr/u0000/,
		'{"j": {"\u0000": 1}}' ], [ '22P05', qr/u0000/, '{"ta": ["\u0000"]}' ],
	[ '', '', '{"unknown": "\u0000"}' ],
	map({ [ '22003', qr/out of range|overflow/, $_ ] } '{"a": 2147483648}', '{"a": -2147483649}', '{"l": 9223372036854775808}',
		'{"l": -9223372036854775809}', '{"a": 1e10}', '{"f": 1e999}', '{"f": "1e999"}', '{"f": -1e400}', '{"n": 1000}', '{"n": 1e999999}',
		'{"a": 1e999999}',
		'{"l": 99999999999999999999999999}', '{"r": 1e39}', '{"r": "1e-50"}'),
	map({ [ '22P02', qr/invalid input syntax/, $_ ] } '{"a": 1.5}', '{"a": true}', '{"a": ""}', '{"a": [1]}', '{"a": {}}', '{"l": "1 2"}',
		'{"f": "one"}', '{"n": "--1"}', '{"u": "not a uuid"}', '{"b": "maybe"}', '{"b": 2}'),
	map({ [ '22007', qr/invalid input syntax|not/, $_ ] } '{"ts": "x"}', '{"ts": ""}', '{"ts": 1}', '{"d": "2024"}',
		'{"ts": "2024-01-02T03:04:05Zulu time"}'),
	map({ [ '22008', qr/out of range/, $_ ] } '{"ts": "294277-01-01T00:00:00Z"}', '{"ts": "4714-11-23 00:00:00+00 BC"}',
		'{"ts": "2024-02-30T00:00:00Z"}', '{"ts": "2024-01-02T25:00:00Z"}', '{"d": "2023-02-29"}', '{"d": "5874898-01-01"}'),
	[ '22001', qr/too long/, '{"v": "abcd"}' ], [ '22P02', qr/array/, '{"ta": 1}' ], [ '22P02', qr/array/, '{"ia": [[1], [2, 3]]}' ],
	[ '22P02', $json, "x", "key \0\xff", [ [ "h", "\xff" ], [ "h", undef ] ] ], [ '22P02', $json, 'x', '' ], [ '22P02', $json, 'x', undef, [] ],
	map({ [ '', '', $_ ] } '{"a": 2147483647, "l": 9223372036854775807}', '{"a": -2147483648, "l": -9223372036854775808}',
		'{"a": -0, "f": -0.0, "l": 0e5}', '{"a": 1, "a": 2}', '{"t": "\ud83d\ude00"}', '{"ts": "infinity", "d": "-infinity"}',
		'{"n": "NaN", "f": "NaN", "r": "-Infinity"}', '{"t": "' . 'x' x 100_000 . '"}', '{"n": 0.000000000000000000000000000000000000001}',
			" {} ", '{"v": "abc   "}'));

sql(q{CREATE TABLE hand (a integer, l bigint, f double precision, r real, n numeric(5,2), t text, v varchar(3), u uuid, b boolean, ts timestamptz, d date, j jsonb, ta text[], ia integer[])});
judge('hand', \@bad_json);
is(sql(q{SELECT headers FROM kappa.dead_letters WHERE name = 'hand' AND key = '\x6b65792000ff'}), '{"h": ["\\\\xff", null]}',
	'a dead letter has its headers');
is(sql(q{SELECT count(*) FROM kappa.dead_letters WHERE name = 'hand' AND key = ''}), 1, 'an empty key is not a missing one');
is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'hand' AND (length(error) < 10 OR created_at IS NULL OR kafka_timestamp IS NULL OR topic <> 'hand' OR redriven_at IS NOT NULL OR attempts < 1)"), 0, 'all that a dead letter needs');

# ---------------------------------------------------------------- depth and size

{
	my $nest = sub { my ($n, $open, $close, $in) = @_; return $open x $n . $in . $close x $n };
	my @sizes = (1000, 100_000);

	sql('CREATE TABLE deep (j jsonb, t text, a integer)');
	judge('deep', [
			[ '', '', '{"j": ' . $nest->(255, '[', ']', '1') . '}' ], [ '', '', '{"j": ' . $nest->(200, '{"a":', '}', '1') . '}' ],
			map({ my $n = $_; map { [ '54001', qr/deep/, $_ ] } '{"j": ' . $nest->($n, '[', ']', '') . '}', '{"unknown": ' . $nest->($n, '{"a":',
				'}', '1') . '}', $nest->($n, '[', ']', ''), $nest->($n, '{"j":[', ']}', '0') } @sizes),
			[ '54001', qr/deep/, '[' x 1_000_000 ], [ '54001', qr/deep/, '{"j":' x 200_000 ], [ '54001', qr/deep/, '{"j": ' . '[' x 256 . ']' x 256 . '}' ],
			[ '', '', '{"t": "' . 'y' x 1_040_000 . '"}' ], [ '22P02', qr/^.{1,1100}$/s, '{"a": [' . '1,' x 500_000 . '1]}' ], [ '22P02', $json,
				'{"t": "' . 'z' x 1_000_000 ], [ '', '', '{"j": [' . '1,' x 300_000 . '1]}' ],
			[ '', '', '{' . join(',', map { "\"k$_\": $_" } 1 .. 60_000) . '}' ], [ '', '', ' ' x 1_000_000 . '{}' ], [ '22021', qr/./,
				'{"t": "' . 'x' x 900_000 . "\xff\"}" ],
			[ '22003', qr/./, '{"a": ' . '9' x 900_000 . '}' ] ]);
	is(sql('SELECT max(length(t)), max(jsonb_array_length(j)) FROM deep WHERE jsonb_typeof(j) IS DISTINCT FROM \'object\''), '1040000|300001',
		'a message of 1 MB is stored as a whole');
}

# ---------------------------------------------------------------- the other formats, and upsert

{
	my $utf8 = qr/UTF-8/;

	sql('CREATE TABLE hand_csv (a integer, t text, ts timestamptz)');
	judge('hand_csv', [
			map({ [ '22P02', qr/integer/, $_ ] } "\xef\xbb\xbf1,a,", 'x,a,', '1.0,a,', '1e2,a,', 'NaN,a,', '0x,a,', '"1"2x,a,', '+,a,'),
			map({ [ '22021', $utf8, $_ ] } "1,\xff,", "1,a\0b,", "\0", "1,\xc0\x80,", "1,\xed\xa0\x80,", "1,cut \xe6\x97,", "\x1f\x8b\x08\x00"),
			map({ [ '22P04', qr/missing data/, $_ ] } '', '1', '1,a', "\n"), map({ [ '22P04', qr/extra data/, $_ ] } '1,a,,', '1,a,,x', ',' x 100_000),
			map({ [ '22P04', qr/quot/, $_ ] } '1,"a,', '"', '1,"a""'), [ '22P04', qr/record/, "1,a,\n2,b," ],
			map({ [ '22003', qr/out of range/, "$_,a," ] } '2147483648', '-2147483649', '9' x 400),
			[ '22007', qr/timestamp/, '1,a,soon' ], map({ [ '22008', qr/out of range/, "1,a,$_" ] } '294277-01-01', '2024-02-30', '4714-11-23 00:00:00+00 BC'),
			map({ [ '', '', $_ ] } "1,\xef\xbb\xbfa,", ',,', '"1","","infinity"', '1,\u0000,', "1,a,\r\n", "1,\"a\nb\",", '-2147483648,"a""b",epoch', '1,' . 'x' x 1_000_000 . ',') ],
		format => "'csv'");

	sql('CREATE TABLE hand_text (value text)');
	judge('hand_text', [ map({ [ '22021', $utf8, $_ ] } "\xff", "\0", "a\0", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", 'x' x 500_000 . "\xe6\x97"),
			map({ [ '', '', $_ ] } '', ' ', "\xef\xbb\xbfx", "\x01", '\u0000', "\xf4\x8f\xbf\xbf", 'x' x 1_000_000) ], format => "'text'");
	is(sql("SELECT encode(value::bytea, 'hex') FROM hand_text WHERE length(value) = 2"), 'efbbbf78', 'text: a byte order mark is text');

	my @any = ('', "\0", join('', map { chr } 0 .. 255), "\xff" x 900_000);
	sql('CREATE TABLE hand_bytea (value bytea, kafka_offset bigint, kafka_key bytea)');
	consume('hand_bytea', [ { key => "\0", value => undef }, map { { key => "\0\xff", value => $_ } } @any ], format => "'bytea'");
	is(sql("SELECT md5(value) FROM hand_bytea WHERE kafka_key = '\\x00ff' ORDER BY kafka_offset"), join("\n", map { md5_hex($_) } @any), 'bytea: any byte, kept');
	is_balanced('hand_bytea', stored => scalar @any, filtered => 1);

	my @key = map { my $key = $_; sub { [ $_[0], $_[1], undef, $key ] } } undef, '', "1\0", "\xff", '[' x 1_000_000, '{"id": "\ud800"}', '{"id": "\u0000"}',
		'99999999999', '1e999999', '{"t": 1}', "\xef\xbb\xbf1";
	sql('CREATE TABLE hand_upsert (id integer PRIMARY KEY, t text, j jsonb)');
	judge('hand_upsert', [
			[ '22P02', $json, 'x', 'k' ], [ '22P02', $json, '', 'k' ], [ '22P02', $json, '{"id": 1} {"id": 2}' ], [ '22P02', qr/not a JSON object/, '[{"id": 1}]' ],
			[ '23502', qr/"id"/, '{"t": "no key"}', '1' ], [ '23502', qr/"id"/, '{"id": null}' ], [ '22P05', qr/u0000/, '{"id": 1, "t": "\u0000"}' ],
			[ '22P05', qr/u0000/, '{"id": 1, "j": ["\u0000"]}' ], [ '22021', $utf8, "{\"id\": 1, \"t\": \"\xff\"}" ], [ '22003', qr/range/, '{"id": 99999999999}' ],
			[ '54001', qr/deep/, '{"id": 1, "j": ' . '[' x 1_000_000 ], $key[0]->('23502', qr/key/), $key[1]->('22P02', qr/integer/), $key[2]->('23502', qr/UTF-8/),
			$key[3]->('23502', qr/UTF-8/), $key[4]->('22P02', qr/integer/), $key[5]->('22P02', qr/integer/), $key[6]->('22P05', qr/u0000/), $key[7]->('22003', qr/range/),
			$key[8]->('22003', qr/overflow/), $key[9]->('23502', qr/"id"/), $key[10]->('22P02', qr/integer/),
			map { [ '', '', "{\"id\": $_, \"id\": -$_}", "\0" ] } 1 .. 30 ], mode => "'upsert'");

	# the key's bytes decide; what no index takes is a dead letter
	my $long = join '', map { chr 33 + pick(90) } 1 .. 20_000;
	$long =~ tr/"\\/xx/;
	sql('CREATE TABLE hand_keys (id text PRIMARY KEY)');
	judge('hand_keys', [ [ '54000', qr/index row/, "{\"id\": \"$long\"}" ],
			map { [ '', '', "{\"id\": \"$_\"}" ] } "\xc3\xa9", "e\xcc\x81", 'a', 'A', '1', '1.0', 'x', 'x ', '', "\xef\xbb\xbfx", '\u200b', '\ufb01', 'fi' ], mode => "'upsert'");
}

# ---------------------------------------------------------------- numbers at their edges

# [ column, text, what is stored or SQLSTATE, the same as a JSON number where it differs ].
# Each as a JSON string, a JSON number (if it is one) and a field of CSV.
{
	my $out = '22003';
	my $nines = '9' x 400;
	my @cases = (
		[ 'i2', '32767', 32767 ], [ 'i2', '32768', $out ], [ 'i2', '-32768', -32768 ], [ 'i2', '-32769', $out ], [ 'i2', '-0', 0 ], [ 'i2', '65536', $out ],
		[ 'i2', '1e4', '22P02', 10000 ], [ 'i2', '1e5', '22P02', $out ],
		[ 'i4', '2147483647', 2147483647 ], [ 'i4', '2147483648', $out ], [ 'i4', '-2147483648', -2147483648 ], [ 'i4', '-2147483649', $out ],
		[ 'i4', '+2147483647', 2147483647 ], [ 'i4', '4294967296', $out ], [ 'i4', '0000000000002147483647', 2147483647 ], [ 'i4', '-0', 0 ], [ 'i4', '1.0', '22P02' ],
		[ 'i4', '0.5', '22P02' ], [ 'i4', '1e999999', '22P02', $out ],
		[ 'i8', '9223372036854775807', '9223372036854775807' ], [ 'i8', '9223372036854775808', $out ], [ 'i8', '-9223372036854775808', '-9223372036854775808' ],
		[ 'i8', '-9223372036854775809', $out ], [ 'i8', '18446744073709551616', $out ], [ 'i8', $nines, $out ], [ 'i8', "-$nines", $out ], [ 'i8', '0' x 400 . '7', 7 ],
		[ 'i8', '1e18', '22P02', '1000000000000000000' ], [ 'i8', '1e19', '22P02', $out ], [ 'i8', '-0e5', '22P02', 0 ],
		[ 'f4', '3.4028235e38', '3.4028235e+38' ], [ 'f4', '3.4028236e38', $out ], [ 'f4', '-3.5e38', $out ], [ 'f4', '1.4e-45', '1e-45' ], [ 'f4', '7e-46', $out ],
		[ 'f4', '-1e-50', $out ], [ 'f4', '16777217', '1.6777216e+07' ], [ 'f4', '-0', '-0', 0 ], [ 'f4', 'NaN', 'NaN' ], [ 'f4', '-Infinity', '-Infinity' ], [ 'f4', $nines, $out ],
		[ 'f8', '1.7976931348623157e308', '1.7976931348623157e+308' ], [ 'f8', '1.7976931348623159e308', $out ], [ 'f8', '-1e400', $out ], [ 'f8', '4.9e-324', '5e-324' ],
		[ 'f8', '2e-324', $out ], [ 'f8', '1e-400', $out ], [ 'f8', '9007199254740993', '9.007199254740992e+15' ], [ 'f8', '0.1', '0.1' ], [ 'f8', '-0.0', '-0', '0' ],
		[ 'f8', 'Infinity', 'Infinity' ], [ 'f8', '1e999999', $out ], [ 'f8', $nines, $out ], [ 'f8', '0.' . '0' x 400 . '1', $out ],
		[ 'n', '99999999.99', '99999999.99' ], [ 'n', '99999999.994', '99999999.99' ], [ 'n', '99999999.995', $out ], [ 'n', '-99999999.995', $out ],
		[ 'n', '100000000', $out ], [ 'n', '0.004', '0.00' ], [ 'n', '-0.005', '-0.01' ], [ 'n', '1e7', '10000000.00' ], [ 'n', '1e8', $out ], [ 'n', '1e-999', '0.00' ],
		[ 'n', 'NaN', 'NaN' ], [ 'n', 'Infinity', $out ], [ 'n', '1e999999', $out ], [ 'n', $nines, $out ],
		[ 'u', $nines, $nines ], [ 'u', "-0", 0 ], [ 'u', '0.' . '0' x 300 . '1', '0.' . '0' x 300 . '1' ], [ 'u', '1e131072', $out ], [ 'u', '-1e999999', $out ],
		[ 'u', '-Infinity', '-Infinity' ]);
	my @columns = ([ i2 => 'smallint' ], [ i4 => 'integer' ], [ i8 => 'bigint' ], [ f4 => 'real' ], [ f8 => 'double precision' ], [ n => 'numeric(10,2)' ], [ u => 'numeric' ]);
	my (@json, @csv, %expected);

	for my $case (@cases)
	{
		my ($column, $text, $string, $number) = @$case;

		push @{ $expected{edges} }, $string;
		push @json, "{\"$column\": \"$text\"}";
		push @{ $expected{edges_csv} }, $string;
		push @csv, join ',', map { $_->[0] eq $column ? $text : '' } @columns;
		next if $text !~ /\A-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e-?[0-9]+)?\z/;
		push @{ $expected{edges} }, $number // $string;
		push @json, "{\"$column\": $text}";
	}
	my $definition = join ', ', map { "$_->[0] $_->[1]" } @columns;
	sql("CREATE TABLE edges ($definition, kafka_offset bigint); CREATE TABLE edges_csv ($definition, kafka_offset bigint)");
	consume('edges', \@json);
	consume('edges_csv', \@csv, format => "'csv'");
	for my $name ('edges', 'edges_csv')
	{
		my @got = split /\n/, sql("SELECT coalesce(i2::text, i4::text, i8::text, f4::text, f8::text, n::text, u::text), kafka_offset FROM $name
			UNION ALL SELECT sqlstate, kafka_offset FROM kappa.dead_letters WHERE name = '$name' ORDER BY 2");
		my @sent = $name eq 'edges' ? @json : @csv;
		my @wrong = map { substr("$sent[$_]: got " . ($got[$_] // 'nothing') . ", expected $expected{$name}[$_]", 0, 300) }
		  grep { ($got[$_] // '') ne "$expected{$name}[$_]|$_" } 0 .. $#sent;
		ok(!@wrong && @got == @sent, "$name: " . scalar(@sent) . ' numbers at the edges of their types') or diag(join "\n", @wrong);
	}
}

# ---------------------------------------------------------------- times of messages and of events

{
	my @times = ([ 0, '1970-01-01 00:00:00+00' ], [ -1, '' ], [ 253402300800000, '10000-01-01 00:00:00+00' ], [ 9224318015999998, '294276-12-31 23:59:59.998+00' ],
		[ 9224318016000000, '294276-12-31 23:59:59.999+00' ], [ 4611686018427387, '148108-07-06 14:00:27.387+00' ], [ 4611686018427387903, '294276-12-31 23:59:59.999+00' ], [ 1 << 60, '294276-12-31 23:59:59.999+00' ], [ 1 << 62, '294276-12-31 23:59:59.999+00' ], [ 9223372036854775807, '294276-12-31 23:59:59.999+00' ]);
	my $day = 86400;
	my $now = time();

	sql('CREATE TABLE times (kafka_offset bigint, kafka_timestamp timestamptz, a integer)');
	topic('times');
	give('times', { time => $_->[0], value => '{}' }) for @times;
	give('times', { time => $_->[0], value => '{' }) for @times;
	subscribe('times');
	settled('times');
	is(sql('SELECT kafka_timestamp FROM times ORDER BY kafka_offset'), join("\n", map { $_->[1] } @times), 'timestamps of messages: none, and the ends of the range');
	is(sql("SELECT kafka_timestamp FROM kappa.dead_letters WHERE name = 'times' ORDER BY kafka_offset"), join("\n", map { $_->[1] } @times), 'those of dead letters too');
	sql("SELECT kappa.disable('times')");

	# a clock that is ten years ahead
	sql('CREATE TABLE ahead (ts timestamptz, kafka_offset bigint)');
	consume('ahead', [ map { "{\"ts\": $_}" } $now - 10, $now + 3650 * $day, $now - 5, 9223372036854, $now - 20 ], event_time => "'ts'",
		columns => q('{"ts": {"path": "$.ts", "unit": "s"}}'));
	is(sql('SELECT count(*) FROM ahead'), 5, 'an event time far ahead is stored');
	is(sql("SELECT future_rows, abs(extract(epoch FROM event_watermark) - ($now - 10)) < 1 FROM kappa.stat_partition WHERE name = 'ahead'"), '2|t',
		'counted, and does not move the watermark');
}

# ---------------------------------------------------------------- names

# What Kafka takes as a name is one; what it refuses reaches neither it nor SQL
{
	my $longest = 'long.' . 'x' x 244;
	my $odd = q(it's "odd"; --);

	sql('CREATE TABLE victim (a integer); CREATE TABLE named (a integer, kafka_topic text)');
	for my $name ($longest, 'Dots.and-dashes_1', '-', '...')
	{
		topic($name);
		give($name, '{"a": 1}');
		subscribe($odd, topic => quote($name), target => "'named'");
		settled($odd);
		is(sql("SELECT name, topic FROM kappa.subscriptions"  . ' WHERE name = ' . quote($odd)), "$odd|$name", 'topic ' . substr($name, 0, 20));
		sql('SELECT kappa.unsubscribe(' . quote($odd) . ')');
	}
	is(sql('SELECT max(length(kafka_topic)), count(*) FROM named'), '249|4', 'their messages are stored');
	for my $name ('Dots_and-dashes_1', "x'; DROP TABLE victim; --", 'x"; DROP TABLE victim; --', "x'||(SELECT 1)||'", "\$\$", 'x' x 250, '..', 'a b', "a\nb", "\xc3\xa9", '%s%n', '')
	{
		my $code = fails('SELECT kappa.subscribe(' . quote('s') . ", 'main', " . quote($name) . ", 'victim')");
		like($code, qr/^(42704|22023)$/, 'no topic: ' . substr($name =~ s/\W/./gr, 0, 30));
		like(fails("SELECT * FROM kappa.peek('main', " . quote($name) . ')'), qr/^(42704|22023)$/, 'nor to peek');
	}
	is(sql('SELECT count(*) FROM victim'), 0, 'nothing of a name is run as SQL');
}

# ---------------------------------------------------------------- random bytes

# One in three is bytes from nowhere, or a good document with some bytes changed
sub random_bytes
{
	my ($good) = @_;

	return join '', map { chr pick(256) } 1 .. pick(200) if pick(3) == 0;
	return join '', map { ('{', '}', '[', ']', '"', ':', ',', '\\', 'a', '1', 'e', '-', '.', ' ', 'null', "\0",
		"\xe2")[ pick(17) ] } 1 .. pick(40) if pick(2);
	substr($good, pick(length $good), pick(3)) = chr pick(256) for 1 .. 1 + pick(3);
	return $good;
}

my $many = $ENV{KAPPA_RANDOM} // 1000;

for my $format (qw(json csv text bytea))
{
	my $good = $format eq 'csv' ? '1,text,2024-01-02' : '{"a": 1, "t": "text", "ts": "2024-01-02T03:04:05Z", "j": {"b": [1, 2]}}';
	my @random = map { random_bytes($good) } 1 .. $many;
	my (@messages, $loud);
	my $columns = { json => 'a integer, t text, ts timestamptz, j jsonb', csv => 'a integer, t text, ts timestamptz', text => 'value text',
		bytea => 'value bytea' }->{$format};

	push @messages, $_, $good, { value => $good, key => "\xff" } for @random;
	sql("CREATE TABLE random_$format ($columns, kafka_offset bigint)");
	consume("random_$format", \@messages, format => "'$format'", batch_rows => 500);
	is(sql("SELECT count(*) FROM random_$format WHERE kafka_offset % 3 <> 0"), 2 * $many, "random bytes as $format: the good ones are all there");
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'random_$format' AND kafka_offset % 3 <> 0"), 0, 'and none of them is a dead letter');
	my %dead = map { split /\|/ } split /\n/, sql("SELECT kafka_offset / 3, md5(value) FROM kappa.dead_letters WHERE name = 'random_$format'");
	is(join(' ', grep { $dead{$_} ne md5_hex($random[$_]) } keys %dead), '', 'dead letters have their bytes');
	is(sql("SELECT count(*) FROM random_$format") + keys %dead, 3 * $many, 'each is stored or a dead letter');
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'random_$format' AND left(sqlstate, 2) NOT IN ('22', '54')"), 0,
		'for a reason of the data');
	cmp_ok(scalar keys %dead, $format eq 'bytea' ? '==' : '>', $format eq 'bytea' ? 0 : $many / 10, 'random bytes: ' . scalar(keys %dead) . ' dead letters');
	is_balanced("random_$format", stored => 3 * $many - keys %dead, dead_lettered => scalar keys %dead);
}

# The same through a transform and in upsert
{
	my $good = '{"a": 1, "t": "text"}';
	my @messages = map { (random_bytes($good), $good, { key => random_bytes('{"a": 1}'), value => '{"a": 2}' }) } 1 .. 400;
	my @stones = map { ({ key => random_bytes('{"a": 3}'), value => undef }, $good, '{"a": 4}') } 1 .. 400;

	sql('CREATE TABLE random_transform (a integer, t text, kafka_offset bigint); CREATE TABLE random_upsert (a integer PRIMARY KEY, t text, kafka_offset bigint)');
	consume('random_transform', \@messages, transform => quote(q{SELECT (value->>'a')::integer AS a, value->>'t' AS t, kafka_offset FROM message}));
	is(sql('SELECT count(*) FROM random_transform WHERE kafka_offset % 3 <> 0'), 800, 'random bytes into a transform');
	consume('random_upsert', \@stones, mode => "'upsert'");
	is(sql("SELECT count(*) FROM random_upsert WHERE kafka_offset % 3 <> 0"), 2, 'random keys of tombstones');
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name LIKE 'random_%' AND (value IS NULL) <> (name = 'random_upsert')"), 0,
		'dead letters of tombstones are tombstones');
}

# A database that is not UTF-8: what it cannot hold is a dead letter, headers and key included
{
	my @messages = map { ($_, { value => '{"a": "plain"}' }) } (
		{ value => "{\"a\": \"\xc3\xa9\", \"\xc3\xa9\": 5}", key => "\xc3\xa9" }, { value => '{"a": "\u00e9"}' },
		{ value => "{\"a\": \"\xe6\x97\xa5\"}" }, { value => '{"a": "\u65e5"}' }, { value => "{\"j\": [\"\xe6\x97\xa5\"]}" },
		{ value => '{"j": ["\u65e5"]}' }, { value => '{}', key => "\xe6\x97\xa5" }, { value => '{}', headers => [ [ 'h', "\xe6\x97\xa5" ] ] },
		{ value => "{\"unknown\": \"\xe6\x97\xa5\"}" }, { value => '{', headers => [ [ "\xe6\x97\xa5", "\xe6\x97\xa5" ] ] }, { value => "\xe9" });
	my $latin = sub { return $node->safe_psql('latin', "SET client_encoding = 'UTF8'; $_[0]") };

	sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
	kappa_server_in('latin');
	topic('latin');
	give('latin', @messages);
	for my $format (qw(json text csv))
	{
		my $columns = $format eq 'json' ? qq(a text, "\xc3\xa9" integer, j jsonb) : 'value text';
		$latin->(qq{CREATE TABLE latin_$format ($columns, kafka_key text, kafka_headers jsonb, kafka_offset bigint);
			SELECT kappa.subscribe('latin_$format', 'main', 'latin', 'latin_$format', format => '$format'} .
			($format eq 'csv' ? q{, options => '{"delimiter": "|", "quote": "~"}')} : ')'));
		ok(poll_until(60, sub { $latin->("SELECT next_offset FROM kappa.stat_partition WHERE name = 'latin_$format'") == @messages }), "LATIN1: all is read as $format")
		  or diag($latin->('SELECT name, reason FROM kappa.subscriptions'));
		is($latin->("SELECT count(*) FROM latin_$format WHERE kafka_offset % 2 = 1"), 11, "LATIN1: the neighbours as $format");
		is($latin->('SELECT bool_and(balanced) FROM kappa.balance'), 't', "LATIN1: balanced as $format");
		note($latin->("SELECT kafka_offset, sqlstate, error, headers FROM kappa.dead_letters WHERE name = 'latin_$format' ORDER BY 1"));
	}
	is($latin->("SELECT a, \"\xc3\xa9\", kafka_key, octet_length(a) FROM latin_json WHERE kafka_offset IN (0, 2) ORDER BY kafka_offset"),
		"\xc3\xa9|5|\xc3\xa9|1\n\xc3\xa9|||1", 'LATIN1: what it can hold is converted');
	is($latin->("SELECT string_agg(kafka_offset || ' ' || sqlstate, ', ' ORDER BY kafka_offset) FROM kappa.dead_letters WHERE name = 'latin_json' AND kafka_offset < 18 AND kafka_offset <> 14"),
		join(', ', map { "$_ 22P05" } 4, 6, 8, 10, 12), 'LATIN1: what it cannot hold is 22P05');
	$latin->("SELECT kappa.disable(name) FROM kappa.subscriptions");
}

# More than half bad: poison, and the way on
{
	my @messages = map { $_ % 2 ? "bad $_" : '{"a": 1}' } 1 .. 1200;

	sql('CREATE TABLE half (a integer)');
	consume('half', \@messages, batch_rows => 100);
	is_balanced('half', stored => 600, dead_lettered => 600);
	topic('most');
	sql('CREATE TABLE most (a integer)');
	give('most', map({ $_ % 3 ? "bad $_" : '{"a": 1}' } 1 .. 999));
	subscribe('most', batch_rows => 100);
	settled('most');
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = 'most'"), 666, 'no poison before 1,000 messages');
	give('most', map { '{"a": 2}' } 1 .. 50);
	like(stopped('most'), qr/^poison: partition 0, offsets \[\d+, \d+\): 6\d\d of the last 1000 messages became dead letters/,
		'more than half of the last 1,000: poison');
	sql("SELECT kappa.disable('most')");
}

finish();
