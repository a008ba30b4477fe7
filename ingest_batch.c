/*
 * ingest_batch.c
 *		One batch of messages: produce its rows, check them, write them.
 *
 *		produce		each message becomes rows (decode.c, or transform.c), or is bad,
 *					or gives none
 *		check		constraints that need no write (careful only)
 *		write		target_table.c
 *
 * The caller owns the transaction.  Without care nothing here opens a
 * subtransaction: an ERROR leaves the batch to be tried again with care.  With
 * care each stage runs in subtransactions; an ERROR that one message causes is
 * found (by its number in the first two stages, by halving in the last) and the
 * message becomes a dead letter, while its neighbours go on.
 *
 * What one message causes: errors of data, limits and constraints, and what the code
 * of users raises; an error that tells of the schema, of rights or of the server
 * only where a neighbour of the same batch succeeds, else it is not the message
 * that is wrong (classify_error, give_up).
 *
 * Each attempt has memory of its own, which goes when it ends, well or not: what an
 * attempt opens (executor state, indexes, partitions) is by far more than a row, and
 * a batch can take two attempts a message.  Rows, verdicts and dead letters are in
 * the batch's memory.
 *
 * The same holds for a transient error that comes again and again (suspect), if its
 * class is one that a trigger can raise for a row.  Many of those in a row are none of
 * single messages, even if others went well before: what they need has gone away.
 *
 * on_error => 'stop': the messages from the first bad one of a partition on are
 * cut off, and what was written of them is undone, so that the position can stand
 * on it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "catalog.h"
#include "decode.h"
#include "fault.h"
#include "ingest_batch.h"
#include "message_headers.h"
#include "position.h"
#include "target_table.h"
#include "transform.h"
#include "window_batch.h"

/* So many rows may fail for a lasting reason before we believe it is not theirs. */
#define LASTING_LIMIT	8

/* Halving stops here: the messages of so few rows are tried one by one. */
#define APART			8

/* After so many bad messages in a row the next ones are tried one by one, too. */
#define BAD_IN_A_ROW	16

#define MAX_ERROR		1000	/* bytes of a dead letter's error */

typedef struct Work
{
	Batch	   *batch;
	MemoryContext context;		/* of the batch: what outlives an attempt */
	TargetTable *target;
	DecodeProgram *program;
	Transform  *transform;		/* NULL: none */
	bool		careful;
	int			nrows;
	int			capacity;
	Row		   *rows;
	/* of the present stage, in care */
	int			succeeded;		/* neighbours that went well */
	int			lasting;		/* messages set apart for a lasting error */
	ErrorData  *lasting_error;	/* the last of them */
	int			in_a_row;		/* of them since the neighbours numbered */
	int			succeeded_before;
	int			bad_in_a_row;	/* while writing */
	bool		redo;			/* raised by write_and_look */
} Work;

/* How far a stage has come: the message or row being worked on. */
typedef struct Progress
{
	volatile int at;
} Progress;

Batch *
make_batch(const Subscription *sub, const KafkaMessage *messages, int n)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->sub = sub;
	batch->messages = messages;
	batch->n = n;
	batch->verdicts = palloc0(Max(n, 1));
	if (sub->event_time)
	{
		batch->event_times = palloc(sizeof(TimestampTz) * Max(n, 1));
		for (int i = 0; i < n; i++)
			batch->event_times[i] = DT_NOBEGIN;
	}
	return batch;
}

void
set_constraints_immediate(void)
{
	AfterTriggerSetState(makeNode(ConstraintsSetStmt));
}

/* ---------------------------------------------------------------- errors */

