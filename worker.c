/*
 * worker.c
 *		What all parts of a worker's process share: how it ends, how it waits, its
 *		transactions, its definition and its clients.
 *
 * Whoever leaves tells the slot first when the launcher may start a successor:
 * at once (another definition), after a while (something outside must change), or
 * never (nobody wants this worker).
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "broker_options.h"
#include "catalog.h"
#include "core/backoff.h"
#include "fault.h"
#include "ingest.h"
#include "shmem.h"
#include "window_view.h"
#include "worker.h"

#define CLOSE_MS			5000	/* for the library to end */
#define LOG_LINES_A_MINUTE	20
#define MESSAGE_OVERHEAD	400		/* bytes that librdkafka takes for a message */

Worker		worker;

/* ---------------------------------------------------------------- leaving */

/*
 * The very last callback: by now nothing of the server's is in use.  If the
 * library's threads do not end in time, we must not run libc's exit handlers
 * beside them.
 */
void
leave_library(int code, Datum arg)
{
	bool		closed = true;

	if (worker.verifier)
		closed = kafka_close(worker.verifier, CLOSE_MS / 2);
	if (worker.client)
		closed = kafka_close(worker.client, closed ? CLOSE_MS : CLOSE_MS / 2) && closed;
	if (!closed)
		_exit(code);
	worker.verifier = worker.client = NULL;
}

/* What was written without a batch's commit */
void
publish_wal(void)
{
	StreamWal	wal;

	stream_wal_take(&wal);
	worker_slot_wal(worker.slot, &wal);
}

/* Ended without a word (terminated, or an ERROR out of the loop). */
void
leave_slot(int code, Datum arg)
{
	WorkerSlot	slot;

	if (!worker_slot(worker.slot, &slot) || slot.pid != MyProcPid)
		return;
	publish_wal();
	worker_slot_detach(worker.slot, WORKER_BACKOFF, code == 0 ? "terminated" : slot.last_error,
					   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   backoff_delay(slot.failures + 1, RETRY_BASE_MS,
																 RETRY_MAX_MS, MyProcPid)));
}

/* The definition has changed: the successor reads the new one, if any wants it. */
void
leave_to_reload(void)
{
	worker_slot_detach(worker.slot, WORKER_WAITING, NULL, 0);
	proc_exit(0);
}

/* A scout that came before the release has counted our slot as a worker's: another look. */
static void
leave_unwanted(void)
{
	FAULT_POINT("before_release");
	worker_slot_release(worker.slot);
	request_database(MyDatabaseId);
	proc_exit(0);
}

/* Something outside must change first; try again after a while. */
void
leave_to_retry(const char *reason, int max_ms)
{
	WorkerSlot	slot = {0};

	FAULT_POINT("before_retry");
	(void) worker_slot(worker.slot, &slot);
	worker_slot_detach(worker.slot, WORKER_BACKOFF, reason,
					   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   backoff_delay(slot.failures + 1, RETRY_BASE_MS,
																 max_ms, MyProcPid)));
	proc_exit(0);
}

/* ---------------------------------------------------------------- waiting */

void
check_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		pin_settings();
	}
}

static void
print_log_of(KafkaClient *client)
{
	char		line[512];
	int			level;

	while (client && kafka_next_log(client, &level, line, sizeof(line)))
		if (worker.log_lines++ < LOG_LINES_A_MINUTE)
			ereport(level <= 4 ? LOG : DEBUG1,
					(errmsg("Kafka client of subscription \"%s\": %s", worker.sub->name, line)));
}

/*
 * What the library has to say goes to the server's log, a few lines a minute.  Its
 * queues hold every line until we take it, also those that nobody asked for.
 */
void
print_library_log(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now - worker.log_minute > USECS_PER_MINUTE)
	{
		worker.log_minute = now;
		worker.log_lines = 0;
	}
	print_log_of(worker.client);
	print_log_of(worker.verifier);
}

/* The one wait.  True: the latch was set, somebody wants something. */
bool
wait_for_events(long ms)
{
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
	int			rc;

	Assert(!IsTransactionState());
	if (worker.client)
		rc = WaitLatchOrSocket(MyLatch, events | WL_SOCKET_READABLE,
							   kafka_wake_fd(worker.client), ms, PG_WAIT_EXTENSION);
	else
		rc = WaitLatch(MyLatch, events, ms, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
		ResetLatch(MyLatch);
	check_signals();
	return (rc & WL_LATCH_SET) != 0;
}

/* ---------------------------------------------------------------- definition */

void
worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Begin a transaction that may change what belongs to the subscription: under its
 * lock, with a snapshot taken behind it, and only while our definition stands.
 */
void
begin_under_lock(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	lock_subscription(worker.me.subscription, SUBSCRIPTION_BATCH_LOCK);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (subscription_generation(worker.me.subscription) == worker.sub->generation)
		return;
	AbortCurrentTransaction();
	leave_to_reload();
}

void
worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Woken while nothing came: is it us whom a control function means?  DROP
 * and ALTER EXTENSION wake nobody, so we look from time to time as well.
 */
void
reread_definition(void)
{
	bool		stands;

	worker.next_definition_check = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															   DEFINITION_CHECK_MS);
	worker_begin();
	stands = subscription_generation(worker.me.subscription) == worker.sub->generation;
	worker_commit();
	if (!stands)
		leave_to_reload();
}

