
# RandomValue: texts that are, or nearly are, values of a type, from KappaTest's
# generator of random numbers, so that a seed gives the same ones anywhere.
#
#   random_text($type)    a text for the type's input function: valid forms, edges of
#                         the range, rare forms, and some of each with a few characters
#                         changed; now and then one that was made for another type
#   random_value($type)   the same as the text of a JSON value
#   json_string($text)    as a JSON string, escaped in one of the ways that JSON allows
#   value_types()         those that it knows
#
# Never in it: what JSON or CSV cannot carry (NUL, invalid UTF-8), and the words that
# depend on the clock (now, today).
package RandomValue;

use strict;
use warnings;
use utf8;

use Exporter 'import';
use KappaTest qw(pick);
use Math::BigInt;

our @EXPORT = qw(random_text random_value json_string value_types);

my @types = (
	'smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'numeric(10,2)', 'numeric(4,-2)', 'boolean',
	'date', 'timestamp', 'timestamp(3)', 'timestamptz', 'timestamptz(0)', 'time', 'timetz', 'interval',
	'uuid', 'text', 'varchar(5)', 'char(5)', 'jsonb', 'bytea', 'positive', 'lately',
	'integer[]', 'double precision[]', 'boolean[]', 'timestamptz[]', 'varchar(3)[]', 'jsonb[]', 'uuid[]');

sub value_types { return @types; }

sub one_of { return $_[ pick(scalar @_) ]; }
sub chance { return pick(100) < $_[0]; }
sub between { return $_[0] + pick($_[1] - $_[0] + 1); }
sub digits { return join '', map { pick(10) } 1 .. $_[0]; }

# ---------------------------------------------------------------- numbers

# Three on either side of every limit that a reader of integers may have
my @edges = map {
	my $limit = Math::BigInt->new($_);
	map { $limit->copy->badd($_)->bstr } -3 .. 3
} (3, '1e1', '1e2', '1e15', '1e18', '1e19', map { Math::BigInt->new(2)->bpow($_)->bstr } 7, 8, 15, 16, 31, 32, 52, 53, 62, 63, 64, 127, 128);

sub sign { return chance(65) ? '' : chance(70) ? '-' : chance(80) ? '+' : one_of('--', '+-', '-+', '- ', '+ '); }
sub zeros { return chance(90) ? '' : '0' x between(1, chance(90) ? 4 : 40); }
sub exponent { return one_of('e', 'E') . one_of('', '', '+', '-', '-') . (chance(10) ? '0' : '') . $_[0]; }

sub integer
{
	my $body = chance(55) ? one_of(@edges) : chance(90) ? digits(between(1, 12)) : digits(between(13, 60));

	$body = sign() . zeros() . $body;
	$body .= one_of('.', '.0', '.5', '.000', '.' . digits(3)) if chance(6);
	$body .= exponent(between(0, 20)) if chance(6);
	return chance(96) ? $body : one_of('0x1F', '0o17', '0b101', '1_000', '-0', '+0', '1,000', '٣', '1e', '0x', '1 2', '');
}

my @floats = (
	'NaN', 'nan', 'Infinity', '-Infinity', '+Infinity', 'inf', '-inf', '+inf', 'INF', 'infinit', 'infinityx', '-nan', '.', '-.', 'e5', '1.e5', '.5e1',
	'1e', '1e+', '0x1p3', '0x10', '1d5', '1.7976931348623157e308', '1.7976931348623158e308', '1.7976931348623159e308', '-1.8e308',
	'4.9406564584124654e-324', '2.4703282292062328e-324', '2.4703282292062327e-324', '2.2250738585072014e-308', '2.2250738585072011e-308',
	'3.4028234663852886e38', '3.4028235677973366e38', '3.4028235677973367e38', '1.1754943508222875e-38', '1.4012984643248171e-45',
	'7.0064923216240854e-46', '7.0064923216240853e-46', '9007199254740993', '9007199254740992.9999', '0.1', '-0', '-0.0', '-0e0', '0e999999',
	'16777217', '16777219', '8388608.5', '1e23', '8.5e22', '123456789012345678e-2', '1e22', '1e-22', '5e-324', '1e-400', '1e400');

sub decimal
{
	return one_of(@floats) if chance(15);
	my $body = chance(10) ? one_of(@edges) : digits(between(0, chance(85) ? 8 : 25));

	$body .= '.' . digits(between(0, chance(85) ? 8 : 30)) if chance(65);
	$body .= exponent(chance(80) ? pick(40) : one_of(45, 46, 290, 307, 308, 309, 323, 324, 325, 400)) if chance(30);
	$body .= exponent(one_of(131071, 131072, 16383, 16384, 999999, '99999999999')) if chance(1) && $body !~ /e/i;
	return sign() . zeros() . $body;
}

