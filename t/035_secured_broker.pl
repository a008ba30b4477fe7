# A secured broker: SASL_SSL with SCRAM and PLAIN, mutual TLS, ACLs, all of it real.
#
# Right secrets work in each of the ways.  Whatever is wrong becomes a durable state that
# names the step, kappa.check_server fails at that step and at no other, the calls fail with
# the step's SQLSTATE, and once it is mended the rows arrive.  Each case is a subscription of
# its own, so all of them wait at the same time.  At last every text that anybody could have
# seen is searched for the secrets.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $messages = 60;
my $dir = broker_folder();
my %pem;

# ---------------------------------------------------------------- certificates and broker

run_bash('certificate_authority "$1" ours && certificate_authority "$1" foreign &&
	certificate "$1" ours server IP:127.0.0.1,DNS:localhost && certificate "$1" ours elsewhere DNS:kafka.example &&
	certificate "$1" ours mtls "" canary-keyword-44 && certificate "$1" ours filed "" canary-filed-45 && certificate "$1" ours plainkey && certificate "$1" foreign stranger', $dir);
$pem{$_} = slurp_file("$dir/$_") for map { basename_of($_) } glob("$dir/*.pem $dir/*.key");
append_to_file("$dir/$_.store", $pem{"$_.key"} . $pem{"$_.pem"}) for 'server', 'elsewhere';

sub basename_of { return $_[0] =~ s{.*/}{}r; }

append_to_file("$dir/listeners", "SECURE SASL_SSL\nMUTUAL SSL\nELSEWHERE SASL_SSL\n");
append_to_file("$dir/settings", join "\n",
	'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer', 'super.users=User:ANONYMOUS',
	'ssl.principal.mapping.rules=RULE:^CN=([^,]*)$/$1/',
	(map { ("listener.name.$_->[0].ssl.keystore.type=PEM", "listener.name.$_->[0].ssl.keystore.location=$dir/$_->[1].store") }
		['secure', 'server'], ['mutual', 'server'], ['elsewhere', 'elsewhere']),
	'listener.name.mutual.ssl.client.auth=required', 'listener.name.mutual.ssl.truststore.type=PEM', "listener.name.mutual.ssl.truststore.location=$dir/ours.pem",
	(map { ("listener.name.$_.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN",
		"listener.name.$_.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"listener.name.$_.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_plain=\"canary-plain-33\";") }
		'secure', 'elsewhere'), '');
broker_start();

my %password = (reader => 'canary-reader-11', changer => 'canary-before-22', plain => 'canary-plain-33', denied => 'canary-denied-55', groupless => 'canary-groupless-56',
	filer => 'canary-filer-57', revoked => 'canary-revoked-66');
tool('scram-user', $_, $password{$_}) for grep { $_ ne 'plain' } sort keys %password;
tool('create', 'orders', 3);
for my $user ('reader', 'changer', 'plain', 'revoked', 'filer', 'groupless', 'mtls', 'filed', 'plainkey', 'stranger')
{
	tool('allow', $user, 'READ', 'TOPIC', 'orders');
	tool('allow', $user, 'READ', 'GROUP', 'pg.*') unless $user eq 'groupless';
}
tool('produce', '--topic', 'orders', '--messages', $messages, '--seed', 5);

# ---------------------------------------------------------------- subscriptions

my $node = kappa_node('secured', 'log_statement = none', 'log_min_messages = debug1', 'max_worker_processes = 40',
	"kappa.secrets_file = '$dir/secrets'");
my $said = '';				# what calls and views have told

sub sql { return $node->safe_psql('postgres', join ' ', @_); }

# As the owner of the subscriptions: SQLSTATE or nothing, text, seconds
sub call
{
	my ($sql) = @_;
	my $start = time();
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET SESSION AUTHORIZATION app;\n$sql");

	$said .= "$out\n$err\n";
	return ($err =~ /ERROR:  (\w{5}):/ ? $1 : '', "$out$err", time() - $start);
}

sub literal { return "'" . $_[0] =~ s/'/''/gr . "'"; }
sub options { my %o = @_; return join ', ', map { "$_ " . literal($o{$_}) } sort keys %o; }

my %address = map { $_ => broker_address($_) } 'SECURE', 'MUTUAL', 'ELSEWHERE';
my %scram = (bootstrap_servers => $address{SECURE}, security_protocol => 'sasl_ssl', sasl_mechanism => 'SCRAM-SHA-512', ssl_ca_pem => $pem{'ours.pem'});
my %plain = (%scram, sasl_mechanism => 'PLAIN');
my %mutual = (bootstrap_servers => $address{MUTUAL}, security_protocol => 'ssl', ssl_ca_pem => $pem{'ours.pem'});
my %mtls = (ssl_certificate_pem => $pem{'mtls.pem'}, ssl_key_pem => $pem{'mtls.key'}, ssl_key_password => 'canary-keyword-44');
my %key = (ssl_certificate_pem => $pem{'plainkey.pem'}, ssl_key_pem => $pem{'plainkey.key'});

sub login { return (sasl_username => $_[0], sasl_password => $password{$_[0]}); }

append_to_file("$dir/secrets", "[production]\nsasl.username = filer\nsasl.password = $password{filer}\n[keys]\nssl.certificate.pem = "
	. $pem{'filed.pem'} =~ s/\n/\\n/gr . "\nssl.key.pem = " . $pem{'filed.key'} =~ s/\n/\\n/gr . "\nssl.key.password = canary-filed-45\n");
chmod 0600, "$dir/secrets";

# name => [server options, mapping options, what makes it wrong: server options, mapping options,
#	failing step of check_server, status and reason, SQLSTATE of calls]
my %cases = (
	scram => [\%scram, { login('reader') }],
	plain => [\%plain, { login('plain') }],
	mtls => [\%mutual, \%mtls],
	plain_key => [\%mutual, \%key],
	file => [\%scram, { secret => 'production' }],
	key_file => [\%mutual, { secret => 'keys' }],
	groupless => [\%scram, { login('groupless') }],
	changer => [\%scram, { login('changer') }],
	revoked => [\%scram, { login('revoked') }],
	withdrawn => [{ %scram, fetch_wait_max_ms => 5000 }, { login('revoked') }],
	wrong_password => [\%scram, { login('reader') }, {}, { sasl_password => 'canary-wrong-77' }, 'auth', qr/^backoff authentication: /, '28000'],
	wrong_plain => [\%plain, { login('plain') }, {}, { sasl_password => 'canary-wrong-78' }, 'auth', qr/^backoff authentication: /, '28000'],
	unknown_user => [\%scram, { login('reader') }, {}, { sasl_username => 'nobody-knows' }, 'auth', qr/^backoff authentication: /, '28000'],
	wrong_mechanism => [\%scram, { login('reader') }, { sasl_mechanism => 'SCRAM-SHA-256' }, {}, 'auth', qr/^backoff authentication: /, '28000'],
	wrong_ca => [\%scram, { login('reader') }, { ssl_ca_pem => $pem{'foreign.pem'} }, {}, 'tls', qr/^backoff tls: .*certificate/, '28000'],
	wrong_host => [\%scram, { login('reader') }, { bootstrap_servers => $address{ELSEWHERE} }, {}, 'tls', qr/^backoff tls: .*certificate/, '28000'],
	no_certificate => [\%mutual, \%key, {}, { ssl_certificate_pem => undef, ssl_key_pem => undef }, 'tls', qr/^backoff tls: .*client certificate/, '28000'],
	foreign_certificate => [\%mutual, \%key, {}, { ssl_certificate_pem => $pem{'stranger.pem'}, ssl_key_pem => $pem{'stranger.key'} }, 'tls', qr/^backoff tls: .*client certificate/, '28000'],
	wrong_key_password => [\%mutual, \%mtls, {}, { ssl_key_password => 'canary-wrong-79' }, 'tls', qr/^backoff tls: .*TLS certificates/, 'HV00D'],
	denied => [\%scram, { login('reader') }, {}, { login('denied') }, '', qr/^stopped rights: .*Topic authorization failed/, '42501'],
	no_login => [\%scram, { login('reader') }, {}, { sasl_username => undef, sasl_password => undef }, undef, qr/^stopped .*no login/, 'HV00J'],
	no_tls => [\%scram, { login('reader') }, { security_protocol => 'sasl_plaintext' }, {}, 'metadata', qr/^backoff disconnected/, '08006'],
);
my @good = grep { @{ $cases{$_} } == 2 } sort keys %cases;
my @bad = grep { @{ $cases{$_} } > 2 } sort keys %cases;

sql('CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app; ALTER ROLE app SET search_path = app, public');

sub make
{
	my ($name, $server, $mapping) = @_;

	sql("CREATE SERVER $name FOREIGN DATA WRAPPER kafka OPTIONS (" . options(%$server) . ");
		GRANT USAGE ON FOREIGN SERVER $name TO app; CREATE USER MAPPING FOR app SERVER $name OPTIONS (" . options(%$mapping) . ')');
}

sub subscribe
{
	my ($name, $enabled) = @_;

	my ($state, $text) = call("SELECT kappa.subscribe('$name', '$name', 'orders', enabled => $enabled)");
	is($state, '', "$name: subscribed") or diag($text);
}

# From one set of options to another
sub changes
{
	my ($from, $to) = @_;

	return join ', ', map {
		!defined $to->{$_} ? "DROP $_" : (exists $from->{$_} ? 'SET ' : 'ADD ') . "$_ " . literal($to->{$_})
	} grep { !defined $from->{$_} || !defined $to->{$_} || $from->{$_} ne $to->{$_} } sort keys %$to;
}

sub alter
{
	my ($what, $from, $to) = @_;
	my $changes = changes($from, $to);

	sql("ALTER $what OPTIONS ($changes)") if $changes ne '';
}

# Make a case wrong, or right again
sub turn
{
	my ($name, $wrong) = @_;
	my ($server, $mapping, $bad_server, $bad_mapping) = @{ $cases{$name} };
	my ($right_server, $right_mapping) = ({ map { ($_, $server->{$_}) } keys %$bad_server }, { map { ($_, $mapping->{$_}) } keys %$bad_mapping });

	alter("SERVER $name", $wrong ? ($right_server, $bad_server) : ($bad_server, $right_server));
	alter("USER MAPPING FOR app SERVER $name", $wrong ? ($right_mapping, $bad_mapping) : ({ map { defined $bad_mapping->{$_} ? ($_, $bad_mapping->{$_}) : () } keys %$bad_mapping }, $right_mapping));
}

sub state_of
{
	my ($name) = @_;
	my $state = sql("SELECT status || ' ' || coalesce(reason, '') FROM kappa.subscriptions WHERE name = '$name'");

	$said .= "$state\n";
	return $state;
}

sub arrived { return sql("SELECT count(*) FROM app.$_[0]") == $messages; }

sub steps
{
	my ($name) = @_;
	my ($state, $text, $seconds) = call("SELECT step, coalesce(ok::text, '-'), detail FROM kappa.check_server('$name')");

	cmp_ok($seconds, '<', 15, "$name: check_server ends in time");
	return $text;
}

make($_, $cases{$_}[0], $cases{$_}[1]) for sort keys %cases;
subscribe($_, 'true') for @good;
subscribe($_, 'false') for @bad;
turn($_, 1) for @bad;
call("SELECT kappa.enable('$_')") for @bad;

# ---------------------------------------------------------------- right secrets

for my $name (@good)
{
	ok(poll_until(30, sub { arrived($name) }), "$name: all rows") or diag(state_of($name));
	my $steps = steps($name);
	unlike($steps, qr/\|false\|/, "$name: no step fails") or diag($steps);
	like($steps, qr/^metadata\|true\|.*brokers: 1\b/m, "$name: metadata are read");
	like($steps, qr/^broker 1\|true\|/m, "$name: the advertised listener is reached");
}

# ---------------------------------------------------------------- wrong ones

my $names = join ', ', map { "'$_'" } @bad;
my %waits = map { $_ => 1 } @bad;
my %seen;
poll_until(30, sub {
	for my $line (split /\n/, sql("SELECT name, status, status || ' ' || coalesce(reason, '') FROM kappa.subscriptions WHERE name IN ($names)"))
	{
		my ($name, $status, $state) = split /\|/, $line, 3;
		$seen{$status}{$name} = 1;
		$said .= "$state\n";
		delete $waits{$name} if $state =~ $cases{$name}[5];
	}
	return !%waits;
});
is(join(' ', sort keys %waits), '', 'each status names its step') or diag(map { state_of($_) . "\n" } sort keys %waits);
is(join(' ', map { sort keys %{ $seen{$_} // {} } } 'running', 'idle'), '', 'none seemed to run');
for my $name (@bad)
{
	my ($step, $status, $sqlstate) = @{ $cases{$name} }[4 .. 6];
	my @calls = ("topics('$name')", "peek('$name', 'orders')", "subscribe('x', '$name', 'orders')");

	if (defined $step)
	{
		my $steps = steps($name);
		is(join(' ', $steps =~ /^(\w+)\|false\|/mg), $step, "$name: check_server fails at '$step'") or diag($steps);
		unlike($steps, qr/\|false\|.*\n(?:.*\n)*.*\|true\|/, "$name: and knows nothing of later steps") or diag($steps);
	}
	# without an answer each of them waits for 10 s
	@calls = $calls[0] if $sqlstate =~ /^08/;
	shift @calls if $sqlstate eq '42501';
	for my $call (@calls)
	{
		my ($state, $text, $seconds) = call("SELECT kappa.$call");
		is($state, $sqlstate, "$name: $call") or diag($text);
		cmp_ok($seconds, '<', 20, "$name: in time");
	}
}
note(sprintf 'wrong ones looked at after %.0f s', time() - $^T);

# ---------------------------------------------------------------- changed while they run

sub send_more
{
	tool('send', 'orders', $_, 'k', '{"more":true}') for 0 .. 2;
	$messages += 3;
}

# Type what the view says.  It has nothing to say while the broker is away, or once a retry has gone well.
sub next_step
{
	my ($name) = @_;
	my $step;

	poll_until(30, sub { continue_stopped(); ($step = sql("SELECT next_step FROM kappa.subscriptions WHERE name = '$name'")) ne '' || arrived($name) });
	return pass("$name: mended before anybody looked") if $step eq '' && arrived($name);
	like($step, qr/^SELECT kappa\.enable\('$name'\);$/, "$name: the view says what to type") or diag(state_of($name));
	is((call($step))[0], '', "$name: and it works");
}

# The workers' processes that a fault point has stopped
sub stopped_workers
{
	my ($where) = @_;
	return grep { `cat /proc/$_/stat 2>&1` =~ /\) T/ }
		split /\n/, sql("SELECT pid FROM kappa.stat_subscription WHERE pid IS NOT NULL AND $where");
}

# A setting of the database stops every worker that starts under it, maybe only much later.
sub continue_stopped { kill 'CONT', stopped_workers('true'); }

# The one learns it by a fetch, the other by its look at the topic, before the broker answers its fetch.
sql("SELECT kappa.disable('withdrawn')");
sql("ALTER DATABASE postgres SET kappa.fault = 'topic_check:stop'");
sql("SELECT kappa.enable('withdrawn')");
ok(poll_until(30, sub { stopped_workers("name = 'withdrawn'") }), 'withdrawn: about to look at its topic');
sql('ALTER DATABASE postgres RESET kappa.fault');
tool('disallow', 'revoked', 'READ', 'TOPIC', 'orders');
continue_stopped();
for my $name ('revoked', 'withdrawn')
{
	ok(poll_until(30, sub { state_of($name) =~ /^stopped rights: .*Topic authorization failed/ }), "$name: stopped") or diag(state_of($name));
}
send_more();
tool('allow', 'revoked', 'READ', 'TOPIC', 'orders');
for my $name ('revoked', 'withdrawn')
{
	next_step($name);
	ok(poll_until(30, sub { arrived($name) }), "$name: once READ is granted again, all rows") or diag(state_of($name));
}

tool('scram-user', 'changer', 'canary-after-23');
broker_kill();
broker_start();
tool('ready');
send_more();
ok(poll_until(30, sub { state_of('changer') =~ /^backoff authentication: / }), 'another password counts from the next connection') or diag(state_of('changer'));
alter('USER MAPPING FOR app SERVER changer', { sasl_password => '' }, { sasl_password => 'canary-after-23' });
ok(poll_until(30, sub { arrived('changer') }), 'changer: goes on by itself') or diag(state_of('changer'));

# ---------------------------------------------------------------- mended

# The right password comes while a worker fails with the wrong one: its successor does not wait.
sql("ALTER DATABASE postgres SET kappa.fault = 'before_retry:stop'");
call("SELECT kappa.enable('wrong_password')");
ok(poll_until(30, sub { stopped_workers("name = 'wrong_password'") }), 'wrong_password: about to leave');
sql('ALTER DATABASE postgres RESET kappa.fault');
turn('wrong_password', 0);
call("SELECT kappa.enable('wrong_password')");
ok(poll_until(8, sub { continue_stopped(); arrived('wrong_password') }), 'wrong_password: its successor has come at once') or diag(state_of('wrong_password'));

for my $name (grep { $_ ne 'wrong_password' } @bad)
{
	turn($name, 0);
	$name eq 'no_tls' ? call("SELECT kappa.enable('$name')") : next_step($name);
}
# at once, although some of them have failed often enough to wait for half a minute
for my $name (@bad, @good)
{
	ok(poll_until(8, sub { continue_stopped(); arrived($name) }), "$name: all rows at last") or diag(state_of($name));
}
is(sql("SELECT count(*) FROM kappa.balance WHERE NOT balanced OR stored <> consumed"), '0', 'every message is accounted for');
ok(poll_until(15, sub { sql("SELECT count(*) FROM kappa.subscriptions WHERE status = 'idle'") == @good + @bad }), 'all are idle')
	or diag(sql('SELECT name, status, reason FROM kappa.subscriptions'));

# ---------------------------------------------------------------- no secret anywhere

my @secrets = (values %password, 'canary-keyword-44', 'canary-filed-45', 'canary-after-23', map { "canary-wrong-$_" } 77 .. 79);
push @secrets, map { (split /\n/, $pem{"$_.key"})[1] } 'mtls', 'plainkey', 'filed', 'stranger';
my $any = join '|', 'canary-', map { quotemeta } @secrets;

for my $view (split /\n/, sql("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'kappa'::regnamespace AND relkind IN ('v', 'r')"), 'pg_stat_activity')
{
	$said .= sql("SELECT string_agg(v::text, chr(10)) FROM $view v");
}
like($said, qr/wrong_key_password.*foreign_certificate/s, 'much was said');
is(join("\n", grep { /$any/ } split /\n/, $said), '', 'no secret in views, errors and answers');
my $log = slurp_file($node->logfile);
like($log, qr/DEBUG:/, 'the log is kept at debug1');
is(join("\n", grep { /$any/ } split /\n/, $log), '', 'no secret in it');

# PostgreSQL dumps user mappings for those who may see them; nothing else may hold a secret
my $dump = (run_command([ 'pg_dump', '-h', $node->host, '-p', $node->port, 'postgres' ]))[0];
my $mappings = join '', $dump =~ /^CREATE USER MAPPING.*?\n\);\n/msg;
like($mappings, qr/\Q$password{reader}\E/, "a superuser's dump holds what user mappings hold");
unlike($mappings, qr/\Q$password{filer}\E|canary-filed-45/, 'but nothing of the file');
is(join("\n", grep { /$any/ } split /\n/, $dump =~ s/^CREATE USER MAPPING.*?\n\);\n//msgr), '', 'and the rest of it holds no secret');
note(sprintf 'took %.0f s', time() - $^T);

$node->stop;
done_testing();
