
# Values: whatever a message may hold becomes what SQL makes of it.
#
# The oracle for JSON is jsonb_populate_record: each document goes through it
# into a twin table, alone; its error must be the dead letter's SQLSTATE.  The
# oracle for CSV is COPY.  Every type meets every value, also those that do not
# suit it.  Good documents stand between, so that never more than half are bad.
#
# At the end generated values (RandomValue), as JSON and as CSV, under settings of the
# server that the worker must not follow.  KAPPA_SEED replays them, KAPPA_VALUES says how many.

use strict;
use warnings;
use utf8;

use FormatTest;
use KappaTest qw(seed pick);
use PostgreSQL::Test::Utils;
use RandomValue;
use Test::More;

seed();
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
	CREATE TABLE expected_dead (t text, n bigint, state text, as_text text);
	-- one function a table: planned once, not for each document
	CREATE FUNCTION make_twin(name text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('CREATE TABLE %s_twin (LIKE %1$s INCLUDING CONSTRAINTS)', name);
		EXECUTE format($make$
			CREATE FUNCTION %s_fill() RETURNS void LANGUAGE plpgsql
				SET timezone = 'UTC' SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' AS $fill$
			DECLARE
				d document;
			BEGIN
				FOR d IN SELECT * FROM document ORDER BY n LOOP
					BEGIN
						INSERT INTO %1$s_twin SELECT r.* FROM
							jsonb_populate_record(NULL::%1$s, d.doc::jsonb || jsonb_build_object('kafka_offset', d.n)) r;
					EXCEPTION WHEN OTHERS THEN
						INSERT INTO expected_dead VALUES (%1$L, d.n, SQLSTATE);
						-- jsonb meets it before anything else; type json leaves numbers to the columns, as we do
						IF SQLERRM = 'value overflows numeric format' THEN
							BEGIN
								PERFORM json_populate_record(NULL::%1$s, d.doc::json);
							EXCEPTION WHEN OTHERS THEN
								UPDATE expected_dead SET as_text = SQLSTATE WHERE t = %1$L AND n = d.n;
							END;
						END IF;
					END;
				END LOOP;
			END $fill$ $make$, name);
		EXECUTE format('SELECT %s_fill()', name);
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
	consume($name, [ map { bytes($_) } @documents ]);
	is_twin($name, $shown);
}