ErrorKind
classify_error(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			return ERROR_TRANSIENT;
		case ERRCODE_TO_CATEGORY(ERRCODE_FEATURE_NOT_SUPPORTED):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TRANSACTION_INITIATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_LOCATOR_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_GRANTOR):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_ROLE_SPECIFICATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_CURSOR_STATE):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TRANSACTION_STATE):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_SQL_STATEMENT_NAME):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_DEPENDENT_PRIVILEGE_DESCRIPTORS_STILL_EXIST):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TRANSACTION_TERMINATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_CURSOR_NAME):
		case ERRCODE_TO_CATEGORY(ERRCODE_SAVEPOINT_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_CATALOG_NAME):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_SCHEMA_NAME):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION):
		case ERRCODE_TO_CATEGORY(ERRCODE_CONFIG_FILE_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_FDW_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR):
			return ERROR_LASTING;
		default:
			/* data, limits, constraints, routines; and every state that users invent */
			return ERROR_OF_ROW;
	}
}

bool
may_be_of_row(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category != ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) &&
		category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		sqlstate != ERRCODE_LOCK_NOT_AVAILABLE && sqlstate != ERRCODE_DISK_FULL &&
		sqlstate != ERRCODE_OUT_OF_MEMORY;
}

/* As this batch is to take it. */
static ErrorKind
kind_of(const Work *work, const ErrorData *error)
{
	ErrorKind	kind = classify_error(error->sqlerrcode);

	return kind == ERROR_TRANSIENT && work->batch->suspect && may_be_of_row(error->sqlerrcode) ?
		ERROR_LASTING : kind;
}

/* PostgreSQL's own messages may quote a value of any size, in their middle. */
static const char *
clip_error(const char *error)
{
	int			len = (int) strlen(error);

	if (len <= MAX_ERROR)
		return error;
	return psprintf("%.*s ... %s", pg_mbcliplen(error, len, MAX_ERROR / 2), error,
					error + pg_mbcliplen(error, len, len - MAX_ERROR / 2));
}

static void
set_dead(Work *work, int message, int sqlstate, const char *error)
{
	Batch	   *batch = work->batch;
	MemoryContext old;
	DeadLetter *letter;

	if (batch->verdicts[message] == VERDICT_DEAD)
		return;
	old = MemoryContextSwitchTo(work->context);
	letter = palloc(sizeof(DeadLetter));
	letter->message = message;
	letter->sqlstate = sqlstate;
	letter->error = pstrdup(clip_error(error));
	batch->verdicts[message] = VERDICT_DEAD;
	batch->dead = lappend(batch->dead, letter);
	MemoryContextSwitchTo(old);
}

/* All rows fail for a lasting reason, or many in a row for a transient one: it is not theirs. */
static bool
give_up(Work *work)
{
	if (work->succeeded != work->succeeded_before)
		work->in_a_row = 0;
	work->succeeded_before = work->succeeded;
	if (++work->in_a_row >= LASTING_LIMIT &&
		classify_error(work->lasting_error->sqlerrcode) == ERROR_TRANSIENT)
		return true;
	return work->succeeded == 0 && work->lasting >= LASTING_LIMIT;
}

/* A stage is over: were its lasting errors those of single messages? */
static void
end_stage(Work *work)
{
	if (work->lasting > 0 && work->succeeded == 0)
		ThrowErrorData(work->lasting_error);
	work->lasting = 0;
	work->succeeded = 0;
	work->in_a_row = 0;
}

/*
 * The caught error as the message's own, or raised again where it cannot be.  Outside
 * the failed subtransaction; the error is ours to free.
 */
static void
blame(Work *work, int message, ErrorData *error)
{
	ErrorKind	kind = kind_of(work, error);

	if (kind == ERROR_TRANSIENT)
		ThrowErrorData(error);
	set_dead(work, message, error->sqlerrcode,
			 error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message);
	if (kind != ERROR_LASTING)
	{
		FreeErrorData(error);
		return;
	}
	if (work->lasting++ > 0)
		FreeErrorData(work->lasting_error);
	work->lasting_error = error;
	if (give_up(work))
		ThrowErrorData(error);
}

/*
 * Run stage(work, arg) in a subtransaction and in memory of its own; NULL where it
 * went well, else the error (in the batch's memory), with everything undone that the
 * stage did to the database.
 */
typedef void (*Stage) (Work *work, void *arg);

