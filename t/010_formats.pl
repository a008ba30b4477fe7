
# Values: whatever a message may hold becomes what SQL makes of it.
#
# The oracle for JSON is jsonb_populate_record: each document goes through it
# into a twin table, alone; its error must be the dead letter's SQLSTATE.  The
# oracle for CSV is COPY.  Every type meets every value, also those that do not
# suit it.  Good documents stand between, so that never more than half are bad.

use strict;
use warnings;
use utf8;

use Digest::MD5;
use FormatTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start('formats');

sql(q{
	CREATE TYPE mood AS ENUM ('happy', 'sad');
	CREATE TYPE pair AS (x integer, y text);
	CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
	CREATE DOMAIN more_positive AS positive CHECK (VALUE > 1);
	CREATE DOMAIN few AS integer[] CHECK (cardinality(VALUE) <= 3);
	CREATE DOMAIN positives AS positive[];
	CREATE DOMAIN with_a AS jsonb CHECK (VALUE ? 'a');
	CREATE DOMAIN good_pair AS pair CHECK ((VALUE).x > 0);
	CREATE DOMAIN short AS varchar(4) NOT NULL CHECK (VALUE <> 'bad');
	CREATE DOMAIN known AS jsonb NOT NULL CHECK (jsonb_typeof(VALUE) = 'object');
	CREATE DOMAIN listed AS integer[] NOT NULL;
	CREATE TYPE outer_pair AS (p pair, n positive, a integer[]);

	CREATE TABLE document (n bigint PRIMARY KEY, doc text);
	CREATE TABLE expected_dead (t text, n bigint, sqlstate text, error text);
	CREATE FUNCTION make_twin(name text) RETURNS void LANGUAGE plpgsql SET timezone = 'UTC' AS $$
	DECLARE
		d document;
	BEGIN
		EXECUTE format('CREATE TABLE %s_twin (LIKE %1$s INCLUDING CONSTRAINTS)', name);
		FOR d IN SELECT * FROM document ORDER BY n LOOP
			BEGIN
				EXECUTE format('INSERT INTO %s_twin SELECT r.* FROM
					jsonb_populate_record(NULL::%1$s, $1::jsonb || jsonb_build_object(''kafka_offset'', $2)) r', name)
					USING d.doc, d.n;
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO expected_dead VALUES (name, d.n, SQLSTATE, SQLERRM);
			END;
		END LOOP;
	END $$;
});

sub set_documents
{
	my (@documents) = @_;
	my $n = 0;

	sql("TRUNCATE document; INSERT INTO document VALUES " . join(', ', map { '(' . $n++ . ', ' . quote($_) . ')' } @documents));
}

sub bytes { my ($text) = @_; utf8::encode($text) if utf8::is_utf8($text); return $text; }

# The same documents into the table by Kafka and into its twin by SQL
sub same_as_sql
{
	my ($name, $shown, @documents) = @_;

	set_documents(@documents);
	sql("SELECT make_twin('$name')");
	consume($name, [ map { bytes($_) } @documents ]);
	is_rows("SELECT kafka_offset, $shown FROM $name t", "SELECT kafka_offset, $shown FROM ${name}_twin t",
		"$name: the rows that jsonb_populate_record gives");
	is_rows("SELECT d.kafka_offset, d.sqlstate, left(doc, 200) FROM kappa.dead_letters d JOIN document ON n = kafka_offset WHERE name = '$name'",
		"SELECT e.n, e.sqlstate, left(doc, 200) FROM expected_dead e JOIN document USING (n) WHERE t = '$name'",
		"$name: dead letters where it fails, with its SQLSTATE");
	is(sql("SELECT count(*) FROM kappa.dead_letters WHERE name = '$name' AND (error = '' OR attempts IS NULL)"),
		0, "$name: every dead letter has a reason");
	note(sql("SELECT format('%s rows, %s dead letters', (SELECT count(*) FROM $name),
		(SELECT count(*) FROM kappa.dead_letters WHERE name = '$name'))"));
}

# ---------------------------------------------------------------- every type, every value

my @types = (
	'smallint', 'integer', 'bigint', 'numeric', 'numeric(5,2)', 'numeric(3,-2)', 'real', 'double precision',
	'boolean', 'text', 'varchar', 'varchar(5)', 'char(5)', 'name', 'uuid',
	'timestamptz', 'timestamptz(0)', 'timestamp', 'timestamp(3)', 'date', 'time', 'time(0)', 'timetz',
	'interval', 'interval second(0)', 'jsonb', 'bytea', 'inet', 'cidr', 'oid', 'point', 'bit(3)', 'tsvector',
	'int4range', 'tstzrange', 'int4multirange',
	'integer[]', 'text[]', 'varchar(3)[]', 'numeric(3,1)[]', 'boolean[]', 'timestamptz[]', 'jsonb[]', 'uuid[]',
	'mood', 'mood[]', 'pair', 'pair[]', 'outer_pair',
	'positive', 'more_positive', 'few', 'positives', 'with_a', 'good_pair', 'positive[]', 'good_pair[]');

my @numbers = qw(
  0 1 -1 -0 2 1.0 1.5 -1.5 0.1 99.995 999.995 123.456 1e2 1E+2 1e-2 -0.0 -0e5 0e0 1.10 100e-2 12e3
  32767 32768 -32768 -32769 2147483647 2147483648 -2147483648 -2147483649 12345678901
  9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
  99999999999999999999 1e30 1e38 1e39 1e-46 1.7976931348623157e308 1e309 -1e400 1e-400 4.9e-324
  0.1234567890123456789 9007199254740993 1234567.25e-3 16777217 20240102 1704164645);
my @strings = (
	'', ' ', 'abc', 'abcde', 'abcdef', 'abc   ', 'abcde   ', '12', ' 12 ', '+12', '012', '1.5', '1e2', '.5', '5.', '0x10', '1_000',
	'-0', '1e400', '1e-400', 't', 'T', 'true', 'fal', 'yes', 'o', 'on', 'off', 'NaN', 'nan', 'Infinity', '-inf', 'infinity', '-infinity',
	'\\\\x00ff', '\\\\xZZ', '\\\\000a', '{1,2}', '{\\"a\\",NULL}', '{{1,2},{3,4}}', '{1,{2}}', '{', '[0:1]={5,6}', '[1,5)', '[5,1)', 'empty',
	'{[1,3),[5,8)}', '(1,2)', '(1,x)', '(,)', '1,2', 'null', 'NULL',
	'2024-02-29', '2023-02-29', '2024-13-01', '2024-1-2', '20240102', 'Jan 2 2024', '01/02/2024', '24-01-02', '2024-01-02 ',
	'2024-01-02T03:04:05Z', '2024-01-02 03:04:05.123456+02:30', '2024-01-02T03:04:05.9999999', '2024-01-02 03:04:60', '2024-01-02 24:00:00',
	'2024-01-02T24:00:01Z', '2024-01-02t03:04:05z', '2024-01-02T03:04', '2024-01-02T03:04:05-0330', '2024-01-02T03:04:05+15', '2024-01-02T03:04:05+16:00',
	'2024-01-02T03:04:05.5 Europe/Berlin', '2024-01-02T03:04:05 CET', '2024-01-02T03:04:05,5Z', '2024-01-02T25:00:00Z', '2024-01-02T03:61:00Z',
	'1969-12-31T23:59:59.9999996Z', '1999-12-31 23:59:59.999999', '0001-01-01', '0000-01-01', '0001-01-01 BC', '4714-11-24 00:00:00+00 BC',
	'4714-11-23 00:00:00+00 BC', '294276-12-31T23:59:59.999999Z', '294277-01-01T00:00:00Z', '5874897-12-31', '5874898-01-01', '10000-01-01', 'epoch',
	'12:34:56.789', '24:00:00', '24:00:01', '12:34:56+02', '1 day 2 hours', 'P1DT2H3.7S', '1-2', '00:00:00.6', '-1 mon +1 day',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc999c0b4ef8bb6d6bb9bd380a11}',
	'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g',
	'happy', 'Happy', '192.168.0.1/24', '10.0.0.0/8', '::1', '10.0.0.256', '101', '102', '1010', 'é', 'ééééé', 'éééééé', '日本語', '日本語日本語',
	'\\u00e9\\u65e5', '\\ud83d\\ude00', 'a\\"b\\\\c\\/\\b\\f\\n\\r\\td', '{\\"a\\": 1}', '{\\"x\\": 1}', '[1, 2]', 'x' x 64, "\x{1F600}" x 5);
my @values = (
	'null', 'true', 'false', @numbers, '9' x 400, '0.' . '1' x 300, map({ "\"$_\"" } @strings),
	'[]', '[ ]', '{}', '{ }', '[1,2,3]', '[1,2,3,4]', '[ 1 , 2 ]', '[[1,2],[3,4]]', '[[1,2],[3]]', '[1,[2]]', '[[1],2]', '[[]]', '[[],[]]', '[[],[1]]',
	'[[[1]]]', '[[1,null],[null,4]]', '[null]', '[null,null]', '[0]', '["a",null,"b"]', '["abc","d"]', '["abcd"]', '["1","2"]', '[1.5]', '[1.25, 100]', '[true,false]',
	'[true,"f",0]', '["happy","sad"]', '["glad"]', '["2024-01-02T03:04:05Z", null]', '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]', '[[[[[[1]]]]]]',
	'{"a": 1}', '{"a":null}', '[{"a":1},{"b":[1, 2.0]}]', '{"x": 1, "y": "z"}', '{"x": -1}', '{"x": "bad"}', '{"x": null}', '{"y": {"deep": [1]}}', '{"X": 1}',
	'[{"x":1},{"x":2,"y":"q"}]', '[{"x":0}]', '[{"x":1},null]', '[[{"x":1}],[{"x":2}]]', '{"p": {"x": 1}, "n": 2, "a": [1,2]}', '{"n": -1}', '{"p": null, "n": 3}',
	'{"b": 1, "a": 2, "b": 3}', '{"a": 1e2, "c": 1.50, "d": "\\u00e9"}', '"a\\u0001b"');

{
	my @columns = map { "c$_ $types[$_]" } 0 .. $#types;
	my @documents;
	my $wide = 0;

	sql('CREATE TABLE every (kafka_offset bigint, ' . join(', ', @columns) . ')');
	for my $type (0 .. $#types)
	{
		for my $value (@values)
		{
			push @documents, "{\"c$type\": $value}",
			  sprintf('{"c0": %d, "c9": "good %d", "c3": %d.50}', $wide % 32768, $wide, $wide);
			$wide++;
		}
	}
	note(scalar(@types) . ' types, ' . scalar(@values) . ' values');
	same_as_sql('every', "t::text", @documents);
}

# Deeper than an array can be
{
	sql('CREATE TABLE deep (kafka_offset bigint, a integer[])');
	same_as_sql('deep', 't::text', '{"a": [[[[[[1]]]]]]}', '{"a": [[[[[[[1]]]]]]]}');
}

# A table without a NULL: what is missing, null and not null
{
	sql('CREATE TABLE strict (kafka_offset bigint, a integer NOT NULL, s short, k known, l listed, t text NOT NULL CHECK (t <> \'x\'))');
	my %good = (a => '1', s => '"s"', k => '{"k":1}', l => '[1]', t => '"t"');
	my @documents;
	my $doc = sub { my (%d) = @_; return '{' . join(', ', map { "\"$_\": $d{$_}" } sort keys %d) . '}' };

	push @documents, $doc->(%good) for 1 .. 40;
	for my $column (sort keys %good)
	{
		my %without = %good;
		delete $without{$column};
		push @documents, $doc->(%without), $doc->(%good, $column => 'null'), $doc->(%good, $column => '"x"'),
		  $doc->(%good, $column => '"bad"'), $doc->(%good, $column => '[]'), $doc->(%good, $column => '"a\\tb"');
	}
	push @documents, '{}', '{"a": 1}';
	same_as_sql('strict', 't::text', @documents);
}

# type json keeps the text; as jsonb it is what SQL has
{
	sql('CREATE TABLE jsons (kafka_offset bigint, j json, ja json[], jj jsonb)');
	my @documents = map { "{\"j\": $_, \"jj\": $_, \"ja\": [$_]}" } '1', '1.50', '"s"', 'true', '[1, 2]', '{"b":1,"a":2}', '"\\u00e9"', 'null', '1e2', '{"a":{"b":[null]}}';
	same_as_sql('jsons', 'j::jsonb, ja::text[]::jsonb[], jj', @documents);
	is(sql("SELECT string_agg(j::text, ' ' ORDER BY kafka_offset) FROM jsons WHERE kafka_offset IN (1, 4, 5)"),
		'1.50 [1, 2] {"b":1,"a":2}', 'json keeps the text of the message');
}

# Names: exact, odd ones, repeated ones, escaped ones, unknown ones; white space everywhere
{
	sql(q{CREATE TABLE names (kafka_offset bigint, "Weird Name" text, "ünï" text, "a""b" text, "a.b" text, "a'b" text, value text, a text, "A" text, "$" text)});
	same_as_sql('names', 't::text',
		'{"Weird Name": "w", "ünï": "u", "a\\"b": "q", "a.b": "dot", "a\'b": "apo", "value": "v", "$": "dollar"}',
		'{"weird name": "lower", "a": "lower", "A": "upper"}', '{"a": "first", "a": "second", "\\u0061": "last"}',
		'{"a": "first", "a": null}', '{"\\u00fcn\\u00ef": "escaped"}', '{"a": {"b": "nested"}}',
		" \n\t{ \"a\"\r\n: \"spaced\" \t, \"unknown\" : { \"a\" : [ 1 , { } ] } }\n ", '{"": "empty", "a": "x"}', '{"kafka_topic": "x"}');
}

# ---------------------------------------------------------------- what the table adds

# Generated columns, identity, serial, volatile defaults; DEFAULT is not JSON null
{
	sql(q{
		CREATE TABLE filled (
			id bigint GENERATED ALWAYS AS IDENTITY, other integer GENERATED BY DEFAULT AS IDENTITY (START 100),
			s serial, kafka_offset bigint, a integer DEFAULT 7, b text DEFAULT 'd' || 'e', u uuid DEFAULT gen_random_uuid(),
			at timestamptz DEFAULT clock_timestamp(), twice integer GENERATED ALWAYS AS (a * 2) STORED,
			gone integer DEFAULT 3, later jsonb DEFAULT '{"x": 1}', d positive DEFAULT 5);
		ALTER TABLE filled DROP COLUMN gone;
		ALTER TABLE filled ADD COLUMN added integer DEFAULT 9;
	});
	consume('filled', [ '{}', '{"a": null, "b": null, "later": null, "added": null, "d": null}',
		'{"a": 5, "twice": 99, "unknown": 1, "gone": 4}', '{"other": 50, "s": 60}', '{"id": 1000}',
		'{"other": null}', '{"s": null}', '{}', '{"d": -1}', '{"u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}' ]);
	is(sql('SELECT kafka_offset, a, b, twice, later, added, d FROM filled WHERE kafka_offset IN (0, 1, 2) ORDER BY 1'),
		qq(0|7|de|14|{"x": 1}|9|5\n1||||||\n2|5|de|10|{"x": 1}|9|5), 'DEFAULT where nothing is named, NULL where null is');
	is(sql('SELECT other, s FROM filled WHERE kafka_offset = 3'), '50|60', 'identity BY DEFAULT and serial take the message\'s values');
	is(sql('SELECT id FROM filled WHERE kafka_offset = 4'), '1000', 'identity ALWAYS takes the message\'s value, as with COPY');
	is(sql('SELECT count(DISTINCT id) = count(*), count(DISTINCT u) = count(*), count(DISTINCT at) = count(*),
			count(DISTINCT s) = count(*) FROM filled'),
		't|t|t|t', 'volatile defaults and sequences give each row its own');
	is(sql('SELECT u FROM filled WHERE kafka_offset = 9'), 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
		'a message\'s value wins over a volatile default');
	is_dead('filled', 'NULL for identity, serial and a failing domain',
		[ 5, '23502', qr/"other"/ ], [ 6, '23502', qr/"s"/ ], [ 8, '23514', qr/positive/ ]);
	is_balanced('filled', stored => 7, dead_lettered => 3);
}

# ---------------------------------------------------------------- csv

# Each line alone through COPY, from a file of its own
sub copy_oracle
{
	my ($name, $columns, $options, @lines) = @_;
	my $dir = $node->basedir . "/$name";

	mkdir $dir;
	append_to_file("$dir/$_", bytes($lines[$_]) . "\n") for 0 .. $#lines;
	sql("CREATE TABLE ${name}_twin (LIKE $name INCLUDING CONSTRAINTS INCLUDING GENERATED);
		DO \$d\$ BEGIN
			PERFORM set_config('timezone', 'UTC', true);
			FOR i IN 0 .. $#lines LOOP
				BEGIN
					EXECUTE format('COPY ${name}_twin ($columns) FROM %L WITH ', '$dir/' || i) || \$o\$(FORMAT csv $options)\$o\$;
					UPDATE ${name}_twin SET kafka_offset = i WHERE kafka_offset IS NULL;
				EXCEPTION WHEN OTHERS THEN
					INSERT INTO expected_dead VALUES ('$name', i, SQLSTATE, SQLERRM);
				END;
			END LOOP;
		END \$d\$;");
}

# The last line is a good one, to stand between the others.
sub same_as_copy
{
	my ($name, $table, $columns, $options, $copy_options, @lines) = @_;
	my $filler = pop @lines;

	@lines = map { ($_, $filler) } @lines;
	sql("CREATE TABLE $name (kafka_offset bigint, $table)");
	copy_oracle($name, $columns, $copy_options, @lines);
	consume($name, [ map { bytes($_) } @lines ], format => "'csv'", options => quote($options));
	is_rows("SELECT t::text FROM $name t", "SELECT t::text FROM ${name}_twin t", "$name: the rows that COPY gives");
	is_rows("SELECT d.kafka_offset, d.sqlstate, convert_from(d.value, 'UTF8') FROM kappa.dead_letters d WHERE name = '$name'",
		"SELECT e.n, e.sqlstate, convert_from(d.value, 'UTF8') FROM expected_dead e
		   LEFT JOIN kappa.dead_letters d ON d.kafka_offset = e.n AND d.name = e.t WHERE t = '$name'",
		"$name: dead letters where COPY fails, with its SQLSTATE");
}

my $csv_table = 'a integer, b text, gen integer GENERATED ALWAYS AS (a + 1) STORED, c timestamptz, d varchar(3), e numeric(4,1)';
my $csv_columns = 'a, b, c, d, e';
my @csv_lines = (
	'1,two,2024-01-02 03:04:05,xyz,1.5', '1,"two, and",,,', ',,,,', '"",a,,,', '1,"",,,', '1,"a ""quoted"" b",,,', '1,a"b"c,,,',
	'1,"a"b"c",,,', "1,\"line\nbreak\",,\"x\",2", '1,é,,日本語,', '1,日本語,,日本語日,', '1,a', '1,a,,,,', '1,a,,,,,', '', ',',
	'1, b ,,, 2.25 ', ' 1 ,b,,,', '1,NULL,,,', '1,\N,,,', 'x,b,,,', '99999999999,b,,,', '1,b,2024-13-01,,', '1,b,,abcd,',
	'1,b,,"abc   ",', '1,b,,,12345', '1,"unclosed,,,', '1,b,,,"', '1,b,,"x"y,', '1,"\",",,', '1,a\tb,,,', "1,tab\there,,,",
	'1,"a""",,,', '1,"""a",,,', '"1","b","2024-01-02 00:00:00+02","c","3"', '1,infinity,infinity,,NaN', q(1,;,2024-01-02T00:00:00Z,'q',1),
	'1,b,,x,1,2,3,4,5,6,7,8,9', '1,"' . 'x' x 10000 . '",,,', ',,2024-01-02,,1e2', '1.0,b,,,', '0x1,b,,,', '-0,b,,,-0');

same_as_copy('csv_plain', $csv_table, $csv_columns, '{}', '', @csv_lines, '7,filler,2024-01-02 03:04:05Z,f,1');
same_as_copy('csv_semicolon', $csv_table, $csv_columns, q({"delimiter": ";", "quote": "'", "null": "NULL"}),
	q(, DELIMITER ';', QUOTE '''', NULL 'NULL'),
	'1;two;2024-01-02;x;1', '1;NULL;NULL;NULL;NULL', "1;'NULL';NULL;NULL;NULL", "1;'a;b';NULL;NULL;NULL", "1;'it''s';NULL;NULL;NULL",
	'1;;NULL;NULL;NULL', ';a;NULL;NULL;NULL', '1;"a";NULL;NULL;NULL', '1;"a;b";NULL;NULL', "1;null;NULL;'x';NULL",
	"7;filler;NULL;f;1");
same_as_copy('csv_escape', $csv_table, $csv_columns, '{"escape": "\\\\", "delimiter": "\\t", "null": "\\\\N"}',
	q(, DELIMITER E'\t', ESCAPE '\', NULL '\N'),
	"1\t\"a\\\"b\"\t\\N\t\\N\t\\N", "1\t\"a\\\\b\"\t\\N\t\\N\t\\N", "1\t\"a\\nb\"\t\\N\t\\N\t\\N", "1\ta\\nb\t\\N\t\\N\t\\N",
	"1\t\"a\"\"b\"\t\\N\t\\N\t\\N", "1\t\t\\N\t\\N\t\\N", "1\t\"\\N\"\t\\N\t\\N\t\\N", "1\t\"a\\\"\t\\N\t\\N\t\\N", "7\tfiller\t\\N\tf\t1");
same_as_copy('csv_one', 'a text', 'a', '{}', '', 'x', '', '""', 'a b', '"a,b"', ' ', 'a,b', '"', 'filler');

# header: the first message of the partition
{
	sql('CREATE TABLE csv_header (a integer, kafka_offset bigint, b text DEFAULT \'d\')');
	consume('csv_header', [ 'a,b', '1,x', "2,y\r\n", "3,\"z\"\n", "4,a\r\n5,b" ], format => "'csv'", options => q('{"header": true}'));
	is(sql('SELECT a, kafka_offset, b FROM csv_header ORDER BY 1'), "1|1|x\n2|2|y\n3|3|z",
		'csv: the header is left out, one line break at the end is ignored');
	is_dead('csv_header', 'two records in a message', [ 4, '22P04', qr/record/ ]);
	is_balanced('csv_header', stored => 3, filtered => 1, dead_lettered => 1);
}
for my $options ('{"delimiter": ",,"}', '{"quote": ""}', '{"header": 1}', '{"delimiter": "é"}', '{"nonsense": true}', '{"null": 1}',
	'{"delimiter": "\""}', '{"delimiter": "\n"}', '{"null": "a,b"}')
{
	isnt(fails("SELECT kappa.subscribe('bad_csv', 'main', 'csv_header', 'csv_header', format => 'csv', options => " . quote($options) . ')'),
		'', "csv: options $options are refused");
}

# ---------------------------------------------------------------- text and bytea

{
	my $all = join '', map { chr } 0 .. 255;
	my $times = 'kafka_offset bigint, value ';

	sql("CREATE TABLE texts ($times text NOT NULL, n integer DEFAULT 4); CREATE TABLE short_texts ($times short);
		CREATE TABLE numbers ($times numeric(4,1)); CREATE TABLE docs ($times jsonb); CREATE TABLE blobs ($times bytea);");
	consume('texts', [ 'plain', '', bytes("ünï\x{1F600}"), "tab\tline\nend\n", '\x00', 'x' x 200_000, undef, "bad \xff", "nul\0l", "\xed\xa0\x80", "\xc0\x80", '{"a":1}' ], format => "'text'");
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
		consume($name, \@documents, columns => map_of(ts => "{\"path\": \"\$.n\", \"unit\": \"$word\"}", tl => "{\"path\": \"\$.n\", \"unit\": \"$word\"}"));
		# microseconds since 1970, rounded down, in the range of timestamptz (4714-11-24 BC to 294276)
		my $good = "SELECT *, floor(n * 1000000 / 1e$digits) AS us FROM counts";
		my $in_range = 'us >= -210866803200000000 AND us < 9224318016000000000';
		is_rows("SELECT kafka_offset, (tl::date - date '1970-01-01') * 86400000000::numeric + (extract(epoch FROM tl::time) * 1000000)::numeric, ts AT TIME ZONE 'UTC' = tl FROM $name",
			"SELECT kafka_offset, us, CASE WHEN us IS NOT NULL THEN true END FROM ($good) g WHERE us IS NULL OR $in_range", "unit $word: exact to the microsecond");
		is_rows("SELECT kafka_offset, sqlstate FROM kappa.dead_letters WHERE name = '$name'",
			"SELECT kafka_offset, '22008' FROM ($good) g WHERE NOT ($in_range)", "unit $word: 22008 outside of the range");
	}
	sql('CREATE TABLE epoch_bad (kafka_offset bigint, ts timestamptz)');
	consume('epoch_bad', [ map { ("{\"n\": $_}", '{"n": 1}', '{"n": 2}') } 'true', '[]', '{}', '"x"', '""', '"2024-01-02"', '"5 s"', '"0x10"', '"1_000"', '"NaN"', '"5,0"', '"+-5"' ],
		columns => map_of(ts => '{"path": "$.n", "unit": "ms"}'));
	is(sql("SELECT string_agg(DISTINCT sqlstate, ' '), count(*) FROM kappa.dead_letters WHERE name = 'epoch_bad'"), '22007|12', 'unit: what is no number is 22007');
}

# A precision and a domain hold for times that are counted, and for metadata
{
	sql(q{CREATE DOMAIN recent AS timestamptz CHECK (VALUE > '2000-01-01'); CREATE DOMAIN some_key AS bytea NOT NULL CHECK (length(VALUE) < 4);
		CREATE DOMAIN some_bytes AS bytea CHECK (length(VALUE) < 4); CREATE DOMAIN low AS bigint CHECK (VALUE < 8);
		CREATE TABLE held (ts timestamptz(0), tl timestamp(1), r recent, k some_key, o low, kafka_timestamp timestamptz(1));
		CREATE TABLE held_bytes (value some_bytes, kafka_offset bigint)});
	consume('held', [ map { { time => 1704164645555, key => 'k', %$_ } } { value => '{"n": 1704164645555}' }, { value => '{"n": 5}' }, { value => '{"n": null}', key => 'long' },
			{ value => '{"n": null}', key => undef }, map { { value => '{}' } } 4 .. 9 ],
		columns => map_of(ts => '{"path": "$.n", "unit": "ms"}', tl => '{"path": "$.n", "unit": "ms"}', r => '{"path": "$.n", "unit": "ms"}', k => '"kafka.key"', o => '"kafka.offset"'));
	is(sql('SELECT ts, tl, r, k, o, kafka_timestamp FROM held WHERE o = 0'),
		'2024-01-02 03:04:06+00|2024-01-02 03:04:05.6|2024-01-02 03:04:05.555+00|\x6b|0|2024-01-02 03:04:05.6+00', 'precision of counted times and of metadata');
	is_dead('held', 'domains', [ 1, '23514', qr/recent/ ], [ 2, '23514', qr/some_key/ ], [ 3, '23502', qr/some_key/ ], [ 8, '23514', qr/low/ ], [ 9, '23514', qr/low/ ]);
	consume('held_bytes', [ 'abc', 'abcd', 'x' ], format => "'bytea'");
	is_dead('held_bytes', 'a domain over bytea', [ 1, '23514', qr/some_bytes/ ]);
}

# Metadata by name, of odd types; it wins over a field of its name
{
	sql(q{CREATE TABLE meta (kafka_topic name, kafka_partition text, kafka_offset numeric, kafka_timestamp date, kafka_key varchar(3), kafka_headers text, a integer);
		CREATE TABLE meta_small (kafka_offset smallint, kafka_partition smallint, kafka_timestamp timestamptz(0), kafka_key uuid, kafka_headers json, kafka_topic char(3))});
	topic('meta', 2);
	give_to('meta', 1, { value => '{"kafka_offset": 99, "kafka_topic": "liar", "kafka_key": "liar", "a": 1}', key => 'abc', time => 1704164645999, headers => [ [ 'x', '1' ] ] },
		{ value => '{"a": 2}', key => 'abcd' }, { value => '{"a": 3}', key => "\xff\xfe" }, { value => '{"a": 4}', key => "a\0b" }, { value => '{"a": 5}' }, { value => '{"a": 6}', key => '' });
	subscribe('meta');
	settled('meta');
	is(sql('SELECT kafka_topic, kafka_partition, kafka_offset, kafka_key, kafka_headers, a FROM meta ORDER BY a'),
		qq(meta|1|0|abc|{"x": "1"}|1\nmeta|1|4|||5\nmeta|1|5|||6), 'metadata by name wins over the fields');
	is(sql('SELECT kafka_timestamp FROM meta WHERE a = 1'), '2024-01-02', 'a timestamp in a date column');
	is_dead('meta', 'keys that are no text, or too long for the column', [ 1, '22001', qr/too long/ ], [ 2, '22021', qr/key/ ], [ 3, '22021', qr/key/ ]);
	is(sql("SELECT string_agg(key::text, ' ' ORDER BY kafka_offset) FROM kappa.dead_letters WHERE name = 'meta'"), '\x61626364 \xfffe \x610062', 'the dead letters have their keys');
	topic('meta_small');
	give('meta_small', { value => '{}', key => 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', time => 1704164645500, headers => [ [ 'b', '2' ], [ 'a', '1' ] ] }, { value => '{}', key => 'x' });
	sql('ALTER TABLE meta_small DROP COLUMN kafka_topic');
	subscribe('meta_small');
	settled('meta_small');
	is(sql('SELECT kafka_offset, kafka_partition, kafka_timestamp, kafka_key, kafka_headers::jsonb FROM meta_small'),
		qq(0|0|2024-01-02 03:04:06+00|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{"a": "1", "b": "2"}), 'metadata in smallint, timestamptz(0), uuid and json columns');
	is_dead('meta_small', 'a key that is no uuid', [ 1, '22P02', qr/uuid/ ]);
}

# Headers: repeated, null, empty, not UTF-8, odd names
{
	sql('CREATE TABLE heads (kafka_offset bigint, kafka_headers jsonb)');
	my @headers = ([ [ 'a', '1' ] ], [ [ 'a', '1' ], [ 'b', '2' ], [ 'a', '3' ] ], [ [ 'a', undef ] ], [ [ 'a', '' ] ], [ [ 'a', "\xff\x00\x01" ] ],
		[ [ 'a', undef ], [ 'a', 'x' ], [ 'a', "\xfe" ] ], [ [ '', 'empty name' ] ], [ [ bytes('ü'), bytes('日本') ] ], [ [ 'quote"\\', "line\n" ] ],
		[ [ 'nul', "a\0b" ] ], [ [ 'x', '\\x41' ] ], undef, [ map { [ "h$_", "v$_" ] } 1 .. 50 ], [ [ "\xff", 'bad name' ] ], [ [ "n\0l", 'nul in name' ] ]);
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
