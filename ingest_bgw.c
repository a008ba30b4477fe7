/*
 * ingest_bgw.c
 *		The worker: one process that reads its share of a subscription's partitions
 *		and commits rows, dead letters and positions together.
 *
 *		start		definition and positions are read; a client is opened
 *		look		the broker is asked about each partition, until it answers
 *		loop		take what waits (intake.c); when a batch is due: one transaction;
 *					wait on latch, postmaster death and the client's pipe together
 *		leave		anything that changes the start's facts ends the process: another
 *					definition, new partitions, an error of the client.  The launcher
 *					starts its successor, at once or when the slot says so.
 *
 * Invariants: no transaction or snapshot is open while we wait; a batch commits
 * only under the generation of the definition that it was started with, checked
 * behind the subscription's lock; a position moves by compare-and-swap in the
 * transaction of its rows (position.c); after any error of the client nothing more is
 * committed by this process, because only a new look can tell whether the topic is
 * still the same.
 *
 * A batch that fails: with a transient error it waits and is tried again, from
 * memory; with another one it is tried again with care (ingest_batch.c), and if that
 * fails too its partitions are stopped, durably.  A transient error that comes again
 * and again may be one message's: it is looked for with care, among as many
 * neighbours as there are, for it is theirs to prove that the others can be stored.
 *
 * Crash story: kill this process at any instruction.  Either the transaction is
 * committed, then positions and rows are both there; or it is not, then neither is,
 * and the successor reads the same messages again.  The consumer group's offsets
 * are only for Kafka's tools and are sent after the commit is flushed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/backoff.h"
#include "fault.h"
#include "ingest.h"
#include "ingest_batch.h"
#include "intake.h"
#include "shmem.h"
#include "window_batch.h"
#include "worker.h"

#define IDLE_WAIT_MS		1000
#define CAREFUL_BATCHES		100		/* after a bad message */
#define SUSPECT_AFTER		3		/* equal transient failures: is it one message? */
#define RECHECK_MS			150		/* a try that hangs is begun anew: the library may wait 500 ms */
#define RECHECK_TRIES		30
#define COMMIT_MS			1000	/* that a batch may take: its locks make others wait */
#define FIRST_BATCH			10000	/* messages, before it is known how long they take */
#define LEAST_BATCH			100
#define BATCH_KEPT_BYTES	(8 * 1024 * 1024)
#define MORE_ERRORS			20		/* of the client, behind one that says what is wrong */

/* ---------------------------------------------------------------- looking */

/*
 * The broker does not answer yet.  The library goes on trying; why it fails it
 * tells by events.  It keeps its certificates and passwords, so where those are
 * refused a successor has to read them again.
 */
static void
wait_for_broker(void)
{
	const KafkaError *error = &worker.intake->error;

	if (error->class == KAFKA_AUTHORIZATION)
		stop_for_authorization(error);
	if (error->class == KAFKA_UNKNOWN_TOPIC || error->class == KAFKA_FATAL ||
		error->class == KAFKA_AUTHENTICATION)
		client_failed(error);
	worker_slot_state(worker.slot, WORKER_BACKOFF, backoff_reason(error));
	print_library_log();
	if (wait_for_events(RETRY_BASE_MS))
		reread_definition();
}

/* Events that came instead of the answer: they know better what is wrong. */
static void
look_at_events(void)
{
	KafkaError	asked = worker.intake->error;

	if (intake_fill(worker.intake) != INTAKE_ERROR ||
		worker.intake->error.class == KAFKA_DISCONNECTED)
		worker.intake->error = asked;
}

static void
look_at_partitions(void)
{
	for (int i = 0; i < worker.intake->nparts; i++)
	{
		while (intake_look(worker.intake, i) == INTAKE_ERROR)
		{
			look_at_events();
			wait_for_broker();
		}
	}
	if (worker.intake->nproblems > 0)
		store_problems();
	worker_slot_state(worker.slot, WORKER_RUNNING, NULL);
	if (intake_assign(worker.intake) == INTAKE_ERROR)
		client_failed(&worker.intake->error);
}

/* ---------------------------------------------------------------- the batch */