static ErrorData *
attempt(Work *work, Stage stage, void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext own = AllocSetContextCreate(work->context, "attempt", ALLOCSET_DEFAULT_SIZES);
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(own);
	PG_TRY();
	{
		stage(work, arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(work->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	MemoryContextDelete(own);
	return error;
}

/* ---------------------------------------------------------------- rows */

static Row *
add_row(Work *work, int message, Datum *values, bool *nulls, bool *present, bool delete)
{
	Row		   *row;

	if (work->nrows == work->capacity)
	{
		work->capacity *= 2;
		work->rows = repalloc_huge(work->rows, sizeof(Row) * work->capacity);
	}
	row = &work->rows[work->nrows];
	row->message = message;
	row->number = work->nrows++;
	row->values = values;
	row->nulls = nulls;
	row->present = present;
	row->delete = delete;
	return row;
}

static void
note_event_time(Work *work, int message, const Datum *values, const bool *nulls)
{
	int			att = work->program->event_time - 1;
	TimestampTz *newest;

	if (att < 0 || nulls[att])
		return;
	newest = &work->batch->event_times[message];
	if (DatumGetTimestampTz(values[att]) > *newest)
		*newest = DatumGetTimestampTz(values[att]);
}

/* Forget the rows of messages that are not to be written. */
static void
drop_rows(Work *work)
{
	int			kept = 0;

	for (int i = 0; i < work->nrows; i++)
	{
		uint8		verdict = work->batch->verdicts[work->rows[i].message];

		if (verdict == VERDICT_NONE || verdict == VERDICT_STORED)
			work->rows[kept++] = work->rows[i];
	}
	work->nrows = kept;
}

/* ---------------------------------------------------------------- produce: decode */

static void
judge(Work *work, int message, DecodeResult result, int sqlstate, const char *error)
{
	if (result == DECODE_BAD)
		set_dead(work, message, sqlstate, error);
	else if (result == DECODE_FILTERED)
		work->batch->verdicts[message] = VERDICT_FILTERED;
	work->succeeded++;
}

static void
decode_one(Work *work, int i)
{
	int			natts = work->program->desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * natts + 2 * sizeof(bool) * natts);
	bool	   *nulls = (bool *) (values + natts);
	bool	   *present = nulls + natts;
	int			sqlstate = 0;
	const char *error = NULL;
	DecodeResult result = decode_message(work->program, &work->batch->messages[i],
										 values, nulls, present, &sqlstate, &error);

	if (result == DECODE_ROW)
		result = complete_row(work->program, values, nulls, present, &sqlstate, &error);
	judge(work, i, result, sqlstate, error);
	if (result == DECODE_ROW || result == DECODE_DELETE)
	{
		add_row(work, i, values, nulls, present, result == DECODE_DELETE);
		note_event_time(work, i, values, nulls);
	}
}

/* A message that goes through the transform is only looked at here. */
static void
look_at_one(Work *work, int i)
{
	int			sqlstate = 0;
	const char *error = NULL;
	DecodeResult result = check_message(work->program, &work->batch->messages[i], &sqlstate, &error);

	judge(work, i, result, sqlstate, error);
}

static void
decode_from(Work *work, void *arg)
{
	Progress   *progress = arg;
	UserScope	scope;

	/* the rows stay, whatever becomes of the messages behind them */
	MemoryContextSwitchTo(work->context);
	user_scope_begin(&scope, work->target->table_owner, "pg_catalog, pg_temp");
	for (; progress->at < work->batch->n; progress->at++)
	{
		CHECK_FOR_INTERRUPTS();
		/* tombstones never go through a transform: in upsert they delete by key */
		if (work->transform && work->batch->messages[progress->at].value != NULL)
			look_at_one(work, progress->at);
		else
			decode_one(work, progress->at);
	}
	user_scope_end(&scope);
}

/* Run a stage that works message by message (or row by row), setting bad ones apart. */
static void
run_stage(Work *work, Stage stage, int (*message_at) (Work *work, int at))
{
	Progress	progress = {0};
	ErrorData  *error;

	if (!work->careful)
	{
		stage(work, &progress);
		return;
	}
	while ((error = attempt(work, stage, &progress)) != NULL)
	{
		int			message = message_at(work, progress.at);

		/* an error outside of any (opening the table) is nobody's */
		if (message < 0)
			ThrowErrorData(error);
		blame(work, message, error);
		progress.at++;
	}
	end_stage(work);
}

static int
message_itself(Work *work, int at)
{
	return at < work->batch->n ? at : -1;
}

static int
message_of_row(Work *work, int at)
{
	return at < work->nrows ? work->rows[at].message : -1;
}

/* ---------------------------------------------------------------- produce: transform */

typedef struct Range
{
	int			from;
	int			to;
	MemoryContext rows;			/* where its rows are to be */
} Range;

static void
transformed_row(void *arg, int message, Datum *values, bool *nulls)
{
	Work	   *work = arg;
	int			natts = work->program->desc->natts;

	add_row(work, message, values, nulls,
			memcpy(palloc(natts), transform_columns(work->transform), natts), false);
}

static void
transform_range(Work *work, void *arg)
{
	Range	   *range = arg;
	const Subscription *sub = work->batch->sub;
	UserScope	scope;

	MemoryContextSwitchTo(range->rows);
	user_scope_begin(&scope, sub->owner, sub->search_path);
	transform_run(work->transform, work->batch->messages, range->from, range->to,
				  work->batch->verdicts, transformed_row, work);
	user_scope_end(&scope);
	work->succeeded++;
}

static void
transform_halving(Work *work, int from, int to)
{
	Range		range = {from, to};
	int			before = work->nrows;
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	if (from >= to)
		return;
	range.rows = AllocSetContextCreate(work->context, "transformed rows", ALLOCSET_SMALL_SIZES);
	error = attempt(work, transform_range, &range);
	if (error == NULL)
		return;
	MemoryContextDelete(range.rows);
	work->nrows = before;
	if (kind_of(work, error) == ERROR_TRANSIENT)
		ThrowErrorData(error);
	if (to - from == 1)
	{
		blame(work, from, error);
		return;
	}
	FreeErrorData(error);
	transform_halving(work, from, from + (to - from) / 2);
	transform_halving(work, from + (to - from) / 2, to);
}

static void
complete_from(Work *work, void *arg)
{
	Progress   *progress = arg;
	UserScope	scope;

	/* defaults are values of the rows */
	MemoryContextSwitchTo(work->context);
	user_scope_begin(&scope, work->target->table_owner, "pg_catalog, pg_temp");
	for (; progress->at < work->nrows; progress->at++)
	{
		Row		   *row = &work->rows[progress->at];
		int			sqlstate;
		const char *error;

		if (row->delete)
			continue;
		if (complete_row(work->program, row->values, row->nulls, row->present,
						 &sqlstate, &error) == DECODE_BAD)
			set_dead(work, row->message, sqlstate, error);
		else
			note_event_time(work, row->message, row->values, row->nulls);
		work->succeeded++;
	}
	user_scope_end(&scope);
}

static int
compare_row_messages(const void *a, const void *b)
{
	const Row  *x = a;
	const Row  *y = b;

	return x->message != y->message ? x->message - y->message : x->number - y->number;
}

static void
mark_rowless(Work *work)
{
	bool	   *given = palloc0(work->batch->n);

	for (int i = 0; i < work->nrows; i++)
		given[work->rows[i].message] = true;
	for (int i = 0; i < work->batch->n; i++)
		if (work->batch->verdicts[i] == VERDICT_NONE && !given[i])
			work->batch->verdicts[i] = VERDICT_FILTERED;
}

/*
 * The messages that decode_from has dealt with are skipped: those with a verdict,
 * and tombstones that gave a row (marked for the time being).
 */
static void
produce_by_transform(Work *work)
{
	uint8	   *verdicts = work->batch->verdicts;
	int			tombstones = work->nrows;
	Range		all = {0, work->batch->n, work->context};

	for (int i = 0; i < tombstones; i++)
		verdicts[work->rows[i].message] = VERDICT_STORED;
	if (work->careful)
	{
		transform_halving(work, all.from, all.to);
		end_stage(work);
	}
	else
		transform_range(work, &all);
	for (int i = 0; i < tombstones; i++)
		verdicts[work->rows[i].message] = VERDICT_NONE;
	mark_rowless(work);
	run_stage(work, complete_from, message_of_row);
	drop_rows(work);
	qsort(work->rows, work->nrows, sizeof(Row), compare_row_messages);
	/* tombstones came first; the last row of a key is the one that counts */
	for (int i = 0; i < work->nrows; i++)
		work->rows[i].number = i;
}

/* ---------------------------------------------------------------- check */

/* Constraints row by row, while nothing has been written that would be undone. */
static void
check_from(Work *work, void *arg)
{
	Progress   *progress = arg;
	UserScope	scope;

	user_scope_begin(&scope, work->target->table_owner, "pg_catalog, pg_temp");
	target_check(work->target, work->rows, work->nrows, &progress->at);
	user_scope_end(&scope);
	work->succeeded++;
}

/* ---------------------------------------------------------------- write */

typedef struct WriteArg
{
	int			from;			/* rows, whole messages */
	int			to;
	int64		taken;
} WriteArg;

static void
write_range(Work *work, void *arg)
{
	WriteArg   *range = arg;
	UserScope	scope;

	user_scope_begin(&scope, work->target->table_owner, "pg_catalog, pg_temp");
	range->taken = target_write(work->target, work->rows + range->from, range->to - range->from);
	user_scope_end(&scope);
	/* a trigger dropped some: which ones shows only when they are written apart */
	if (range->taken != 0 && range->taken != range->to - range->from &&
		work->rows[range->from].message != work->rows[range->to - 1].message)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("the target took only some of the rows")));
}

