/*
 * position.c
 *		Where reading goes on.
 *
 * One row a partition in kappa.position.  Only three things move next_offset:
 * a batch (advance_positions, by compare-and-swap), seek and skip (which hold the
 * subscription's lock exclusively).  The swap is the fence of exactly-once: who
 * finds another value than he expects has been overtaken (a second worker, a
 * restored backup) and nothing of his transaction may remain, so it is an ERROR.
 *
 * The row is addressed by the TID that it was last seen at, so a batch costs
 * the same whether or not somebody's old snapshot keeps all former versions.
 * Those push the row to ever higher pages, where HOT would keep it and VACUUM could
 * never give the empty pages before it back; so now and then a row that stands
 * high in a table that is mostly empty is written anew into a free page.
 *
 * Crash story: the row moves in the transaction that stores the rows; there is
 * no state in which one is there without the other.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "catalog.h"
#include "ingest.h"
#include "position.h"

static SPIPlanPtr advance_by_tid = NULL;
static SPIPlanPtr advance_by_key = NULL;

/*
 * $1 is the TID.  "+ 0" keeps the planner from the primary key: its entries of
 * dead versions are what a held snapshot would make us walk through.
 */
#define ADVANCE_SET \
	"UPDATE kappa.position SET next_offset = $5, stored = stored + $6, " \
	"dead_lettered = dead_lettered + $7, filtered = filtered + $8, skipped = skipped + $9, " \
	"holes = holes + $10, future_rows = future_rows + $11, " \
	"high_watermark = coalesce($12, high_watermark), last_offset = $13, last_timestamp = $14, " \
	"last_fingerprint = $15, last_message_time = coalesce($16, last_message_time), " \
	"max_event_time = $17, recent_messages = $18, recent_dead = $19, verdict_watermark = $20 "
#define ADVANCE_BY_TID \
	ADVANCE_SET "WHERE ctid = $1 AND subscription + 0 = $2 AND part + 0 = $3 " \
	"AND next_offset = $4 AND stop_word IS NULL RETURNING ctid"
#define ADVANCE_BY_KEY \
	ADVANCE_SET "WHERE $1 IS NOT NULL AND subscription = $2 AND part = $3 " \
	"AND next_offset = $4 AND stop_word IS NULL RETURNING ctid"
#define ADVANCE_ARGS 20

#define HOME_PAGES	16			/* a row below this block is never moved */
#define MOVE_EVERY	100			/* looks at whether to move one, in updates */
#define MOVE_HOME \
	"WITH roomy AS (SELECT FROM pg_class WHERE oid = 'kappa.position'::regclass " \
	"AND reltuples >= 0 AND relpages > 16 + reltuples), " \
	"moved AS (DELETE FROM kappa.position WHERE ctid = $1 AND EXISTS (SELECT FROM roomy) RETURNING *) " \
	"INSERT INTO kappa.position SELECT * FROM moved RETURNING ctid"

static SPIPlanPtr
prepare_advance(const char *sql)
{
	Oid			types[ADVANCE_ARGS] = {
		TIDOID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT4OID, TIMESTAMPTZOID
	};
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, ADVANCE_ARGS, types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", sql);
	return plan;
}

/* Runs one of the two plans; true and the new TID where the row was found. */
static bool
try_advance(SPIPlanPtr plan, Datum *values, const char *nulls, Position *position)
{
	bool		null;

	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE_RETURNING)
		elog(ERROR, "unexpected result of an update of kappa.position");
	if (SPI_processed == 0)
		return false;
	position->tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0],
																 SPI_tuptable->tupdesc, 1, &null));
	return true;
}

/* After a held snapshot: let the table shrink again (see above). */
static void
move_home(Position *position)
{
	static int	updates = 0;
	CatalogArg	args[] = {{TIDOID, PointerGetDatum(&position->tid), false}};
	bool		null;

	if (ItemPointerGetBlockNumber(&position->tid) < HOME_PAGES || ++updates % MOVE_EVERY != 0)
		return;
	if (catalog_execute(MOVE_HOME, lengthof(args), args) == 1)
		position->tid = *(ItemPointer) DatumGetPointer(catalog_value(0, 1, &null));
}