static void
batch_error_context(void *arg)
{
	errcontext("batch of subscription \"%s\" from topic \"%s\"", worker.sub->name, worker.sub->topic);
}

static bool
is_suspect(void)
{
	return worker.same_failures >= SUSPECT_AFTER && may_be_of_row(worker.failed_state);
}

static void
batch_transaction(bool careful)
{
	Intake	   *intake = worker.intake;
	Batch	   *batch;
	StreamWal	wal;
	int			stopped;

	begin_under_lock();
	set_constraints_immediate();
	MemoryContextSwitchTo(worker.batch_context);
	batch = intake_batch(intake, worker.me.worker);
	batch->suspect = is_suspect();
	apply_batch(batch, careful);
	FAULT_POINT("before_position");
	stopped = intake_store(intake, batch);
	PopActiveSnapshot();
	FAULT_POINT("before_commit");
	CommitTransactionCommand();
	FAULT_POINT("after_commit");
	stream_wal_take(&wal);
	wal.row_bytes = batch->row_bytes;
	worker_slot_commit(worker.slot, intake->nmessages, batch->nrows, intake->bytes, &wal);
	worker.stopped = stopped > 0 || batch->view_stopped;
}

/* The views' memory of their state says more than what is stored now. */
static void
forget_windows(void)
{
	ListCell   *lc;

	foreach(lc, worker.sub->window_views)
		window_forget(lfirst(lc));
}

/* NULL: committed. */
static ErrorData *
try_batch(bool careful)
{
	ErrorContextCallback callback = {.callback = batch_error_context,.previous = error_context_stack};
	ErrorData  *volatile error = NULL;
	IntakeState *before;

	MemoryContextReset(worker.batch_context);
	MemoryContextSwitchTo(worker.batch_context);
	before = intake_save(worker.intake);
	error_context_stack = &callback;
	PG_TRY();
	{
		batch_transaction(careful);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(worker.batch_context);
		error = CopyErrorData();
		/* the first try's error is the careful one's to report */
		if (careful || classify_error(error->sqlerrcode) == ERROR_TRANSIENT)
			EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		intake_restore(worker.intake, before);
		forget_windows();
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(worker.batch_context);
	return error;
}

static void
batch_committed(void)
{
	TimestampTz now = GetCurrentTimestamp();

	worker.last_commit = now;
	worker.failures = 0;
	worker.same_failures = 0;
	if (worker.careful > 0)
		worker.careful--;
	worker.group_behind = true;
	worker.group_lsn = XactLastCommitEnd;
	intake_release(worker.intake);
	pgstat_report_stat(false);
}

/*
 * The next batch is such that it takes about half of the time that a batch may hold
 * its locks: smaller where this one was slow (triggers, many indexes, sessions), larger
 * where it was full and quick.
 */
static void
adapt_batch(TimestampTz start)
{
	Intake	   *intake = worker.intake;
	long		ms = Max(1, TimestampDifferenceMilliseconds(start, GetCurrentTimestamp()));
	double		fitting = (double) intake->nmessages * COMMIT_MS / 2 / ms;

	if (ms > COMMIT_MS)
		intake->limit = Max(fitting, Min(LEAST_BATCH, intake->max_messages));
	else if (ms < COMMIT_MS / 2 && intake->nmessages >= intake->limit)
		intake->limit = Min(Max(fitting, intake->limit), intake->max_messages);
}

/* Wait before the same batch is tried again; the definition may change meanwhile. */
static void
back_off(const ErrorData *error)
{
	TimestampTz until;

	worker.failures++;
	worker.same_failures = error->sqlerrcode == worker.failed_state ? worker.same_failures + 1 : 1;
	worker.failed_state = error->sqlerrcode;
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										backoff_delay(worker.failures, RETRY_BASE_MS, RETRY_MAX_MS, MyProcPid));
	worker_slot_retry(worker.slot);
	worker_slot_error(worker.slot, error->message);
	worker_slot_backoff(worker.slot, error->message, until);
	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		long		ms = (until - GetCurrentTimestamp()) / 1000;

		if (ms <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		check_signals();
		reread_definition();
	}
}

