
# What a message gives besides fields of its own name: text and bytea, paths into documents,
# units of time, the metadata of Kafka, headers, keys, tombstones.

use strict;
use warnings;
use utf8;

use Digest::MD5;
use FormatTest;
use Test::More;

start('columns');
sql(q{CREATE DOMAIN short AS varchar(4) NOT NULL CHECK (VALUE <> 'bad')});

sub bytes { my ($text) = @_; utf8::encode($text) if utf8::is_utf8($text); return $text; }

# ---------------------------------------------------------------- text and bytea

{
	my $all = join '', map { chr } 0 .. 255;
	my $times = 'kafka_offset bigint, value ';

	sql("CREATE TABLE texts ($times text NOT NULL, n integer DEFAULT 4); CREATE TABLE short_texts ($times short);
		CREATE TABLE numbers ($times numeric(4,1)); CREATE TABLE docs ($times jsonb); CREATE TABLE blobs ($times bytea);");
	consume('texts', [ 'plain', '', bytes("ünï\x{1F600}"), "tab\tline\nend\n", '\x00', 'x' x 200_000, undef, "bad \xff", "nul\0l",
		"\xed\xa0\x80", "\xc0\x80", '{"a":1}' ], format => "'text'");
	is(sql("SELECT string_agg(kafka_offset || ':' || left(replace(value, E'\\n', '/'), 20) || ':' || length(value) || ':' || n, ' ' ORDER BY kafka_offset) FROM texts"),
		bytes("0:plain:5:4 1::0:4 2:ünï\x{1F600}:4:4 3:tab\tline/end/:13:4 4:\\x00:4:4 5:xxxxxxxxxxxxxxxxxxxx:200000:4 11:{\"a\":1}:7:4"),
		'text: as it is');
	is_dead('texts', 'what is no UTF-8 text', map { [ $_, '22021', qr/UTF-8/ ] } 7 .. 10);
	is_balanced('texts', stored => 7, filtered => 1, dead_lettered => 4);
	consume('short_texts', [ 'four', bytes('éééé'), 'fives', 'bad', 'four    ' ], format => "'text'");
	is(sql('SELECT string_agg(value, \' \' ORDER BY kafka_offset) FROM short_texts'), bytes('four éééé four'), 'text into a domain over varchar(4)');
	is_dead('short_texts', 'too long or refused', [ 2, '22001', qr/too long/ ], [ 3, '23514', qr/short/ ]);
	consume('numbers', [ '1.25', ' 7 ', 'x', '12345', 'NaN' ], format => "'text'");
	is(sql('SELECT string_agg(value::text, \' \' ORDER BY kafka_offset) FROM numbers'), '1.3 7.0 NaN', 'text into numeric(4,1)');
	is_dead('numbers', 'no number, too large', [ 2, '22P02', qr/numeric/ ], [ 3, '22003', qr/overflow/ ]);
	consume('docs', [ '{"a": 1}', '[1,2]', 'no json', '"s"', '{"a": "\u0000"}' ], format => "'text'");
	is(sql('SELECT string_agg(value::text, \' \' ORDER BY kafka_offset) FROM docs'), '{"a": 1} [1, 2] "s"', 'text into jsonb');
	is_dead('docs', 'no document', [ 2, '22P02', qr/json/ ], [ 4, '22P05', qr/Unicode|u0000/ ]);
	consume('blobs', [ $all, '', undef, $all x 3000 ], format => "'bytea'");
	is(sql("SELECT string_agg(kafka_offset || ':' || md5(value), ' ' ORDER BY kafka_offset) FROM blobs"),
		join(' ', map { "$_->[0]:" . Digest::MD5::md5_hex($_->[1]) } [ 0, $all ], [ 1, '' ], [ 3, $all x 3000 ]), 'bytea: every byte');
}

# ---------------------------------------------------------------- columns, units, metadata

sub map_of { my (%map) = @_; return quote('{' . join(', ', map { "\"$_\": $map{$_}" } sort keys %map) . '}'); }

{
	sql(q{CREATE TABLE mapped (o bigint, p smallint, t varchar(20), k text, kb bytea, h jsonb, ts timestamptz, tl timestamp,
		a integer, b text, c integer, d text, whole jsonb, e integer DEFAULT 3, kafka_offset text, name text)});
	consume('mapped', [
			{ key => 'k1', time => 1704164645123, value => '{"a": {"b": [10, {"c": "x"}]}, "a b": 5, "it\'s": "y", "name": "ignored", "e": 8}' },
			{ value => '[1, 2]', time => 1 }, { value => '"scalar"' }, { value => '{"a": {"b": 1}}', key => '' },
			{ value => '{"a": null, "a b": null}', key => bytes('ü'), headers => [ [ 'h', 'v' ] ] }, '{"a": {"b": ["x"]}}' ],
		columns => map_of(o => '"kafka.offset"', p => '"kafka.partition"', t => '"kafka.topic"', k => '"kafka.key"', kb => '"kafka.key"',
			h => '"kafka.headers"', ts => '"kafka.timestamp"', tl => '"kafka.timestamp"', a => '"$.a.b[0]"', b => '"$.a.b[1].c"',
			c => '"$[\'a b\']"', d => '"$.\"it\'s\""', whole => '"$"'));
	is(sql(q{SELECT o, p, t, k, kb, h, CASE WHEN o < 2 THEN ts END, CASE WHEN o < 2 THEN tl END, a, b, c, d, whole->'a', e, kafka_offset, name FROM mapped ORDER BY o}), bytes(join "\n",
			'0|0|mapped|k1|\x6b31||2024-01-02 03:04:05.123+00|2024-01-02 03:04:05.123|10|x|5|y|{"b": [10, {"c": "x"}]}|3|0|',
			'1|0|mapped||||1970-01-01 00:00:00.001+00|1970-01-01 00:00:00.001||||||3|1|',
			'2|0|mapped|||||||||||3|2|',
			'3|0|mapped||\x||||||||{"b": 1}|3|3|',
			'4|0|mapped|ü|\xc3bc|{"h": "v"}|||||||null|3|4|'), 'columns: paths, metadata, the whole document');
	is_dead('mapped', 'a path to what does not suit', [ 5, '22P02', qr/"a".*integer/ ]);
}

# Units: SQL's own arithmetic says what an epoch is
{
	my @counts = (qw(0 1 -1 999 1000 1704164645 1704164645123 1704164645123456 1704164645123456789 -62135596800 -1999 -1001 -1000 2.5 -2.5 0.0000015 -0.0000015 1e3 1.5e3 -0),
		qw(9223372036854775807 -9223372036854775808 9223372036854775808 92233720368547758070 1e40 -1e40 1e-40 9224318015999 9224318016000 9224318015999999 9224318016000000 -210866803200 -210866803201 -210866803200000 -210866803200001));
	my @units = ([ s => 0 ], [ ms => 3 ], [ us => 6 ], [ ns => 9 ]);
	my @documents = map { my $count = $_; ("{\"n\": $count}", "{\"n\": \"$count\"}", '{"n": 5}', '{"n": 6}', '{"n": null}', '{}', '{"n": 7}') } @counts;

	sql('CREATE TABLE counts (kafka_offset bigint, n numeric)');
	for my $unit (@units)
	{
		my ($word, $digits) = @$unit;
		my $name = "epoch_$word";

		sql("CREATE TABLE $name (kafka_offset bigint, ts timestamptz, tl timestamp); TRUNCATE counts");
		sql('INSERT INTO counts VALUES ' . join(', ', map { $documents[$_] =~ /"n": "?([-0-9.e]+)/ ? "($_, $1)" : "($_, NULL)" } 0 .. $#documents));
		consume($name, \@documents, columns => map_of(ts => "{\"path\": \"\$.n\", \"unit\": \"$word\"}",
			tl => "{\"path\": \"\$.n\", \"unit\": \"$word\"}"));
		# microseconds since 1970, rounded down, in the range of timestamptz (4714-11-24 BC to 294276)
		my $good = "SELECT *, floor(n * 1000000 / 1e$digits) AS us FROM counts";
		my $in_range = 'us >= -210866803200000000 AND us < 9224318016000000000';
		is_rows("SELECT kafka_offset, (tl::date - date '1970-01-01') * 86400000000::numeric + (extract(epoch FROM tl::time) * 1000000)::numeric, ts AT TIME ZONE 'UTC' = tl FROM $name",
			"SELECT kafka_offset, us, CASE WHEN us IS NOT NULL THEN true END FROM ($good) g WHERE us IS NULL OR $in_range",
				"unit $word: exact to the microsecond");
		is_rows("SELECT kafka_offset, sqlstate FROM kappa.dead_letters WHERE name = '$name'",
			"SELECT kafka_offset, '22008' FROM ($good) g WHERE NOT ($in_range)", "unit $word: 22008 outside of the range");
	}
	sql('CREATE TABLE epoch_bad (kafka_offset bigint, ts timestamptz)');
	consume('epoch_bad', [ map { ("{\"n\": $_}", '{"n": 1}', '{"n": 2}') } 'true', '[]', '{}', '"x"', '""', '"2024-01-02"', '"5 s"', '"0x10"',
		'"1_000"', '"NaN"', '"5,0"', '"+-5"' ],
		columns => map_of(ts => '{"path": "$.n", "unit": "ms"}'));
	is(sql("SELECT string_agg(DISTINCT sqlstate, ' '), count(*) FROM kappa.dead_letters WHERE name = 'epoch_bad'"), '22007|12',
		'unit: what is no number is 22007');
}

# A precision and a domain hold for times that are counted, and for metadata
{
	sql(q{CREATE DOMAIN recent AS timestamptz CHECK (VALUE > '2000-01-01'); CREATE DOMAIN some_key AS bytea NOT NULL CHECK (length(VALUE) < 4);
		CREATE DOMAIN some_bytes AS bytea CHECK (length(VALUE) < 4); CREATE DOMAIN low AS bigint CHECK (VALUE < 8);
		CREATE TABLE held (ts timestamptz(0), tl timestamp(1), r recent, k some_key, o low, kafka_timestamp timestamptz(1));
		CREATE TABLE held_bytes (value some_bytes, kafka_offset bigint)});
	consume('held', [ map { { time => 1704164645555, key => 'k', %$_ } } { value => '{"n": 1704164645555}' }, { value => '{"n": 5}' },
		{ value => '{"n": null}', key => 'long' },
			{ value => '{"n": null}', key => undef }, map { { value => '{}' } } 4 .. 9 ],
		columns => map_of(ts => '{"path": "$.n", "unit": "ms"}', tl => '{"path": "$.n", "unit": "ms"}', r => '{"path": "$.n", "unit": "ms"}',
			k => '"kafka.key"', o => '"kafka.offset"'));
	is(sql('SELECT ts, tl, r, k, o, kafka_timestamp FROM held WHERE o = 0'),
		'2024-01-02 03:04:06+00|2024-01-02 03:04:05.6|2024-01-02 03:04:05.555+00|\x6b|0|2024-01-02 03:04:05.6+00',
			'precision of counted times and of metadata');
	is_dead('held', 'domains', [ 1, '23514', qr/recent/ ], [ 2, '23514', qr/some_key/ ], [ 3, '23502', qr/some_key/ ], [ 8, '23514',
		qr/low/ ], [ 9, '23514', qr/low/ ]);
	consume('held_bytes', [ 'abc', 'abcd', 'x' ], format => "'bytea'");
	is_dead('held_bytes', 'a domain over bytea', [ 1, '23514', qr/some_bytes/ ]);
}

# Metadata by name, of odd types; it wins over a field of its name
{
	sql(q{CREATE TABLE meta (kafka_topic name, kafka_partition text, kafka_offset numeric, kafka_timestamp date, kafka_key varchar(3), kafka_headers text, a integer);
		CREATE TABLE meta_small (kafka_offset smallint, kafka_partition smallint, kafka_timestamp timestamptz(0), kafka_key uuid,
			kafka_headers json, kafka_topic char(3))});
	topic('meta', 2);
	give_to('meta', 1, { value => '{"kafka_offset": 99, "kafka_topic": "liar", "kafka_key": "liar", "a": 1}', key => 'abc',
		time => 1704164645999, headers => [ [ 'x', '1' ] ] },
		{ value => '{"a": 2}', key => 'abcd' }, { value => '{"a": 3}', key => "\xff\xfe" }, { value => '{"a": 4}', key => "a\0b" },
			{ value => '{"a": 5}' }, { value => '{"a": 6}', key => '' });
	subscribe('meta');
	settled('meta');
	is(sql('SELECT kafka_topic, kafka_partition, kafka_offset, kafka_key, kafka_headers, a FROM meta ORDER BY a'),
		qq(meta|1|0|abc|{"x": "1"}|1\nmeta|1|4|||5\nmeta|1|5|||6), 'metadata by name wins over the fields');
	is(sql('SELECT kafka_timestamp FROM meta WHERE a = 1'), '2024-01-02', 'a timestamp in a date column');
	is_dead('meta', 'keys that are no text, or too long for the column', [ 1, '22001', qr/too long/ ], [ 2, '22021', qr/key/ ], [ 3, '22021', qr/key/ ]);
	is(sql("SELECT string_agg(key::text, ' ' ORDER BY kafka_offset) FROM kappa.dead_letters WHERE name = 'meta'"),
		'\x61626364 \xfffe \x610062', 'the dead letters have their keys');
	topic('meta_small');
	give('meta_small', { value => '{}', key => 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', time => 1704164645500, headers => [ [ 'b', '2' ],
		[ 'a', '1' ] ] }, { value => '{}', key => 'x' });
	sql('ALTER TABLE meta_small DROP COLUMN kafka_topic');
	subscribe('meta_small');
	settled('meta_small');
	is(sql('SELECT kafka_offset, kafka_partition, kafka_timestamp, kafka_key, kafka_headers::jsonb FROM meta_small'),
		qq(0|0|2024-01-02 03:04:06+00|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{"a": "1", "b": "2"}),
			'metadata in smallint, timestamptz(0), uuid and json columns');
	is_dead('meta_small', 'a key that is no uuid', [ 1, '22P02', qr/uuid/ ]);
}

# Headers: repeated, null, empty, not UTF-8, odd names
{
	sql('CREATE TABLE heads (kafka_offset bigint, kafka_headers jsonb)');
	my @headers = ([ [ 'a', '1' ] ], [ [ 'a', '1' ], [ 'b', '2' ], [ 'a', '3' ] ], [ [ 'a', undef ] ], [ [ 'a', '' ] ], [ [ 'a', "\xff\x00\x01" ] ],
		[ [ 'a', undef ], [ 'a', 'x' ], [ 'a', "\xfe" ] ], [ [ '', 'empty name' ] ], [ [ bytes('ü'), bytes('日本') ] ], [ [ 'quote"\\', "line\n" ] ],
		[ [ 'nul', "a\0b" ] ], [ [ 'x', '\\x41' ] ], undef, [ map { [ "h$_", "v$_" ] } 1 .. 50 ], [ [ "\xff", 'bad name' ] ], [ [ "n\0l",
			'nul in name' ] ]);
	consume('heads', [ map { { value => '{}', headers => $_ } } @headers ]);
	is(sql('SELECT kafka_offset, kafka_headers FROM heads WHERE kafka_offset < 12 ORDER BY 1'), bytes(join "\n",
			'0|{"a": "1"}', '1|{"a": ["1", "3"], "b": "2"}', '2|{"a": null}', '3|{"a": ""}', '4|{"a": "\\\\xff0001"}', '5|{"a": [null, "x", "\\\\xfe"]}',
			'6|{"": "empty name"}', '7|{"ü": "日本"}', '8|{"quote\\"\\\\": "line\\n"}', '9|{"nul": "\\\\x610062"}', '10|{"x": "\\\\x41"}', '11|'),
		'headers: text, \x hex where they are none, an array where repeated, null');
	is(sql('SELECT count(*) FROM heads, jsonb_object_keys(kafka_headers) WHERE kafka_offset = 12'), 50, 'fifty headers');
	is(sql('SELECT count(*) FROM heads'), 15, 'no header makes a dead letter');
	note(sql('SELECT kafka_offset, kafka_headers FROM heads WHERE kafka_offset > 12 ORDER BY 1'));
}

# Tombstones in append mode store nothing
for my $format (qw(json csv text bytea))
{
	sql("CREATE TABLE stones_$format (value " . ($format eq 'bytea' ? 'bytea' : 'text') . ' DEFAULT \'d\')');
	consume("stones_$format", [ undef, { key => 'k', value => undef }, { key => undef, value => undef } ], format => "'$format'");
	is_balanced("stones_$format", filtered => 3);
}

finish();