sub boolean
{
	my $word = one_of('true', 'false', 'yes', 'no', 'on', 'off', '1', '0', 't', 'f', 'y', 'n', '2', '00', '01', 'null', 'enabled');

	$word = substr $word, 0, between(0, length $word) if chance(30);
	$word .= one_of('e', 's', '1', 'x') if chance(5);
	return chance(20) ? uc $word : chance(20) ? ucfirst $word : $word;
}

# ---------------------------------------------------------------- times

my @months = qw(jan Feb MARCH apr may June jul Aug sept sep oct November Dec);
my @zones = ('', '', '', '', 'Z', 'Z', 'z', 'UTC', '+00', '-00', '+01', '-08', '+0530', '-0330', '+05:30', '-03:30', '+5', '+5:3', '+14:00', '+15:59',
	'+15:59:59', '-15:59', '+15:60', '+16', '-16:00', '+24', '+1234567', '+05:30:15', '+05:', ' +02', ' - 02', 'GMT', 'GMT+3', 'EST', 'PDT', 'CET', 'MSK',
	'EST5EDT', 'zulu', ' Europe/Berlin', ' America/New_York', ' Nowhere/City', ' utc', 'Zx', 'A', 'AM', ' PM', ' BC', ' AD', 'UTC+3');

sub year
{
	return sprintf '%04d', between(1900, 2100) if chance(60);
	return sprintf '%04d', pick(10000) if chance(50);
	return one_of('0000', '0001', '1', '0', '99', '70', '69', '00', '001', '123', '4713', '4714', '4712', '9999', '10000', '00002024', '100000', '294276',
		'294277', '294275', '5874897', '5874898', '-1', '-0001', '+2024', '99999999999', '1582', '1752', '2000', '1900', '2100');
}

sub month { return chance(88) ? sprintf('%02d', between(1, 12)) : one_of('00', '13', '1', '9', '012', '99', '12', '-1'); }
sub day { return chance(80) ? sprintf('%02d', between(1, 28)) : one_of('00', '29', '30', '31', '32', '1', '9', '031', '99'); }

sub date
{
	return one_of('infinity', '-infinity', 'Infinity', '+infinity', '-INFINITY', 'infinit', 'epoch', 'EPOCH', 'allballs', 'J2451187', 'J0', 'J-1', 'J2147483493',
		'2147483494', 'y2024m02d03', '2024.123', '2024-W01-1', '2024123', '20240230', '20240102', '240102', '99991231', '1', '')
	  if chance(8);
	my $bc = chance(94) ? '' : one_of(' BC', ' AD', ' bc', 'BC', ' BC BC');

	return join('-', year(), month(), day()) . $bc if chance(65);
	return join(one_of('-', '/', '.', ' ', '--', ''), year(), month(), day()) . $bc if chance(30);
	return join(one_of('/', '-', '.', ' '), month(), day(), year()) . $bc if chance(35);
	return one_of(day() . ' ' . one_of(@months) . ' ' . year(), one_of(@months) . ' ' . day() . ', ' . year(),
		one_of('Mon ', 'Sunday, ', 'xyz ') . one_of(@months) . ' ' . day() . ' ' . year(), year() . '-' . one_of(@months) . '-' . day()) . $bc;
}

sub clock
{
	return one_of('24:00:00', '24:00', '24:00:00.000000', '24:00:00.0000001', '24:00:01', '23:59:60', '23:59:60.5', '23:59:60.999999', '00:00:60', '23:59:59.9999999',
		'23:59:59.9999995', '23:59:59.9999994', '00:00:00.0000005', 'allballs', '12:00 AM', '12:00 PM', '13:00 PM', '00:30 am', '040506', '0405', '040506.789', '25:00', '1:2:3', '-1:00:00', '12', '')
	  if chance(8);
	my $text = sprintf '%02d:%02d', chance(95) ? pick(24) : between(22, 26), chance(96) ? pick(60) : between(58, 61);

	return $text if chance(7);
	$text .= sprintf ':%02d', chance(95) ? pick(60) : between(58, 62);
	$text .= one_of('.', '.', '.', '.', ',', ':') . digits(between(0, chance(85) ? 6 : 12)) if chance(45);
	return $text;
}

sub zone { return one_of(@zones); }

