# harness.sh: the tests' own test, without the extension.  Prints TAP; sourced by check.
# What is compared is only worth something if a difference is found: each kind of damage
# is done to a right table, and the comparison has to see it.

harness_compare() {
	PGHOST=$SCRATCH/harness/pg PGPORT=$(cat "$SCRATCH/harness/pg/port") PGUSER=postgres PGDATABASE=postgres \
		"$KAPPA_ROOT/test/oracle/compare" --lines "$SCRATCH/harness/lines" --table t --name s \
		--value value --key none 2>/dev/null
}

harness_quiet() { harness_compare >/dev/null; }

# harness_ok NAME COMMAND ...
harness_ok() {
	local name=$1
	shift
	harness_tests=$((harness_tests + 1))
	if "$@"; then echo "ok $harness_tests - $name"; else echo "not ok $harness_tests - $name"; fi
}

# harness_damage NAME COUNT SQL: inside a transaction that goes away
harness_damage() {
	local before after
	pg_sql "$SCRATCH/harness/pg" -c 'CREATE TABLE saved AS TABLE t' -c "$3"
	harness_ok "sees: $1" harness_says "$2"
	pg_sql "$SCRATCH/harness/pg" -c 'TRUNCATE t' -c 'INSERT INTO t TABLE saved' -c 'DROP TABLE saved'
}

harness_says() {
	local line code=0
	line=$(harness_compare) || code=$?
	[[ $code = 1 && $line == *"$1"* ]] || { say "exit $code, $line"; return 1; }
}

harness_run() {
	local dir=$SCRATCH/harness out pg=$SCRATCH/harness/pg
	harness_tests=0
	mkdir -p "$dir"

	kafka_start "$dir/kafka" && tool_open "$(kafka_address "$dir/kafka")" || return 1
	tool create plain 3 || return 1
	out=$(tool produce --seed 7 --topic plain --kind plain --messages 5000 --broken 2 --transactional \
		--transaction-size 100 --abort-percent 20)
	harness_ok "the producer counts what it committed" \
		test "$(tool oracle --topic plain --out "$dir/lines" | grep -o 'messages=[0-9]*')" = \
			"$(grep -o 'messages=[0-9]*' <<<"$out")"
	harness_ok "aborted messages are in the log, not in the answer" \
		test "$(tool offsets plain | awk '{ n += $4 } END { print n }')" -gt "$(wc -l <"$dir/lines")"

	kafka_kill "$dir/kafka" && kafka_start "$dir/kafka"
	cp "$dir/lines" "$dir/before"
	tool oracle --topic plain --out "$dir/lines" >/dev/null
	harness_ok "a killed broker has all that it had" cmp -s "$dir/lines" "$dir/before"

	pg_init "$pg" && pg_start "$pg" || return 1
	harness_load "$pg"
	harness_ok "nothing is wrong with a right table" harness_quiet
	harness_damage "a missing row" "missing 1, duplicate 0" 'DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)'
	harness_damage "a row twice" "missing 0, duplicate 1" 'INSERT INTO t SELECT * FROM t LIMIT 1'
	harness_damage "a row that is also a dead letter" "duplicate 1" \
		"INSERT INTO t SELECT part, kafka_offset, value FROM kappa.dead_letters LIMIT 1"
	harness_damage "a row from nowhere" "unknown 1" "INSERT INTO t VALUES (0, 999999, 'x')"
	harness_damage "another value" "different 1" "UPDATE t SET value = 'x' WHERE ctid = (SELECT min(ctid) FROM t)"
	pg_kill "$pg" && pg_start "$pg"
	harness_ok "a killed server has all that it had" harness_quiet
	pg_stop "$pg"
	kafka_stop "$dir/kafka"
	tool_close
	echo "1..$harness_tests"
}

# A right table, made of the messages' own bytes, a part of it as dead letters.
harness_load() {
	pg_sql "$1" <<-'END'
		CREATE TABLE t (kafka_partition int, kafka_offset bigint, value bytea);
		CREATE SCHEMA kappa;
		CREATE TABLE kappa.dead_letters (name text, part int, kafka_offset bigint, key bytea, value bytea,
			redriven_at timestamptz);
	END
	tool dump plain >"$SCRATCH/harness/dump"
	pg_sql "$1" -c '\copy t FROM '"'$SCRATCH/harness/dump' (DELIMITER ' ')"
	pg_sql "$1" -c "WITH d AS (DELETE FROM t WHERE kafka_offset % 50 = 0 RETURNING *)
		INSERT INTO kappa.dead_letters SELECT 's', kafka_partition, kafka_offset, NULL, value FROM d"
}