static void
mark_written(Work *work, const WriteArg *range)
{
	for (int i = range->from; i < range->to; i++)
		work->batch->verdicts[work->rows[i].message] =
			range->taken > 0 ? VERDICT_STORED : VERDICT_FILTERED;
	work->batch->nrows += range->taken;
	if (range->taken > 0)
		work->batch->row_bytes += work->target->row_bytes;
	work->succeeded++;
	work->bad_in_a_row = 0;
}

/* The border between two messages nearest to the middle of rows [from, to). */
static int
middle(Work *work, int from, int to)
{
	int			mid = from + (to - from) / 2;
	int			up = mid;

	while (mid > from && work->rows[mid - 1].message == work->rows[mid].message)
		mid--;
	if (mid > from)
		return mid;
	while (up < to && work->rows[up].message == work->rows[from].message)
		up++;
	return up;
}

/*
 * The rows of one message, or of several that are not yet known to hold a bad one;
 * true: there is nothing left to find in them.
 */
static bool
write_together(Work *work, int from, int to, bool single)
{
	WriteArg	range = {from, to, 0};
	ErrorData  *error = attempt(work, write_range, &range);

	if (error == NULL)
	{
		mark_written(work, &range);
		return true;
	}
	if (kind_of(work, error) == ERROR_TRANSIENT)
		ThrowErrorData(error);
	if (single)
	{
		work->bad_in_a_row++;
		blame(work, work->rows[from].message, error);
	}
	else
		FreeErrorData(error);
	return single;
}