static void
advance_one(int32 subscription, Position *position, const PositionDelta *delta)
{
	bool		message = position->last_offset >= 0;
	TimestampTz message_time = 0;
	Datum		values[ADVANCE_ARGS];
	char		nulls[ADVANCE_ARGS + 1];

	memset(nulls, ' ', ADVANCE_ARGS);
	nulls[ADVANCE_ARGS] = '\0';
	if (message && position->last_timestamp >= 0)
		message_time = kafka_time(position->last_timestamp);
	else
		nulls[15] = 'n';
	values[0] = PointerGetDatum(&position->tid);
	values[1] = Int32GetDatum(subscription);
	values[2] = Int32GetDatum(position->part);
	values[3] = Int64GetDatum(position->next_offset);
	values[4] = Int64GetDatum(delta->next_offset);
	values[5] = Int64GetDatum(delta->stored);
	values[6] = Int64GetDatum(delta->dead_lettered);
	values[7] = Int64GetDatum(delta->filtered);
	values[8] = Int64GetDatum(delta->skipped);
	values[9] = Int64GetDatum(delta->holes);
	values[10] = Int64GetDatum(delta->future_rows);
	values[11] = Int64GetDatum(delta->high_watermark);
	values[12] = Int64GetDatum(position->last_offset);
	values[13] = Int64GetDatum(position->last_timestamp);
	values[14] = Int64GetDatum((int64) position->last_fingerprint);
	values[15] = TimestampTzGetDatum(message_time);
	values[16] = TimestampTzGetDatum(position->max_event_time);
	values[17] = Int32GetDatum(position->recent_messages);
	values[18] = Int32GetDatum(position->recent_dead);
	values[19] = TimestampTzGetDatum(position->verdict_watermark);
	if (delta->high_watermark < 0)
		nulls[11] = 'n';
	if (!message)
		nulls[12] = nulls[13] = nulls[14] = 'n';
	if (TIMESTAMP_NOT_FINITE(position->max_event_time))
		nulls[16] = 'n';
	if (TIMESTAMP_NOT_FINITE(position->verdict_watermark))
		nulls[19] = 'n';

	if (!try_advance(advance_by_tid, values, nulls, position) &&
		!try_advance(advance_by_key, values, nulls, position))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition %d is not at offset %lld any more",
						position->part, (long long) position->next_offset),
				 errdetail("Somebody else has moved or stopped it; this batch is undone."),
				 errhint("Nothing is lost: reading goes on from the stored position.")));
	position->next_offset = delta->next_offset;
	move_home(position);
}

void
advance_positions(int32 subscription, int n, Position **positions, const PositionDelta *deltas)
{
	CatalogScope scope;

	catalog_begin(&scope);
	/* a sequential scan of a small table would not stay small */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (!advance_by_tid)
		advance_by_tid = prepare_advance(ADVANCE_BY_TID);
	if (!advance_by_key)
		advance_by_key = prepare_advance(ADVANCE_BY_KEY);
	for (int i = 0; i < n; i++)
		advance_one(subscription, positions[i], &deltas[i]);
	catalog_end(&scope);
}

void
log_batch(int32 subscription, const Position *position, TimestampTz judged_by, int64 next_offset)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(subscription), CATALOG_INT4(position->part), CATALOG_INT8(position->next_offset),
		CATALOG_INT8(next_offset), {TIMESTAMPTZOID, TimestampTzGetDatum(judged_by), false},
		{TIMESTAMPTZOID, TimestampTzGetDatum(position->verdict_watermark), false},
		{TIMESTAMPTZOID, TimestampTzGetDatum(position->max_event_time), false}, CATALOG_INT4(kappa_batch_log)
	};

	catalog_begin(&scope);
	catalog_execute("WITH line AS (INSERT INTO kappa.batch_log (subscription, part, from_offset, to_offset, judged_by, "
					"verdict_watermark, max_event_time) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id) "
					"DELETE FROM kappa.batch_log b USING line WHERE b.id <= line.id - $8", lengthof(args), args);
	catalog_end(&scope);
}

static int64
int64_or(Datum value, bool null, int64 otherwise)
{
	return null ? otherwise : DatumGetInt64(value);
}

static void
read_position(int row, Position *position)
{
	bool		null;
	Datum		value;

	memset(position, 0, sizeof(Position));
	position->part = DatumGetInt32(catalog_value(row, 1, &null));
	position->start_offset = DatumGetInt64(catalog_value(row, 2, &null));
	position->next_offset = DatumGetInt64(catalog_value(row, 3, &null));
	value = catalog_value(row, 4, &null);
	position->last_offset = int64_or(value, null, -1);
	value = catalog_value(row, 5, &null);
	position->last_timestamp = int64_or(value, null, -1);
	value = catalog_value(row, 6, &null);
	position->last_fingerprint = (uint64) int64_or(value, null, 0);
	value = catalog_value(row, 7, &null);
	position->max_event_time = int64_or(value, null, DT_NOBEGIN);
	value = catalog_value(row, 8, &null);
	if (!null)
		strlcpy(position->stop_word, TextDatumGetCString(value), sizeof(position->stop_word));
	position->recent_messages = DatumGetInt32(catalog_value(row, 9, &null));
	position->recent_dead = DatumGetInt32(catalog_value(row, 10, &null));
	position->tid = *(ItemPointer) DatumGetPointer(catalog_value(row, 11, &null));
	value = catalog_value(row, 12, &null);
	position->verdict_watermark = int64_or(value, null, DT_NOBEGIN);
}

