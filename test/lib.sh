# lib.sh: private PostgreSQL clusters and Apache Kafka nodes for tests.  Sourced by bash.
#
# Everything lives in one scratch folder (SCRATCH), which is removed at the end
# together with every process that was started from here.  Nothing outside it is
# written but a cache of Kafka's jars.  PostgreSQL's programs are copied into the
# scratch folder: they find their extensions relative to themselves, so the
# extension is installed there and neither root nor the system's folders are needed.
#
# PostgreSQL refuses to run as root.  As root, servers run as user postgres (as_db);
# as anybody else they run as that user.
#
#   scratch_make                    SCRATCH, and the trap that clears up
#   server_copy                     PostgreSQL's programs into scratch; sets PG_CONFIG, BINDIR
#   source_copy DIR                 the project without what was built
#   extension_build DIR [make ...]  make there; extension_install DIR
#   java_prepare                    jars and our Java programs, JAVA_HOME_DIR
#   kafka_start DIR, kafka_address DIR [LISTENER], kafka_stop DIR, kafka_kill DIR
#   certificate_authority DIR NAME, certificate DIR CA NAME ...     PEM files, by openssl
#   tool_open ADDRESS, tool COMMAND ..., tool_close     see oracle/Tool.java
#                                   (test/kafka/tool is the command, for everybody else)
#   producer ..., oracle ...        see oracle/Producer.java, oracle/Oracle.java
#   pg_init DIR [setting ...], pg_start DIR, pg_stop DIR [mode], pg_kill DIR
#   pg_sql DIR [psql option ...]
#   until_true SECONDS COMMAND ...  polls

KAPPA_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { echo "$*" >&2; }
die() { say "$*"; exit 1; }

# Run as the user that owns servers.
as_db() { (as_db_exec "$@"); }
# PostgreSQL's programs complain where postgres may not enter the folder that we stand in.
as_db_at_home() { (cd "$SCRATCH" && as_db_exec "$@"); }

# The same in place of this shell, so that $! is the program's own pid.
as_db_exec() {
	if [ "$(id -u)" = 0 ]; then
		exec setpriv --reuid=postgres --regid=postgres --init-groups \
			env HOME="$SCRATCH" USER=postgres LOGNAME=postgres "$@"
	fi
	exec "$@"
}

until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

# ---------------------------------------------------------------- scratch and processes