/*
 * The library goes on by itself after a fetch that failed, also where the topic was
 * deleted and made anew meanwhile.  Only a new look can tell: nothing that was
 * taken after the failure may be stored, and it is told before what came after.
 */
static void
check_fetches(void)
{
	print_library_log();
	if (!kafka_fetch_failed(worker.client))
		return;
	ereport(LOG,
			(errmsg("subscription \"%s\" looks at its topic again: a fetch was refused",
					worker.sub->name)));
	leave_to_retry("a fetch was refused: the topic or its leader has changed", RETRY_BASE_MS);
}

/*
 * Read the last stored message of a partition again, now that a batch that came
 * after a silence is here: the log that it came from must be the one that we know.
 */
static void
recheck_partition(IntakePartition *p)
{
	KafkaPlace	place = {p->pos.part, p->pos.last_offset};
	KafkaRecord record;
	KafkaError	error;

	if (worker.verifier == NULL)
		worker.verifier = open_client(bound_to_one, false);
	for (int tries = 0; tries < RECHECK_TRIES; tries++)
	{
		check_signals();
		if (kafka_reread(worker.verifier, worker.sub->topic, &place, &record, RECHECK_MS, &error))
		{
			if (!intake_recheck(p, &record))
				leave_to_reload();	/* the next look finds the same, and stops */
			return;
		}
		if (error.class != KAFKA_TIMED_OUT && error.class != KAFKA_DISCONNECTED)
			break;
	}
	/* also where retention has passed it: the look knows what that means */
	client_failed(&error);
}

static void
recheck_partitions(void)
{
	for (int i = 0; i < worker.intake->nparts; i++)
		if (worker.intake->parts[i].recheck && worker.intake->parts[i].fetching)
			recheck_partition(&worker.intake->parts[i]);
}

/* More messages for the batch in hand; problems are for after its commit. */
static void
take_neighbours(void)
{
	KafkaError	error;

	if (intake_fill(worker.intake) == INTAKE_ERROR)
	{
		error = worker.intake->error;
		client_failed(&error);
	}
	check_fetches();
	recheck_partitions();
}

static void
run_batch(void)
{
	FAULT_POINT("after_poll");
	check_fetches();
	recheck_partitions();
	pgstat_report_activity(STATE_RUNNING, "storing a batch");
	for (;;)
	{
		bool		careful = worker.careful > 0 || is_suspect();
		TimestampTz start = GetCurrentTimestamp();
		ErrorData  *error = try_batch(careful);

		if (error == NULL)
		{
			adapt_batch(start);
			batch_committed();
			if (worker.stopped)
				leave_to_reload();
			if (worker.intake->nproblems > 0)
				store_problems();
			break;
		}
		/* the fence: another owner has moved a position; no retry helps, read them again */
		if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
			leave_to_retry(error->message, RETRY_MAX_MS);
		if (classify_error(error->sqlerrcode) == ERROR_TRANSIENT)
		{
			back_off(error);
			if (is_suspect())
				take_neighbours();
		}
		else if (!careful)
			worker.careful = CAREFUL_BATCHES;
		else
			stop_for_error(error, false);
	}
	pgstat_report_activity(STATE_IDLE, NULL);
	watch_event_time(GetCurrentTimestamp());
	publish_status(true);
}

/*
 * ms until the batch in hand is due; 0 now, -1 there is none.  Behind: when it is
 * full or batch_wait old.  Caught up: at once, but not more often than batch_wait,
 * so that a steady trickle does not become a commit a message.
 */
static long
batch_due(IntakeResult result)
{
	Intake	   *intake = worker.intake;
	TimestampTz due;
	TimestampTz now;

	if (!intake_has_work(intake))
		return -1;
	if (result == INTAKE_FULL)
		return 0;
	now = GetCurrentTimestamp();
	due = worker.last_commit + worker.sub->batch_wait;
	if (intake->nmessages > 0 && !intake_at_end(intake))
		due = intake->first_taken + worker.sub->batch_wait;
	return due <= now ? 0 : (due - now + 999) / 1000;
}