sub moment
{
	return sprintf('%s-%02d-%02d%s%02d:%02d:%02d', year(), between(1, 12), between(1, 28), one_of('T', ' '), pick(24), pick(60), pick(60))
	  . (chance(50) ? '.' . digits(between(1, chance(90) ? 6 : 12)) : '') . one_of('', 'Z', '+01', '-0330', '+05:30', '-15:59', zone()) if chance(60);
	return date() if chance(6);
	return clock() . one_of('', ' ') . zone() . ' ' . date() if chance(3);
	my $text = date() . one_of('T', 'T', ' ', ' ', 't', '  ', '', ' T', '_') . clock() . zone();
	$text .= one_of(' BC', ' AD', ' bc', ' PM') if chance(3);
	return $text;
}

sub interval
{
	return one_of('P1Y2M3DT4H5M6.7S', 'PT0.0000001S', 'P-1Y', '1-2', '1 2:3:4', '-1 day +2:03', '1 day ago', '@ 1 min', 'P1W', '1 mon -1 day', 'P', 'PT', 'infinity',
		'1.5 months', '0.5 week', '178000000 years', '178956970 years', '178956971 years', '2147483647 days', '2147483648 days', '1 fortnight', '.5 s', '1e3 s', '')
	  if chance(40);
	return join ' ', map { sign() . one_of(digits(between(1, 4)), digits(2) . '.' . digits(between(1, 8))) . one_of(' ', '') . one_of('s', 'sec', 'min', 'h', 'day', 'days', 'week', 'mon', 'year', 'dec', 'ms', 'us', 'x') } 0 .. pick(3);
}

# ---------------------------------------------------------------- others

sub uuid
{
	my $text = join '', map { sprintf '%x', pick(16) } 1 .. 32;

	$text = uc $text if chance(20);
	$text = substr $text, 0, between(28, 34) if chance(5);
	if (chance(75)) { $text =~ s/^(.{8})(.{4})(.{4})(.{4})/$1-$2-$3-$4-/ }
	elsif (chance(50)) { $text =~ s/(.{4})(?=.)/$1 . (chance(50) ? '-' : '')/ge }
	$text = one_of("{$text}", "{$text", "$text}", "($text)", "$text-", "-$text") if chance(12);
	return $text;
}

my @letters = ('a' .. 'f', 'x' .. 'z', 'A' .. 'C', '0' .. '9', ' ', ' ', '"', '\\', '/', ',', '{', '}', '[', ']', ':', "'", "\n", "\t", "\r", "\x01", "\x1f", "\x7f",
	'%', '$', 'é', 'ß', 'İ', '日', '本', "\x{a0}", "\x{2028}", "\x{feff}", "\x{fffd}", "\x{ffff}", "\x{1F600}", "\x{10ffff}", "e\x{301}");

sub words { return join '', map { one_of(@letters) } 1 .. between(0, chance(85) ? 8 : 300); }
sub letters { return join('', map { one_of('a' .. 'e', 'é', '日') } 1 .. between(1, 6)) . ' ' x pick(4) if chance(60); return words(); }

sub bytea
{
	return '\\x' . join(one_of('', '', ' '), map { sprintf '%02x', pick(256) } 1 .. pick(12)) . (chance(10) ? one_of('0', 'g', ' ') : '') if chance(60);
	return join '', map { one_of('a', 'é', '\\\\', '\\000', '\\377', '\\400', '\\1', '\\', ' ') } 1 .. pick(8);
}

sub document
{
	my ($depth) = @_;
	my $space = sub { return chance(85) ? '' : one_of(' ', "\n", "\t", "\r\n") };

	# a number that no numeric can be ends jsonb's reading of all the document
	return one_of('null', 'true', 'false', '{}', '[]', json_string(words()), map { my $n = decimal(); is_number($n) && $n !~ /e[-+]?\d{4}/i ? $n : '1.50' } 1 .. 4)
	  if $depth == 0 || chance(35);
	return '[' . $space->() . join(',' . $space->(), map { document($depth - 1) . $space->() } 0 .. pick(4)) . ']' if chance(40);
	return '{' . join(',', map { $space->() . json_string(one_of('a', 'b', 'é', '', words())) . $space->() . ':' . $space->() . document($depth - 1) } 0 .. pick(4)) . '}';
}