/*
 * Each attempt that writes costs a transaction id: where most are bad (a replay of
 * what is stored already) little more of them than messages.  Not in upsert, where a
 * message that a later one supersedes is written only where the two are separated.
 */
static void
write_halving(Work *work, int from, int to, bool apart)
{
	bool		upsert = work->batch->sub->upsert;
	int			mid;

	CHECK_FOR_INTERRUPTS();
	if (from >= to)
		return;
	mid = middle(work, from, to);
	if ((mid >= to || upsert || !(apart || work->bad_in_a_row >= BAD_IN_A_ROW)) &&
		write_together(work, from, to, mid >= to))
		return;
	apart = apart || to - from <= APART;
	write_halving(work, from, mid, apart);
	write_halving(work, mid, to, apart);
}

static void
write_all(Work *work)
{
	WriteArg	all = {0, work->nrows, 0};

	if (work->nrows == 0)
		return;
	write_range(work, &all);
	mark_written(work, &all);
}

/* ---------------------------------------------------------------- stop on error */

/*
 * Cut every partition at its first bad message: that one and those behind it are
 * not taken, and only the first one's error is kept.
 */
static bool
cut_behind_dead(Batch *batch)
{
	List	   *first = NIL;
	ListCell   *lc;
	bool		cut = false;

	foreach(lc, batch->dead)
	{
		DeadLetter *letter = lfirst(lc);
		const KafkaMessage *bad = &batch->messages[letter->message];

		if (batch->verdicts[letter->message] != VERDICT_DEAD)
			continue;
		for (int i = 0; i < batch->n; i++)
			if (batch->messages[i].part == bad->part && batch->messages[i].offset > bad->offset &&
				batch->verdicts[i] != VERDICT_CUT)
			{
				batch->verdicts[i] = VERDICT_CUT;
				cut = true;
			}
	}
	foreach(lc, batch->dead)
	{
		DeadLetter *letter = lfirst(lc);

		if (batch->verdicts[letter->message] == VERDICT_DEAD)
			first = lappend(first, letter);
	}
	batch->dead = first;
	return cut;
}

