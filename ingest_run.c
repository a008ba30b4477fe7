/*
 * ingest_run.c
 *		kappa.run and kappa.redrive: the worker's batches in the caller's own
 *		transaction.
 *
 * Both hold the subscription's lock exclusively to the end of that transaction, so
 * the workers wait, and find another generation afterwards.  A ROLLBACK makes
 * either a dry run with real constraints.  Batches are always careful here: the
 * transaction is not ours to abort and try again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arguments.h"
#include "broker.h"
#include "broker_options.h"
#include "catalog.h"
#include "ingest_batch.h"
#include "intake.h"
#include "position.h"
#include "subscription.h"
#include "watermark.h"
#include "window_close.h"
#include "window_view.h"

#define WAIT_MS			100
#define ANSWER_MS		30000	/* the broker must have answered by then */
#define REDRIVE_ROWS	5000	/* dead letters in memory at a time */

PG_FUNCTION_INFO_V1(kappa_run);
PG_FUNCTION_INFO_V1(kappa_redrive);

/* ---------------------------------------------------------------- run */

static void
report_problem(const Subscription *sub, const IntakeProblem *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s: partition %d of subscription \"%s\" cannot be read on",
					problem->word, problem->part, sub->name),
			 errdetail("Offsets [%lld, %lld): %s.", (long long) problem->from,
					   (long long) problem->to, problem->detail),
			 errhint("kappa.skip passes them, kappa.seek begins elsewhere.")));
}

static void
report_problems(Intake *intake, IntakeResult result)
{
	if (result == INTAKE_PROBLEM)
		report_problem(intake->sub, &intake->problems[0]);
	if (result == INTAKE_ERROR)
		report_kafka_error(ERROR, &intake->error, intake->sub->server, intake->sub->topic);
}

/* Each partition's place by the broker, waiting for it to be reached. */
static void
look_at_partitions(Intake *intake)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ANSWER_MS);
	int			reading = 0;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakeResult result;

		while ((result = intake_look(intake, i)) == INTAKE_ERROR)
		{
			KafkaErrorClass class = intake->error.class;

			CHECK_FOR_INTERRUPTS();
			if ((class != KAFKA_TIMED_OUT && class != KAFKA_DISCONNECTED) ||
				GetCurrentTimestamp() > until)
				report_problems(intake, result);
		}
		report_problems(intake, result);
		reading += intake->parts[i].fetching;
	}
	if (reading == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("every partition of subscription \"%s\" is stopped", intake->sub->name),
				 errhint("SELECT reason, next_step FROM kappa.subscriptions WHERE name = %s.",
						 quote_literal_cstr(intake->sub->name))));
	report_problems(intake, intake_assign(intake));
}

static void
wait_for_messages(BrokerSession *session)
{
	(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 kafka_wake_fd(session->client), WAIT_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* As the worker's check_fetches: what came after a failed fetch may be of another topic. */
static void
check_fetches(Intake *intake)
{
	char		line[8];
	int			level;

	while (kafka_next_log(intake->client, &level, line, sizeof(line)))
		;
	if (kafka_fetch_failed(intake->client))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("a fetch from topic \"%s\" was refused", intake->sub->topic),
				 errdetail("The topic or its leader has changed while it was read."),
				 errhint("Call kappa.run again.")));
}

/* One batch of what is in hand; returns its messages. */
static int64
store_batch(Intake *intake, MemoryContext context)
{
	MemoryContext old;
	Batch	   *batch;
	int64		n = intake->nmessages;

	check_fetches(intake);
	MemoryContextReset(context);
	old = MemoryContextSwitchTo(context);
	batch = intake_batch(intake, 0);
	apply_batch(batch, true);
	intake_store(intake, batch);
	MemoryContextSwitchTo(old);
	intake_release(intake);
	CommandCounterIncrement();
	if (batch->view_stopped)
		intake->sub->window_views = load_window_views(intake->sub->id);
	return n;
}

static int64
run_batches(BrokerSession *session, Intake *intake, int batches)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch",
												  ALLOCSET_DEFAULT_SIZES);
	int64		messages = 0;

	for (int done = 0; done < batches;)
	{
		IntakeResult result = intake_fill(intake);
		bool		at_end = intake_at_end(intake);

		/* an ERROR would undo what this call has stored: then the next call tells */
		if (result == INTAKE_ERROR ||
			(result == INTAKE_PROBLEM && intake->nmessages == 0 && messages == 0))
			report_problems(intake, result);
		if (result == INTAKE_DRAINED && !at_end)
		{
			wait_for_messages(session);
			continue;
		}
		if (intake_has_work(intake))
		{
			messages += store_batch(intake, context);
			done++;
		}
		if (at_end && result == INTAKE_DRAINED)
			break;
		if (result == INTAKE_PROBLEM)
			break;
	}
	return messages;
}