Position *
load_positions(int32 subscription, int worker, int workers, int *n)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription), CATALOG_INT4(worker), CATALOG_INT4(workers)};
	MemoryContext caller = CurrentMemoryContext;
	Position   *positions;

	catalog_begin(&scope);
	*n = (int) catalog_execute("SELECT part, start_offset, next_offset, last_offset, last_timestamp, "
							   "last_fingerprint, max_event_time, stop_word, recent_messages, "
							   "recent_dead, ctid, verdict_watermark FROM kappa.position "
							   "WHERE subscription = $1 AND ($2 < 0 OR part % $3 = $2) ORDER BY part",
							   3, args);
	positions = MemoryContextAlloc(caller, sizeof(Position) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		read_position(i, &positions[i]);
	catalog_end(&scope);
	return positions;
}

void
add_position(int32 subscription, int32 part, int64 offset)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription), CATALOG_INT4(part), CATALOG_INT8(offset)};

	catalog_begin(&scope);
	catalog_execute("INSERT INTO kappa.position (subscription, part, start_offset, next_offset, verdict_watermark) "
					"SELECT $1, $2, $3, $3, max(verdict_watermark) FROM kappa.position WHERE subscription = $1 "
					"ON CONFLICT DO NOTHING", 3, args);
	catalog_end(&scope);
}

void
stop_partition(const Subscription *sub, int32 part, const char *word,
			   int64 from, int64 to, const char *detail)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(sub->id), CATALOG_INT4(part), CATALOG_TEXT(word),
		CATALOG_INT8(from), CATALOG_INT8(to), CATALOG_TEXT(detail)
	};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.position SET stop_word = $3, stop_from = $4, stop_to = $5, "
					"stop_detail = $6, stop_since = clock_timestamp() "
					"WHERE subscription = $1 AND part = $2 AND stop_word IS NULL", 6, args);
	catalog_end(&scope);
	ereport(LOG,
			(errmsg("subscription \"%s\" stopped at partition %d: %s", sub->name, part, word),
			 errdetail("Offsets [%lld, %lld): %s", (long long) from, (long long) to, detail)));
}

/* words: a text like "schema,rights" (NULL: every stop) */
int
clear_stops(int32 subscription, int32 part, const char *words)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription), CATALOG_INT4(part), CATALOG_TEXT(words)};
	int			n;

	catalog_begin(&scope);
	n = (int) catalog_execute("UPDATE kappa.position SET stop_word = NULL, stop_from = NULL, "
							  "stop_to = NULL, stop_detail = NULL, stop_since = NULL, "
							  "recent_messages = 0, recent_dead = 0 "
							  "WHERE subscription = $1 AND ($2 < 0 OR part = $2) "
							  "AND stop_word IS NOT NULL AND ($3 IS NULL OR "
							  "stop_word = ANY (string_to_array($3, ',')))", 3, args);
	catalog_end(&scope);
	return n;
}

void
settle_dead_letters(int32 subscription, int32 part, int64 account_start,
					int64 stored, int64 filtered)
{
	static const char *const tables[] = {
		"UPDATE kappa.position SET stored = stored + $4, filtered = filtered + $5, "
		"dead_lettered = dead_lettered - $4 - $5 "
		"WHERE subscription = $1 AND part = $2 AND start_offset = $3",
		"UPDATE kappa.closed_account SET stored = stored + $4, filtered = filtered + $5, "
		"dead_lettered = dead_lettered - $4 - $5 "
		"WHERE subscription = $1 AND part = $2 AND start_offset = $3 AND reason LIKE 'seek%'"
	};
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(subscription), CATALOG_INT4(part), CATALOG_INT8(account_start),
		CATALOG_INT8(stored), CATALOG_INT8(filtered)
	};

	catalog_begin(&scope);
	if (catalog_execute(tables[0], lengthof(args), args) == 0)
		catalog_execute(tables[1], lengthof(args), args);
	catalog_end(&scope);
}

void
set_verdict(int32 subscription, int32 part, const char *verdict)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription), CATALOG_INT4(part), CATALOG_TEXT(verdict)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.position SET verdict = $3 "
					"WHERE subscription = $1 AND part = $2 AND verdict <> $3", 3, args);
	catalog_end(&scope);
}

void
forget_last_message(int32 subscription, int32 part)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription), CATALOG_INT4(part)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.position SET last_offset = NULL, last_timestamp = NULL, "
					"last_fingerprint = NULL, verdict = 'unverified' "
					"WHERE subscription = $1 AND part = $2", 2, args);
	catalog_end(&scope);
}

/*
 * Kafka's milliseconds since 1970, brought into PostgreSQL's range.  Not written as
 * Min(...) * 1000: gcc 12 with -fwrapv multiplies first, so that it overflows.
 */
TimestampTz
kafka_time(int64 ms)
{
	const int64 epoch_ms = ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000;
	const int64 low = MIN_TIMESTAMP / 1000;
	const int64 high = (END_TIMESTAMP - 1) / 1000;

	if (ms < low + epoch_ms)
		return low * 1000;
	if (ms > high + epoch_ms)
		return high * 1000;
	return (ms - epoch_ms) * 1000;
}