static void
write_and_look(Work *work, void *arg)
{
	int			before = list_length(work->batch->dead);

	write_halving(work, 0, work->nrows, false);
	/* new bad ones: what was written behind them must not stay */
	work->redo = list_length(work->batch->dead) > before;
	if (work->redo)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a message behind a bad one was written")));
}

/* Write, cut behind what turned out bad, and again until nothing new is bad. */
static void
write_until_stop(Work *work)
{
	ErrorData  *error;

	work->redo = false;
	while ((error = attempt(work, write_and_look, NULL)) != NULL)
	{
		if (!work->redo)
			ThrowErrorData(error);
		FreeErrorData(error);
		work->redo = false;
		work->batch->nrows = 0;
		work->batch->row_bytes = 0;
		for (int i = 0; i < work->nrows; i++)
			if (work->batch->verdicts[work->rows[i].message] == VERDICT_STORED)
				work->batch->verdicts[work->rows[i].message] = VERDICT_NONE;
		cut_behind_dead(work->batch);
		drop_rows(work);
	}
}

/* ---------------------------------------------------------------- apply */

static void
cut_if_stopping(Work *work)
{
	if (work->batch->sub->stop_on_error && cut_behind_dead(work->batch))
		drop_rows(work);
}

static void
produce(Work *work)
{
	run_stage(work, decode_from, message_itself);
	if (work->transform)
		produce_by_transform(work);
	cut_if_stopping(work);
	FAULT_POINT("after_decode");
}

static void
write_rows(Work *work)
{
	if (!work->careful)
	{
		write_all(work);
		return;
	}
	if (work->target->needs_check)
	{
		run_stage(work, check_from, message_of_row);
		drop_rows(work);
		cut_if_stopping(work);
	}
	if (work->batch->sub->stop_on_error)
		write_until_stop(work);
	else
		write_halving(work, 0, work->nrows, false);
	end_stage(work);
}

/* ---------------------------------------------------------------- window views */

typedef struct ViewArg
{
	WindowView *view;
	const Row  *rows;
	const FoldOrigin *origins;
	int			n;
} ViewArg;

static void
fold_view(Work *work, void *arg)
{
	ViewArg    *v = arg;

	window_batch(v->view, work->target, work->batch->worker, v->rows, v->origins, v->n);
}

static void
stop_view(Work *work, const WindowView *view, const char *reason)
{
	stop_window_view(view, reason);
	work->batch->view_stopped = true;
}