/* ---------------------------------------------------------------- main */

/*
 * Before an answer that cannot be read: what came before it is good, and would be
 * read in vain again and again.  An error of the client is told ahead of messages
 * that came earlier, so they are still to be taken.
 */
static void
take_the_rest(void)
{
	for (int errors = 0; errors < MORE_ERRORS;)
	{
		IntakeResult result = intake_fill(worker.intake);

		if (result == INTAKE_ERROR)
			errors++;
		else if (result == INTAKE_FULL)
			run_batch();
		else
			break;
	}
	if (intake_has_work(worker.intake))
		run_batch();
}

static void
turn(void)
{
	IntakeResult result;
	long		wait;
	TimestampTz now;

	MemoryContextSwitchTo(worker.batch_context);
	check_signals();
	result = intake_fill(worker.intake);
	if (result == INTAKE_PROBLEM)
	{
		/* what came before the problems is good */
		if (intake_has_work(worker.intake))
			run_batch();
		store_problems();
	}
	if (result == INTAKE_ERROR)
	{
		KafkaError	error = worker.intake->error;

		if (error.class == KAFKA_UNREADABLE)
		{
			take_the_rest();
			find_unreadable();
		}
		client_failed(&error);
	}
	wait = batch_due(result);
	if (wait == 0)
	{
		run_batch();
		return;
	}
	now = GetCurrentTimestamp();
	commit_to_group(now);
	check_fetches();
	check_topic(now);
	watch_event_time(now);
	publish_status(false);
	if (wait < 0)
		pgstat_report_stat(false);
	if (wait_for_events(wait < 0 ? IDLE_WAIT_MS : wait) ||
		(wait < 0 && now > worker.next_definition_check))
		reread_definition();
}

static void
start_worker(int slot)
{
	worker.slot = slot;
	on_proc_exit(leave_library, (Datum) 0); /* first in, so last to run */
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!worker_slot_attach(slot, &worker.me))
		proc_exit(0);
	before_shmem_exit(leave_slot, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(worker.me.database, InvalidOid, 0);
	pin_settings();
	MemoryContextSwitchTo(TopMemoryContext);
	/* the first block stays when the context is reset, and is not given back to the kernel */
	worker.batch_context = AllocSetContextCreate(TopMemoryContext, "batch",
												 BATCH_KEPT_BYTES, 1024 * 1024, 64 * 1024 * 1024);
	load_definition();
	SetConfigOption("application_name",
					psprintf("pg_kappa %s %d", worker.sub->name, worker.me.worker),
					PGC_USERSET, PGC_S_OVERRIDE);
}

/* All partitions are stopped: nothing to fetch until somebody mends the cause. */
static void
wait_while_stopped(void)
{
	for (int i = 0; i < worker.npositions; i++)
		if (worker.positions[i].stop_word[0] == '\0')
			return;
	if (worker.npositions == 0)
		return;
	worker_slot_state(worker.slot, WORKER_STOPPED, NULL);
	for (;;)
	{
		(void) wait_for_events(DEFINITION_CHECK_MS);
		reread_definition();
	}
}

/*
 * An ERROR outside of any batch: of the server's options, rights, the secrets file.
 * What no retry mends becomes a durable stop; the rest is tried again.
 */
static void
handle_start_error(void)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(TopMemoryContext);
	worker_slot_error(worker.slot, error->message);
	if (worker.positions && classify_error(error->sqlerrcode) != ERROR_TRANSIENT)
		stop_for_error(error, true);
	leave_to_retry(error->message, RETRY_MAX_MS);
}

void
pg_kappa_worker_main(Datum arg)
{
	start_worker(DatumGetInt32(arg));
	PG_TRY();
	{
		load_own_positions();
		wait_while_stopped();
		worker.client = open_client(bound_queue, true);
		worker.intake = make_intake(worker.sub, worker.client, worker.positions, worker.npositions);
		worker.intake->limit = Min(FIRST_BATCH, worker.intake->max_messages);
		look_at_partitions();
		for (;;)
			turn();
	}
	PG_CATCH();
	{
		handle_start_error();
	}
	PG_END_TRY();
}