sub array_text
{
	my ($element) = @_;
	my $item = sub {
		return one_of('NULL', 'null', '') if chance(6);
		my $text = random_text($element);
		return $text if $text !~ /[",{}\\\s]/ && chance(70);
		$text =~ s/(["\\])/\\$1/g;
		return "\"$text\"";
	};
	my $row = sub { return '{' . join(one_of(',', ', '), map { $item->() } 1 .. $_[0]) . '}' };
	my $n = pick(4);
	my $text = chance(80) ? $row->($n) : '{' . join(',', map { $row->(chance(90) ? $n : $n + 1) } 0 .. pick(3)) . '}';

	return chance(90) ? $text : one_of("[0:1]=$text", "[1:$n]=$text", " $text ", "$text,", '{{{{{{{1}}}}}}}', '{', '');
}

my %maker = (
	'smallint' => \&integer, 'integer' => \&integer, 'bigint' => \&integer, 'positive' => \&integer,
	'real' => \&decimal, 'double precision' => \&decimal, 'numeric' => \&decimal, 'numeric(10,2)' => \&decimal, 'numeric(4,-2)' => \&decimal,
	'boolean' => \&boolean, 'date' => sub { return chance(92) ? date() : moment() }, 'lately' => \&moment,
	(map { $_ => \&moment } 'timestamp', 'timestamp(3)', 'timestamptz', 'timestamptz(0)'),
	'time' => sub { return clock() . (chance(10) ? zone() : '') }, 'timetz' => sub { return clock() . zone() }, 'interval' => \&interval,
	'uuid' => \&uuid, 'text' => \&words, 'varchar(5)' => \&letters, 'varchar(3)' => \&letters, 'char(5)' => \&letters,
	'jsonb' => sub { return document(3) }, 'bytea' => \&bytea);

# A few characters less, more or other ones
sub mutated
{
	my ($text) = @_;

	for (0 .. pick(3))
	{
		my $at = pick(1 + length $text);
		my $new = one_of('', '', 0 .. 9, '-', '+', '.', ':', ' ', ' ', 'e', 'T', 'Z', 'x', '_', '/', ',', '"', '{', "\t", "\n", "\x0b", "\x{a0}", 'é');

		substr($text, $at, pick(2)) = $new if $at <= length $text;
	}
	return $text;
}

sub random_text
{
	my ($type) = @_;
	my $text = $type =~ /^(.*)\[\]$/ ? array_text($1) : chance(96) ? $maker{$type}->() : $maker{ one_of(sort keys %maker) }->();

	$text = mutated($text) if chance(12);
	$text = join '', (map { one_of(' ', "\t", "\n", "\x0b", "\f", "\r", ' ', "\x{a0}") } 1 .. pick(3)), $text, map { one_of(' ', "\t", "\n", ' ') } 1 .. pick(3) if chance(5);
	utf8::upgrade($text);		# characters in any case, never bytes
	return $text;
}

# ---------------------------------------------------------------- JSON

sub is_number { return $_[0] =~ /\A-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\z/; }

sub escaped
{
	my ($c) = @_;
	my $code = ord $c;
	my %short = ("\n" => '\n', "\t" => '\t', "\r" => '\r', "\b" => '\b', "\f" => '\f', '"' => '\"', '\\' => '\\\\', '/' => '\/');

	return $short{$c} if $short{$c} && chance(80);
	return sprintf(chance(50) ? '\u%04x' : '\u%04X', $code) if $code < 0x10000;
	$code -= 0x10000;
	return sprintf '\u%04x\u%04X', 0xD800 | $code >> 10, 0xDC00 | $code & 0x3FF;
}

sub json_string
{
	my ($text) = @_;
	my $often = chance(85) ? 0 : one_of(10, 100);

	return '"' . join('', map { /["\\\x00-\x1f]/ || chance($often) ? escaped($_) : $_ } split //, $text) . '"';
}

sub json_array
{
	my ($element, $depth, $n) = @_;

	return '[' . join(one_of(',', ' , '), map { $depth > 0 && chance(97) ? json_array($element, $depth - 1, chance(95) ? $n : $n + 1) : random_value($element) } 1 .. $n) . ']';
}

sub value_text
{
	my ($type) = @_;

	return 'null' if chance(1);
	return document(2) if chance(2);
	return json_array($1, chance(75) ? 0 : pick(3), pick(4)) if $type =~ /^(.*)\[\]$/ && chance(70);
	return document(3) if $type eq 'jsonb' && chance(85);
	return one_of('true', 'false') if $type eq 'boolean' && chance(15);
	my $text = random_text($type);
	return $text if is_number($text) && chance(60);
	return json_string($text);
}

sub random_value
{
	my $text = value_text($_[0]);

	utf8::upgrade($text);
	return $text;
}

1;