/* An error of the view's own expressions: it stands still, the rows go on. */
static void
fold_view_with_care(Work *work, ViewArg *arg)
{
	ErrorData  *error = attempt(work, fold_view, arg);

	if (error == NULL)
		return;
	window_forget(arg->view);
	if (window_error_passes(error->sqlerrcode))
		ThrowErrorData(error);
	stop_view(work, arg->view, psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message));
}

/* "An object is not as it should be" does not mend itself: a dimension without data, an index that is gone. */
bool
window_error_passes(int sqlstate)
{
	return classify_error(sqlstate) == ERROR_TRANSIENT &&
		sqlstate != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

static bool
is_stored(const Work *work, int row)
{
	return work->batch->verdicts[work->rows[row].message] == VERDICT_STORED;
}

/* The rows that are stored: most often all of them, where they are. */
static void
collect_stored(Work *work, ViewArg *arg)
{
	Row		   *rows;

	while (arg->n < work->nrows && is_stored(work, arg->n))
		arg->n++;
	arg->rows = work->rows;
	if (arg->n == work->nrows)
		return;
	rows = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Row) * work->nrows);
	memcpy(rows, work->rows, sizeof(Row) * arg->n);
	for (int i = arg->n; i < work->nrows; i++)
		if (is_stored(work, i))
			rows[arg->n++] = work->rows[i];
	arg->rows = rows;
}

/* What they are judged by; messages of a partition come in runs. */
static void
find_origins(Work *work, ViewArg *arg)
{
	Batch	   *batch = work->batch;
	FoldOrigin *origins = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(FoldOrigin) * Max(arg->n, 1));
	int32		part = -1;
	TimestampTz verdict = DT_NOBEGIN;

	for (int i = 0; i < arg->n; i++)
	{
		const KafkaMessage *message = &batch->messages[arg->rows[i].message];

		if (message->part != part && batch->verdict_of)
			verdict = batch->verdict_of(batch->verdict_arg, message->part);
		part = message->part;
		origins[i] = (FoldOrigin)
		{
			part, message->offset, verdict
		};
	}
	arg->origins = origins;
}

static void
fold_views(Work *work)
{
	ViewArg		arg = {0};
	ListCell   *lc;

	if (work->batch->sub->window_views == NIL)
		return;
	collect_stored(work, &arg);
	if (arg.n == 0)
		return;
	find_origins(work, &arg);
	foreach(lc, work->batch->sub->window_views)
	{
		arg.view = lfirst(lc);
		if (work->target->general)
			stop_view(work, arg.view, "the target has rules or BEFORE ROW triggers now, so its rows are not what the messages say");
		else if (!window_owner_may(arg.view))
			stop_view(work, arg.view, "its owner is no member of the subscription's owner any more");
		else if (work->target->diverted)
			stop_view(work, arg.view, "a partition of the target is a foreign table or has BEFORE ROW triggers, so its rows are not what the messages say");
		else if (work->careful)
			fold_view_with_care(work, &arg);
		else
			fold_view(work, &arg);
	}
}

/* ---------------------------------------------------------------- the batch */

void
apply_batch(Batch *batch, bool careful)
{
	Work		work = {.batch = batch,.context = CurrentMemoryContext,.careful = careful,.capacity = Max(batch->n, 16)};
	EState	   *estate;
	UserScope	scope;

	if (batch->n == 0)
		return;
	work.rows = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Row) * work.capacity);
	work.target = target_open(batch->sub);
	work.target->careful = careful;
	estate = CreateExecutorState();
	user_scope_begin(&scope, work.target->table_owner, "pg_catalog, pg_temp");
	work.program = decode_program(batch->sub, work.target->rel, estate);
	user_scope_end(&scope);
	if (batch->sub->transform)
	{
		user_scope_begin(&scope, batch->sub->owner, batch->sub->search_path);
		work.transform = transform_prepare(batch->sub, work.target->rel);
		user_scope_end(&scope);
	}
	produce(&work);
	write_rows(&work);
	fold_views(&work);
	FreeExecutorState(estate);
	target_close(work.target);
}