# Rows and dead letters as jsonb_populate_record makes them of table document.  Where a number
# is out of all bounds and something else is wrong too, either may be what is said.
sub is_twin
{
	my ($name, $shown) = @_;

	sql("SELECT make_twin('$name')");
	is_rows("SELECT kafka_offset, $shown FROM $name t", "SELECT kafka_offset, $shown FROM ${name}_twin t",
		"$name: the rows that jsonb_populate_record gives");
	is_rows("SELECT d.kafka_offset, d.sqlstate, left(doc, 200) FROM kappa.dead_letters d JOIN document ON n = kafka_offset WHERE name = '$name'",
		"SELECT e.n, CASE d.sqlstate WHEN e.as_text THEN e.as_text ELSE e.state END, left(doc, 200)
		   FROM expected_dead e JOIN document USING (n) LEFT JOIN kappa.dead_letters d ON d.kafka_offset = e.n AND d.name = e.t WHERE t = '$name'",
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
	'2024-01-02T24:00:01Z', '2024-01-02t03:04:05z', '2024-01-02T03:04', '2024-01-02T03:04:05-0330', '2024-01-02T03:04:05+15',
		'2024-01-02T03:04:05+16:00',
	'2024-01-02T03:04:05.5 Europe/Berlin', '2024-01-02T03:04:05 CET', '2024-01-02T03:04:05,5Z', '2024-01-02T25:00:00Z', '2024-01-02T03:61:00Z',
	'1969-12-31T23:59:59.9999996Z', '1999-12-31 23:59:59.999999', '0001-01-01', '0000-01-01', '0001-01-01 BC', '4714-11-24 00:00:00+00 BC',
	'4714-11-23 00:00:00+00 BC', '294276-12-31T23:59:59.999999Z', '294277-01-01T00:00:00Z', '5874897-12-31', '5874898-01-01', '10000-01-01', 'epoch',
	'12:34:56.789', '24:00:00', '24:00:01', '12:34:56+02', '1 day 2 hours', 'P1DT2H3.7S', '1-2', '00:00:00.6', '-1 mon +1 day',
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{a0eebc999c0b4ef8bb6d6bb9bd380a11}',
	'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1',
		'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g',
	'happy', 'Happy', '192.168.0.1/24', '10.0.0.0/8', '::1', '10.0.0.256', '101', '102', '1010', 'é', 'ééééé', 'éééééé', '日本語', '日本語日本語',
	'\\u00e9\\u65e5', '\\ud83d\\ude00', 'a\\"b\\\\c\\/\\b\\f\\n\\r\\td', '{\\"a\\": 1}', '{\\"x\\": 1}', '[1, 2]', 'x' x 64, "\x{1F600}" x 5);
my @values = (
	'null', 'true', 'false', @numbers, '9' x 400, '0.' . '1' x 300, map({ "\"$_\"" } @strings),
	'[]', '[ ]', '{}', '{ }', '[1,2,3]', '[1,2,3,4]', '[ 1 , 2 ]', '[[1,2],[3,4]]', '[[1,2],[3]]', '[1,[2]]', '[[1],2]', '[[]]', '[[],[]]', '[[],[1]]',
	'[[[1]]]', '[[1,null],[null,4]]', '[null]', '[null,null]', '[0]', '["a",null,"b"]', '["abc","d"]', '["abcd"]', '["1","2"]', '[1.5]',
		'[1.25, 100]', '[true,false]',
	'[true,"f",0]', '["happy","sad"]', '["glad"]', '["2024-01-02T03:04:05Z", null]', '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]', '[[[[[[1]]]]]]',
	'{"a": 1}', '{"a":null}', '[{"a":1},{"b":[1, 2.0]}]', '{"x": 1, "y": "z"}', '{"x": -1}', '{"x": "bad"}', '{"x": null}',
		'{"y": {"deep": [1]}}', '{"X": 1}',
	'[{"x":1},{"x":2,"y":"q"}]', '[{"x":0}]', '[{"x":1},null]', '[[{"x":1}],[{"x":2}]]', '{"p": {"x": 1}, "n": 2, "a": [1,2]}', '{"n": -1}',
		'{"p": null, "n": 3}',
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
	my @documents = map { "{\"j\": $_, \"jj\": $_, \"ja\": [$_]}" } '1', '1.50', '"s"', 'true', '[1, 2]', '{"b":1,"a":2}', '"\\u00e9"',
		'null', '1e2', '{"a":{"b":[null]}}';
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
					INSERT INTO expected_dead VALUES ('$name', i, SQLSTATE);
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
		"SELECT e.n, e.state, convert_from(d.value, 'UTF8') FROM expected_dead e
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

# ---------------------------------------------------------------- generated values

# Each column of each document is of one type.  What is compared is also what the
# types' send functions give: all bits of floats, the scale of numerics.
my @generated = value_types();

# those that have a reader of their own in core/ come more often
my @of_core = grep { $generated[$_] =~ /^(smallint|integer|bigint|double precision|boolean|date|timestamp|timestamptz|uuid)$/ } 0 .. $#generated;

sub generated_table
{
	my ($name) = @_;

	sql("CREATE TABLE $name (kafka_offset bigint, " . join(', ', map { "c$_ $generated[$_]" } 0 .. $#generated) . ')');
}

sub csv_line
{
	my ($column, $text) = @_;

	$text =~ s/"/""/g;
	return ',' x $column . "\"$text\"" . ',' x ($#generated - $column);
}

sub same_generated
{
	my ($round, $n) = @_;
	my (@json, @csv, @as_json);

	for my $i (0 .. $n - 1)
	{
		my $column = pick(2) ? $of_core[ pick(scalar @of_core) ] : $i % @generated;
		# a JSON text in CSV is read as JSON, as a string of the document it is none
		my $text = random_text($generated[$column] eq 'jsonb' ? 'text' : $generated[$column]);

		push @json, '{"c' . $column . '": ' . random_value($generated[$column]) . '}';
		$column++ if $generated[$column] eq 'jsonb';
		push @csv, csv_line($column, $text);
		push @as_json, '{"c' . $column . '": ' . json_string($text) . '}';
		next if $i % 2;
		push @json, '{"c1": 1, "c18": "good"}';
		push @csv, csv_line(1, 1);
		push @as_json, '{"c1": 1}';
	}
	generated_table("json_$round");
	same_as_sql("json_$round", 't::text, md5(record_send(t))', @json);
	generated_table("csv_$round");
	set_documents(@as_json);
	consume("csv_$round", [ map { bytes($_) } @csv ], format => "'csv'");
	is_twin("csv_$round", 't::text, md5(record_send(t))');
	sql("DROP TABLE ${_}_$round, ${_}_${round}_twin CASCADE") for 'json', 'csv';
}

{
	my $values = $ENV{KAPPA_VALUES} // 20_000;
	my $a_round = 10_000;

	sql("CREATE DOMAIN lately AS timestamptz CHECK (VALUE > '2000-01-01Z');
		ALTER DATABASE postgres SET datestyle = 'German, DMY'; ALTER DATABASE postgres SET timezone = 'America/New_York';
		ALTER DATABASE postgres SET intervalstyle = 'iso_8601'; ALTER DATABASE postgres SET extra_float_digits = -10;
		ALTER DATABASE postgres SET bytea_output = 'escape'");
	same_generated($_, $a_round) for 1 .. $values / 2 / $a_round;

	# words that stand for the time of the transaction
	sql('CREATE TABLE words (a timestamptz, b timestamp, c date, d timestamptz(0))');
	consume('words', [ map { "{\"a\": \"$_\", \"b\": \"$_\", \"c\": \"$_\", \"d\": \"$_\"}" } 'now', ' NOW ', 'today', 'tomorrow', 'yesterday' ]);
	is(sql(q{SELECT count(*) FROM words WHERE abs(extract(epoch FROM clock_timestamp() - a)) < 2 * 86400 + 60 AND b - (a AT TIME ZONE 'UTC') = interval '0'
		AND c = b::date AND abs(extract(epoch FROM d - a)) <= 0.5}), 5, 'now and today are the transaction\'s, by UTC');
}

finish();