void
load_definition(void)
{
	MemoryContext old;

	CatalogState state;

	worker_begin();
	old = MemoryContextSwitchTo(TopMemoryContext);
	state = catalog_state();
	if (state == CATALOG_READY)
		worker.sub = subscription_by_id(worker.me.subscription, true);
	if (worker.sub)
		worker.sub->window_views = load_window_views(worker.sub->id);
	MemoryContextSwitchTo(old);
	worker_commit();
	/* the launcher shall know, so as to look for the next ALTER EXTENSION */
	if (state == CATALOG_OTHER_VERSION)
		request_database(MyDatabaseId);
	if (worker.sub == NULL || !worker.sub->enabled || worker.sub->foreign_identity ||
		worker.me.worker >= worker.sub->workers)
		leave_unwanted();
}

void
load_own_positions(void)
{
	MemoryContext old;

	worker_begin();
	old = MemoryContextSwitchTo(TopMemoryContext);
	worker.positions = load_positions(worker.sub->id, worker.me.worker, worker.sub->workers,
									  &worker.npositions);
	MemoryContextSwitchTo(old);
	worker_commit();
}

/* ---------------------------------------------------------------- clients */

static void
add_setting(BrokerSettings *settings, const char *name, int64 value)
{
	settings->settings = repalloc(settings->settings,
								  sizeof(KafkaSetting) * (settings->nsettings + 1));
	settings->settings[settings->nsettings].name = name;
	settings->settings[settings->nsettings++].value = psprintf(INT64_FORMAT, value);
}

/*
 * An answer of the broker, and what a batch of messages in it is decompressed to, as
 * far as the library looks at that (zstd): half of the memory, or what the owner says.
 */
static void
bound_answers(BrokerSettings *settings)
{
	static const char name[] = "receive.message.max.bytes";
	int64		most = Min((int64) kappa_worker_memory * 1024 / 2, 256 * 1024 * 1024);

	for (int i = 0; i < settings->nsettings; i++)
		if (strcmp(settings->settings[i].name, name) == 0)
			most = Min(most, atoll(settings->settings[i].value));
	add_setting(settings, name, most);
}

/*
 * What the library fetches ahead, out of kappa.worker_memory.  It counts only the
 * bytes of keys and values, and takes some MESSAGE_OVERHEAD more for each message,
 * so both are bounded: a quarter for bytes, a half for the overhead.
 */
void
bound_queue(BrokerSettings *settings)
{
	int64		messages = (int64) kappa_worker_memory * 1024 / 2 / MESSAGE_OVERHEAD;

	/* all partitions share one queue, and it is the queue that the library counts */
	add_setting(settings, "queued.max.messages.kbytes", kappa_worker_memory / 4);
	add_setting(settings, "queued.min.messages", Max(1000, messages));
	add_setting(settings, "fetch.max.bytes", Min((int64) kappa_worker_memory * 1024 / 8, 16 * 1024 * 1024));
	bound_answers(settings);
}

/* A single message is all that the verifier ever wants. */
void
bound_to_one(BrokerSettings *settings)
{
	add_setting(settings, "queued.min.messages", 1);
	add_setting(settings, "queued.max.messages.kbytes", 1024);
	add_setting(settings, "fetch.message.max.bytes", 4096);
	bound_answers(settings);
}

KafkaClient *
open_client(void (*bound) (BrokerSettings *settings), bool group)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "Kafka settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	BrokerSettings *settings;
	KafkaClient *client;
	KafkaError	error;
	char	   *group_id = NULL;

	worker_begin();
	old = MemoryContextSwitchTo(context);
	settings = broker_settings(worker.sub->server, worker.sub->owner, worker.sub->options);
	if (group)
		group_id = psprintf("pg.%s.%s", get_database_name(MyDatabaseId), worker.sub->name);
	bound(settings);
	MemoryContextSwitchTo(old);
	worker_commit();
	client = kafka_open(settings->settings, settings->nsettings, group_id, &error);
	MemoryContextDelete(context);
	if (client == NULL && kafka_error_of_tls(&error))
		client_failed(&error);
	if (client == NULL)
		ereport(ERROR,
				(errcode(kafka_error_sqlstate(&error)),
				 errmsg("could not make a Kafka client for subscription \"%s\": %s",
						worker.sub->name, error.text)));
	return client;
}