/* Messages in the library's memory must go with the transaction, whatever happens. */
static void
release_messages(void *arg)
{
	intake_release(arg);
}

static void
release_with_context(Intake *intake)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

	callback->func = release_messages;
	callback->arg = intake;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
}

/* Nobody else does where no worker runs. */
static void
close_what_is_final(const Subscription *sub)
{
	TimestampTz final = final_watermark_of(sub);
	ListCell   *lc;

	foreach(lc, sub->window_views)
		if (windows_to_close(lfirst(lc), final))
			(void) close_windows(lfirst(lc), final, sub->workers);
}

/*
 * kappa.run(name text, batches integer DEFAULT 1) RETURNS bigint: messages taken.
 */
Datum
kappa_run(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext old;
	Subscription *sub;
	BrokerSession *session;
	Position   *positions;
	Intake	   *intake;
	int			n;
	int			batches;
	int64		messages;

	require_argument(fcinfo, 0, "name");
	require_argument(fcinfo, 1, "batches");
	batches = PG_GETARG_INT32(1);
	if (batches < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batches must be at least 1, not %d", batches)));
	context = AllocSetContextCreate(CurrentMemoryContext, "kappa.run", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	sub = control_subscription(text_to_cstring(PG_GETARG_TEXT_PP(0)), "kappa.run()");
	sub->window_views = load_window_views(sub->id);
	positions = load_positions(sub->id, -1, 1, &n);
	session = broker_connect(sub->server, sub->owner, sub->options, NULL);
	intake = make_intake(sub, session->client, positions, n);
	release_with_context(intake);
	look_at_partitions(intake);
	set_constraints_immediate();
	messages = run_batches(session, intake, batches);
	close_what_is_final(sub);
	touch_subscription(sub->id);
	intake_release(intake);
	broker_disconnect(session);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	PG_RETURN_INT64(messages);
}

/* ---------------------------------------------------------------- redrive */

/* What redriven rows are judged by: as if they came with their partition's next batch. */
typedef struct Verdicts
{
	int			n;
	const Position *positions;
	TimestampTz least;
} Verdicts;

static TimestampTz
redrive_verdict(void *arg, int32 part)
{
	const Verdicts *verdicts = arg;

	for (int i = 0; i < verdicts->n; i++)
		if (verdicts->positions[i].part == part)
			return verdicts->positions[i].verdict_watermark;
	return verdicts->least;
}

static Verdicts *
load_verdicts(int32 subscription)
{
	Verdicts   *verdicts = palloc0(sizeof(Verdicts));

	verdicts->positions = load_positions(subscription, -1, 1, &verdicts->n);
	verdicts->least = verdicts->n > 0 ? DT_NOEND : DT_NOBEGIN;
	for (int i = 0; i < verdicts->n; i++)
		verdicts->least = Min(verdicts->least, verdicts->positions[i].verdict_watermark);
	return verdicts;
}

typedef struct DeadLetters
{
	int			n;
	int64	   *ids;
	int64	   *accounts;
	KafkaMessage *messages;
} DeadLetters;

static const char *
bytes_value(int row, int column, size_t *len)
{
	bool		null;
	Datum		value = catalog_value(row, column, &null);
	bytea	   *bytes;

	*len = 0;
	if (null)
		return NULL;
	bytes = DatumGetByteaPCopy(value);
	*len = VARSIZE_ANY_EXHDR(bytes);
	return VARDATA_ANY(bytes);
}

static void
read_dead_letter(DeadLetters *letters, int row)
{
	KafkaMessage *message = &letters->messages[row];
	bool		null;
	Datum		value;

	letters->ids[row] = DatumGetInt64(catalog_value(row, 1, &null));
	message->part = DatumGetInt32(catalog_value(row, 2, &null));
	message->offset = DatumGetInt64(catalog_value(row, 3, &null));
	value = catalog_value(row, 4, &null);
	message->timestamp = null ? -1 : DatumGetInt64(value);
	message->key = bytes_value(row, 5, &message->key_len);
	message->value = bytes_value(row, 6, &message->value_len);
	value = catalog_value(row, 7, &null);
	message->headers = null ? NULL : DatumGetJsonbPCopy(value);
	letters->accounts[row] = DatumGetInt64(catalog_value(row, 8, &null));
}

/* The next ones behind the id, as they stood in Kafka. */
static DeadLetters *
load_dead_letters(int32 subscription, Datum ids, bool all, int64 behind)
{
	DeadLetters *letters = palloc0(sizeof(DeadLetters));
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(subscription), {INT8ARRAYOID, ids, all},
		CATALOG_INT8(behind), CATALOG_INT4(REDRIVE_ROWS)
	};

	catalog_begin(&scope);
	letters->n = (int)
		catalog_execute("SELECT id, part, kafka_offset, "
						"(extract(epoch FROM kafka_timestamp) * 1000)::bigint, key, value, headers, account_start "
						"FROM (SELECT * FROM kappa.dead_letter WHERE subscription = $1 AND redriven_at IS NULL "
						"AND ($2 IS NULL OR id = ANY ($2)) AND id > $3 ORDER BY id LIMIT $4 FOR UPDATE) AS d "
						"ORDER BY part, kafka_offset",
						lengthof(args), args);
	old = MemoryContextSwitchTo(context);
	letters->ids = palloc(sizeof(int64) * Max(letters->n, 1));
	letters->accounts = palloc(sizeof(int64) * Max(letters->n, 1));
	letters->messages = palloc0(sizeof(KafkaMessage) * Max(letters->n, 1));
	for (int row = 0; row < letters->n; row++)
		read_dead_letter(letters, row);
	MemoryContextSwitchTo(old);
	catalog_end(&scope);
	return letters;
}

static void
mark_redriven(int64 id)
{
	CatalogArg	args[] = {CATALOG_INT8(id)};

	catalog_execute("UPDATE kappa.dead_letter SET redriven_at = clock_timestamp(), "
					"attempts = attempts + 1 WHERE id = $1", 1, args);
}

static void
mark_failed(int64 id, const DeadLetter *letter)
{
	CatalogArg	args[] = {
		CATALOG_INT8(id), CATALOG_TEXT(unpack_sql_state(letter->sqlstate)), CATALOG_TEXT(letter->error)
	};

	catalog_execute("UPDATE kappa.dead_letter SET attempts = attempts + 1, sqlstate = $2, error = $3 "
					"WHERE id = $1", 3, args);
}

static int64
settle(const Subscription *sub, DeadLetters *letters, Batch *batch)
{
	CatalogScope scope;
	ListCell   *lc;
	int64		done = 0;

	catalog_begin(&scope);
	for (int i = 0; i < letters->n; i++)
	{
		Verdict		verdict = batch->verdicts[i];

		if (verdict != VERDICT_STORED && verdict != VERDICT_FILTERED)
			continue;
		mark_redriven(letters->ids[i]);
		settle_dead_letters(sub->id, letters->messages[i].part, letters->accounts[i],
							verdict == VERDICT_STORED, verdict == VERDICT_FILTERED);
		done++;
	}
	foreach(lc, batch->dead)
	{
		DeadLetter *letter = lfirst(lc);

		mark_failed(letters->ids[letter->message], letter);
	}
	catalog_end(&scope);
	return done;
}

static int64
redrive_chunk(Subscription *sub, Verdicts *verdicts, DeadLetters *letters)
{
	Batch	   *batch = make_batch(sub, letters->messages, letters->n);

	batch->verdict_of = redrive_verdict;
	batch->verdict_arg = verdicts;
	apply_batch(batch, true);
	CommandCounterIncrement();
	if (batch->view_stopped)
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(sub));

		sub->window_views = load_window_views(sub->id);
		MemoryContextSwitchTo(old);
	}
	return settle(sub, letters, batch);
}

/*
 * kappa.redrive(name text, ids bigint[] DEFAULT NULL) RETURNS bigint: how many are
 * settled; those that fail again stay, with their new error.
 */
Datum
kappa_redrive(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext old;
	Subscription *sub;
	Verdicts   *verdicts;
	int64		behind = PG_INT64_MIN;
	int64		done = 0;

	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.redrive()");
	sub->stop_on_error = false; /* a bad one stays a dead letter, the others go on */
	sub->window_views = load_window_views(sub->id);
	verdicts = load_verdicts(sub->id);
	set_constraints_immediate();
	context = AllocSetContextCreate(CurrentMemoryContext, "kappa.redrive", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	for (;;)
	{
		DeadLetters *letters;

		MemoryContextReset(context);
		letters = load_dead_letters(sub->id, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
									PG_ARGISNULL(1), behind);
		if (letters->n == 0)
			break;
		for (int i = 0; i < letters->n; i++)
			behind = Max(behind, letters->ids[i]);
		done += redrive_chunk(sub, verdicts, letters);
	}
	/* worker 0 must read the windows anew that were written in its name */
	if (sub->window_views != NIL && done > 0)
		touch_subscription(sub->id);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	PG_RETURN_INT64(done);
}