scratch_make() {
	local parent=${TMPDIR:-/tmp}

	# A socket's path may have 107 bytes.
	[ ${#parent} -le 60 ] || parent=/tmp
	SCRATCH=$(mktemp -d "$parent/pg_kappa.XXXXXX")
	export SCRATCH
	: >"$SCRATCH/pids"
	chmod 666 "$SCRATCH/pids"
	chmod 755 "$SCRATCH"
	[ "$(id -u)" != 0 ] || chown -R postgres: "$SCRATCH"
	trap scratch_end EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

# KEEP_SCRATCH set: leave the files.  Processes end in any case.
scratch_end() {
	local code=$?

	trap '' INT TERM HUP
	processes_end
	if [ -n "${KEEP_SCRATCH:-}" ]; then
		say "kept: $SCRATCH"
	else
		cd / && rm -rf "$SCRATCH"
	fi
	exit $code
}

# A process is known by pid and start time, so that a number used again is never hit.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# process_record PID [signal that ends it]
process_record() { echo "$1 $(start_time "$1") ${2:-TERM}" >>"$SCRATCH/pids"; }

# Dead but not yet reaped counts as gone, unless threads of it still hold its ports.
process_alive() {
	local state
	state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)
	[ -n "$state" ] && { [ "$state" != Z ] || [ "$(ls "/proc/$1/task" 2>/dev/null | wc -l)" -gt 1 ]; }
}

process_gone() { ! process_alive "$1"; }
process_reaped() { [ ! -e "/proc/$1" ]; }

processes_end() {
	local pid start signal

	while read -r pid start signal; do
		[ "$(start_time "$pid")" != "$start" ] || kill -"$signal" "$pid" 2>/dev/null
	done <"$SCRATCH/pids"
	while read -r pid start signal; do
		[ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ] || continue
		until_true 10 process_gone "$pid" || kill -KILL "$pid" 2>/dev/null
	done <"$SCRATCH/pids"
}

# background LOG SIGNAL COMMAND ...: in a session of its own, so that Ctrl-C reaches
# only us.  The pid is in LAST_PID (the shell never waits for it, nor tells its death).
background() {
	local log=$1 signal=$2
	shift 2
	LAST_PID=$(as_db_exec setsid "$@" >"$log" 2>&1 </dev/null & echo $!)
	process_record "$LAST_PID" "$signal"
}

# Ports below the kernel's range for outgoing connections, which can take no other.
free_ports() {
	perl -MIO::Socket::INET -e '
		my ($n, @open) = (shift);
		for (1 .. 1000) {
			last if @open == $n;
			my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1",
				LocalPort => 15000 + int rand 17000);
			push @open, $s if $s;
		}
		die "no free port\n" if @open < $n;
		print join(" ", map { $_->sockport } @open), "\n";' "$1"
}

# ---------------------------------------------------------------- PostgreSQL

# Copy programs and shared files, link libraries and headers, at the same places
# relative to each other as in the system.
server_copy() {
	local system bin share lib headers libdir root=$SCRATCH/server

	system=${PG_CONFIG:-pg_config}
	bin=$("$system" --bindir) share=$("$system" --sharedir) lib=$("$system" --pkglibdir)
	headers=$("$system" --includedir) libdir=$("$system" --libdir)
	mkdir -p "$root$bin" "$root$share" "$root$lib" "$(dirname "$root$headers")" "$(dirname "$root$libdir")"
	cp "$bin"/* "$root$bin/"
	cp -rL "$share/." "$root$share/"
	cp -rs "$lib/." "$root$lib/"
	[ -e "$root$headers" ] || ln -s "$headers" "$root$headers"
	[ -e "$root$libdir" ] || ln -s "$libdir" "$root$libdir"
	# whatever version of ours the system has is not the one under test
	rm -rf "$root$share"/extension/pg_kappa* "$root$lib"/pg_kappa.so "$root$lib"/bitcode/pg_kappa*
	# tests run as postgres and put stand-ins for other extensions there
	[ "$(id -u)" != 0 ] || chown postgres: "$root$share/extension"
	BINDIR=$root$bin
	PG_CONFIG=$BINDIR/pg_config
	PG_REGRESS=$root$lib/pgxs/src/test/regress/pg_regress
	PG_PERL=$lib/pgxs/src/test/perl
	PATH=$BINDIR:$PATH
	export PATH PG_CONFIG PG_REGRESS
}

# What git would take, or everything but build products where there is no git.
source_copy() {
	mkdir -p "$1"
	if git -C "$KAPPA_ROOT" rev-parse >/dev/null 2>&1; then
		(cd "$KAPPA_ROOT" && git ls-files -z --cached --others --exclude-standard |
			while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
			tar -c --null -T - | tar -x -C "$1")
	else
		tar -C "$KAPPA_ROOT" --exclude=.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' -c . |
			tar -x -C "$1"
	fi
	[ "$(id -u)" != 0 ] || chown -R postgres: "$1"
}

# No bitcode: nothing here is inlined by the JIT compiler, and it doubles the time.
extension_build() {
	local dir=$1
	shift
	as_db make -s -C "$dir" -j2 PG_CONFIG="$PG_CONFIG" with_llvm=no "$@"
}

extension_install() {
	local dir=$1
	shift
	make -s -C "$dir" PG_CONFIG="$PG_CONFIG" with_llvm=no install "$@" >/dev/null
}

# pg_init DIR [setting ...]: a cluster with user postgres, no passwords on its socket.
pg_init() {
	local dir=$1 port setting
	shift
	port=$(free_ports 1)
	mkdir -p "$dir"
	[ "$(id -u)" != 0 ] || chown postgres: "$dir"
	as_db_at_home "$BINDIR/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$dir/initdb.log" ||
		{ cat "$dir/initdb.log" >&2; return 1; }
	{
		echo "port = $port"
		echo "listen_addresses = '127.0.0.1'"
		echo "unix_socket_directories = '$dir'"
		echo "log_line_prefix = '%m [%p] %b: '"
		echo "timezone = 'UTC'"
		echo "autovacuum_naptime = '5s'"
		for setting; do echo "$setting"; done
	} >>"$dir/data/postgresql.conf"
	echo "$port" >"$dir/port"
}

pg_pid() { head -n 1 "$1/data/postmaster.pid" 2>/dev/null; }

pg_start() {
	local dir=$1
	if ! as_db_at_home "$BINDIR/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w -t 60 start >"$dir/pg_ctl.log" 2>&1; then
		cat "$dir/pg_ctl.log" >&2
		tail -n 20 "$dir/server.log" >&2
		return 1
	fi
	process_record "$(pg_pid "$dir")" QUIT
}

pg_stop() { as_db_at_home "$BINDIR/pg_ctl" -D "$1/data" -m "${2:-fast}" -w -t 60 stop >/dev/null; }

# The whole server as a power cut leaves it: no process of it gets to run again.
pg_kill() {
	local postmaster pid children
	postmaster=$(pg_pid "$1")
	kill -STOP "$postmaster"
	children=$(ps -o pid= --ppid "$postmaster")
	# shellcheck disable=SC2086
	kill -KILL "$postmaster" $children
	for pid in $postmaster $children; do
		until_true 20 process_gone "$pid" || return 1
	done
	# where nobody reaps orphans the dead postmaster still looks alive to a new one
	until_true 5 process_reaped "$postmaster" || rm -f "$1/data/postmaster.pid"
}

# psql as a superuser, quiet, bare, stops at the first error
pg_sql() {
	local dir=$1
	shift
	PGOPTIONS="-c client_min_messages=warning ${PGOPTIONS:-}" \
		"$BINDIR/psql" -X -q -A -t -v ON_ERROR_STOP=1 -U postgres -h "$dir" -p "$(cat "$dir/port")" \
		-d "${PGDATABASE:-postgres}" "$@"
}

# ---------------------------------------------------------------- Java and Kafka

# JAVA_HOME_DIR: jars/ and classes/.  From Maven and the compiler once, then from the cache.
java_prepare() {
	local cache=${XDG_CACHE_HOME:-$HOME/.cache}/pg_kappa jars classes

	[ -z "${JAVA_HOME_DIR:-}" ] || return 0
	jars=$cache/jars-$(sha256sum <"$KAPPA_ROOT/test/kafka/pom.xml" | cut -c1-16)
	classes=$cache/classes-$(cat "$KAPPA_ROOT"/test/kafka/pom.xml "$KAPPA_ROOT"/test/oracle/*.java | sha256sum | cut -c1-16)
	mkdir -p "$cache"
	(
		flock 9
		[ -d "$jars" ] || jars_fetch "$jars"
		[ -d "$classes" ] || classes_build "$jars" "$classes"
	) 9>"$cache/lock" || return 1
	if [ "$(id -u)" = 0 ]; then
		# the servers' user cannot look into root's home
		mkdir "$SCRATCH/java"
		cp -r "$jars" "$SCRATCH/java/jars"
		cp -r "$classes" "$SCRATCH/java/classes"
		JAVA_HOME_DIR=$SCRATCH/java
	else
		mkdir "$SCRATCH/java"
		ln -s "$jars" "$SCRATCH/java/jars"
		ln -s "$classes" "$SCRATCH/java/classes"
		JAVA_HOME_DIR=$SCRATCH/java
	fi
	export JAVA_HOME_DIR
}

jars_fetch() {
	say "fetching Apache Kafka (once)"
	rm -rf "$1.new"
	mvn -q -B -f "$KAPPA_ROOT/test/kafka/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$1.new" >"$1.log" 2>&1 ||
		{ tail -n 30 "$1.log" >&2; return 1; }
	rm -f "$1.log"
	mv "$1.new" "$1"
}

classes_build() {
	rm -rf "$2.new"
	javac -Xlint:all -Werror --release 17 -cp "$1/*" -d "$2.new" "$KAPPA_ROOT"/test/oracle/*.java &&
		mv "$2.new" "$2"
}

# kafka_address DIR [LISTENER]: the plain listener's, or that of one that DIR/listeners names
kafka_address() { cat "$1/address${2:+.$2}"; }

# Settings of a node beyond the usual ones, where a test has put them before the first start:
# DIR/listeners (lines "NAME PROTOCOL": each gets a port) and DIR/settings (lines of server.properties).
kafka_more_settings() {
	local dir=$1 listeners=$2 name protocol port map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
	[ -e "$dir/listeners" ] || return 0
	while read -r name protocol; do
		port=$(free_ports 1)
		listeners=$listeners,$name://127.0.0.1:$port
		map=$map,$name:$protocol
		echo "127.0.0.1:$port" >"$dir/address.$name"
	done <"$dir/listeners"
	# the last of two equal keys counts
	echo "listeners=$listeners"
	echo "advertised.listeners=$(tr , '\n' <<<"$listeners" | grep -v ^CONTROLLER | paste -sd ,)"
	echo "listener.security.protocol.map=$map"
	cat "$dir/settings"
}

kafka_configure() {
	local dir=$1 port control
	read -r port control <<<"$(free_ports 2)"
	mkdir -p "$dir"
	cat >"$dir/server.properties" <<-END
		process.roles=broker,controller
		node.id=1
		listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
		advertised.listeners=PLAINTEXT://127.0.0.1:$port
		controller.listener.names=CONTROLLER
		controller.quorum.voters=1@127.0.0.1:$control
		log.dirs=$dir/data
		auto.create.topics.enable=false
		offsets.topic.replication.factor=1
		offsets.topic.num.partitions=1
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		transaction.state.log.num.partitions=1
		transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
		group.initial.rebalance.delay.ms=0
		log.initial.task.delay.ms=500
		log.retention.ms=-1
		log.retention.check.interval.ms=500
		log.cleaner.backoff.ms=500
		broker.session.timeout.ms=2000
		broker.heartbeat.interval.ms=250
		num.network.threads=2
		num.io.threads=4
	END
	kafka_more_settings "$dir" "PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control" >>"$dir/server.properties"
	echo "127.0.0.1:$port" >"$dir/address"
	[ "$(id -u)" != 0 ] || chown -R postgres: "$dir"
	as_db java -Xmx256m -XX:TieredStopAtLevel=1 -Dlog4j.configuration="file:$KAPPA_KAFKA/log4j.properties" \
		-cp "$JAVA_HOME_DIR/jars/*" kafka.tools.StorageTool \
		format -t "$(perl -e 'print map { ("A".."Z","a".."z",0..9)[rand 62] } 1..21; print "A"')" \
		-c "$dir/server.properties" >"$dir/format.log" 2>&1 ||
		{ tail -n 20 "$dir/format.log" >&2; return 1; }
}

# certificate DIR CA NAME [ALTERNATIVE NAMES [PASSWORD]]: NAME.pem and NAME.key, signed by CA.pem
certificate() {
	local dir=$1 ca=$2 name=$3 names=${4:-} password=${5:-}
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/$name.key" \
		${password:+-aes-256-cbc -pass "pass:$password"} 2>"$dir/openssl.log" &&
		openssl req -new -key "$dir/$name.key" ${password:+-passin "pass:$password"} -subj "/CN=$name" -out "$dir/$name.csr" &&
		openssl x509 -req -days 2 -in "$dir/$name.csr" -CA "$dir/$ca.pem" -CAkey "$dir/$ca.key" -CAcreateserial \
			-extfile <(echo "${names:+subjectAltName=$names}") -out "$dir/$name.pem" 2>>"$dir/openssl.log" ||
		{ cat "$dir/openssl.log" >&2; return 1; }
}

# certificate_authority DIR NAME
certificate_authority() {
	openssl req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
		-keyout "$1/$2.key" -out "$1/$2.pem" 2>"$1/openssl.log" || { cat "$1/openssl.log" >&2; return 1; }
}

# A new node, or one that was stopped or killed, with what it had.
kafka_start() {
	local dir=$1
	java_prepare || return 1
	kafka_settings_copy
	[ -e "$dir/address" ] || kafka_configure "$dir" || return 1
	background "$dir/broker.log" TERM java -Xms512m -Xmx512m -Dlog4j.configuration="file:$KAPPA_KAFKA/log4j.properties" \
		-cp "$JAVA_HOME_DIR/jars/*" kafka.Kafka "$dir/server.properties"
	echo "$LAST_PID" >"$dir/pid"
	if ! until_true 60 kafka_started_or_dead "$dir" || process_gone "$LAST_PID"; then
		say "Kafka did not start:"
		tail -n 20 "$dir/broker.log" >&2
		return 1
	fi
}

kafka_started_or_dead() {
	grep -q 'Kafka Server started' "$1/broker.log" || process_gone "$(cat "$1/pid")"
}

# The servers' user may not be able to read the clone.
kafka_settings_copy() {
	KAPPA_KAFKA=$JAVA_HOME_DIR
	[ -e "$KAPPA_KAFKA/log4j.properties" ] ||
		cp "$KAPPA_ROOT"/test/kafka/*.properties "$KAPPA_KAFKA/"
}

kafka_end() {
	local pid
	pid=$(cat "$2/pid")
	kill -"$1" "$pid" 2>/dev/null
	until_true 30 process_gone "$pid" || { kill -KILL "$pid"; until_true 5 process_gone "$pid"; }
}
kafka_stop() { kafka_end TERM "$1"; }
kafka_kill() { kafka_end KILL "$1"; }

# Our Java programs: run_java CLASS WORDS ...
run_java() { (run_java_exec "$@"); }

run_java_exec() {
	kafka_settings_copy
	exec java -Xmx${JAVA_HEAP:-512m} -XX:+UseSerialGC ${JAVA_FLAGS--XX:TieredStopAtLevel=1} \
		-Dlog4j.configuration="file:$KAPPA_KAFKA/tool.properties" \
		-cp "$JAVA_HOME_DIR/classes:$JAVA_HOME_DIR/jars/*" "$@"
}
producer() { run_java Producer "$@"; }
oracle() { run_java Oracle "$@"; }

# One Tool that stays: no start of a JVM for each command.  It reads and answers through
# two named pipes in scratch, so that any process may ask it (test/kafka/tool).  Tests that
# run side by side have one each: KAPPA_TOOL says where.
tool_open() {
	local pipe=${KAPPA_TOOL:-$SCRATCH/tool} hold code=0
	java_prepare || return 1
	tool_close
	mkfifo "$pipe.in" "$pipe.out"
	: >"$pipe.lock"
	[ "$(id -u)" != 0 ] || chown postgres: "$pipe".*
	kafka_settings_copy
	# what is written to a pipe that nobody has open is lost: we have it until the tool answers
	exec {hold}<>"$pipe.in"
	# opened both ways: neither side ever waits for the other to come, nor sees an end
	(exec 0<>"$pipe.in" 1<>"$pipe.out" 2>"$pipe.log" {hold}>&- && run_java_exec Tool "$1" serve) &
	TOOL_PID=$!
	disown
	process_record "$TOOL_PID"
	echo "$TOOL_PID" >"$pipe.pid"
	tool ready || code=1
	exec {hold}>&-
	return $code
}

# Prints the answer; fails with the reason on stderr.
tool() {
	local line lock out IFS=$'\t' code=1
	exec {lock}>>"${KAPPA_TOOL:-$SCRATCH/tool}.lock" {out}<>"${KAPPA_TOOL:-$SCRATCH/tool}.out"
	flock $lock
	printf '%s\n' "$*" 1<>"${KAPPA_TOOL:-$SCRATCH/tool}.in"
	IFS=' '
	while :; do
		if ! IFS= read -r -t 180 line <&$out; then
			say "tool $*: no answer"
			break
		fi
		case $line in
			OK) code=0; break ;;
			ERROR\ *) say "tool $*: ${line#ERROR }"; break ;;
			*) echo "$line" ;;
		esac
	done
	exec {lock}>&- {out}<&-
	return $code
}

tool_close() {
	local pid pipe=${KAPPA_TOOL:-$SCRATCH/tool}
	[ -e "$pipe.pid" ] || return 0
	pid=$(cat "$pipe.pid")
	kill "$pid" 2>/dev/null && until_true 10 process_gone "$pid"
	rm -f "$pipe".*
}
