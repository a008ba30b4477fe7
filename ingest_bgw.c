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
 * fails too its partitions are stopped, durably.
 *
 * Crash story: kill this process at any instruction.  Either the transaction is
 * committed, then positions and rows are both there; or it is not, then neither is,
 * and the successor reads the same messages again.  The consumer group's offsets
 * are only for Kafka's tools and are sent after the commit is flushed.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "broker_options.h"
#include "catalog.h"
#include "compat.h"
#include "core/backoff.h"
#include "fault.h"
#include "ingest.h"
#include "ingest_batch.h"
#include "intake.h"
#include "kafka_question.h"
#include "position.h"
#include "shmem.h"
#include "subscription.h"

#define CLOSE_MS			5000	/* for the library to end */
#define IDLE_WAIT_MS		1000
#define DEFINITION_CHECK_MS	3000	/* while nothing comes: is the extension still there? */
#define TOPIC_CHECK_MS		10000	/* new partitions, topic id */
#define GROUP_COMMIT_MS		1000	/* Kafka's own tools see us this fresh */
#define PUBLISH_MS			200		/* live state in shared memory */
#define RETRY_BASE_MS		1000
#define RETRY_MAX_MS		60000
#define RECONNECT_MAX_MS	5000	/* a broker that is back is found this soon */
#define CAREFUL_BATCHES		100		/* after a bad message */
#define LOG_LINES_A_MINUTE	20
#define RECHECK_MS			150		/* a try that hangs is begun anew: the library may wait 500 ms */
#define RECHECK_TRIES		30
#define COMMIT_MS			500		/* that a batch may take: its locks make others wait */
#define FIRST_BATCH			10000	/* messages, before it is known how long they take */
#define LEAST_BATCH			100
#define BATCH_KEPT_BYTES	(8 * 1024 * 1024)
#define PROBE_MS			500		/* for one try to read at an offset */
#define PROBE_TRIES			10
#define PROBE_TOTAL_MS		30000	/* for all looks of one stop */
#define MORE_ERRORS			20		/* of the client, behind one that says what is wrong */
#define MESSAGE_OVERHEAD	400		/* bytes that librdkafka takes for a message */

typedef struct Worker
{
	int			slot;
	WorkerSlot	me;
	Subscription *sub;
	int			known_partitions;	/* of the topic, all workers' */
	int			npositions;		/* our own, as they stood at the start */
	Position   *positions;
	KafkaClient *client;
	KafkaClient *verifier;		/* reads single messages again; NULL: not needed yet */
	Intake	   *intake;
	MemoryContext batch_context;	/* reset before each try of a batch */
	int			careful;		/* batches still to be done with care */
	int			failures;		/* of the batch in hand, in a row */
	bool		stopped;		/* the last commit stopped a partition */
	TimestampTz last_commit;
	TimestampTz next_topic_check;
	TimestampTz next_definition_check;
	TimestampTz next_publish;
	TimestampTz next_group_commit;
	XLogRecPtr	group_lsn;		/* the group may know what is flushed to here */
	bool		group_behind;
	TimestampTz log_minute;
	int			log_lines;
} Worker;

static Worker worker;

/* ---------------------------------------------------------------- leaving */

/*
 * The very last callback: by now nothing of the server's is in use.  If the
 * library's threads do not end in time, we must not run libc's exit handlers
 * beside them.
 */
static void
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

/* Ended without a word (terminated, or an ERROR out of the loop). */
static void
leave_slot(int code, Datum arg)
{
	WorkerSlot	slot;

	if (!worker_slot(worker.slot, &slot) || slot.pid != MyProcPid)
		return;
	worker_slot_detach(worker.slot, WORKER_BACKOFF, code == 0 ? "terminated" : slot.last_error,
					   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   backoff_delay(slot.failures + 1, RETRY_BASE_MS,
																 RETRY_MAX_MS, MyProcPid)));
}

/* The definition has changed: the successor reads the new one, if any wants it. */
static void
leave_to_reload(void)
{
	worker_slot_detach(worker.slot, WORKER_WAITING, NULL, 0);
	proc_exit(0);
}

static void
leave_unwanted(void)
{
	if (worker.sub)
		forget_partitions(MyDatabaseId, worker.me.subscription);
	worker_slot_release(worker.slot);
	proc_exit(0);
}

/* Something outside must change first; try again after a while. */
static void
leave_to_retry(const char *reason, int max_ms)
{
	WorkerSlot	slot = {0};

	(void) worker_slot(worker.slot, &slot);
	worker_slot_detach(worker.slot, WORKER_BACKOFF, reason,
					   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   backoff_delay(slot.failures + 1, RETRY_BASE_MS,
																 max_ms, MyProcPid)));
	proc_exit(0);
}

/* ---------------------------------------------------------------- waiting */

static void
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

/* What the library has to say goes to the server's log, a few lines a minute. */
static void
print_library_log(void)
{
	TimestampTz now = GetCurrentTimestamp();
	char		line[512];
	int			level;

	if (now - worker.log_minute > USECS_PER_MINUTE)
	{
		worker.log_minute = now;
		worker.log_lines = 0;
	}
	while (kafka_next_log(worker.client, &level, line, sizeof(line)))
		if (worker.log_lines++ < LOG_LINES_A_MINUTE)
			ereport(level <= 4 ? LOG : DEBUG1,
					(errmsg("Kafka client of subscription \"%s\": %s", worker.sub->name, line)));
}

/* The one wait.  True: the latch was set, somebody wants something. */
static bool
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

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Begin a transaction that may change what belongs to the subscription: under its
 * lock, with a snapshot taken behind it, and only while our definition stands.
 */
static void
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

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Woken while nothing came: is it us whom a control function means?  DROP
 * and ALTER EXTENSION wake nobody, so we look from time to time as well.
 */
static void
reread_definition(void)
{
	bool		stands;

	worker.next_definition_check = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															   DEFINITION_CHECK_MS);
	begin();
	stands = subscription_generation(worker.me.subscription) == worker.sub->generation;
	commit();
	if (!stands)
		leave_to_reload();
}

static void
load_definition(void)
{
	MemoryContext old;

	CatalogState state;

	begin();
	old = MemoryContextSwitchTo(TopMemoryContext);
	state = catalog_state();
	if (state == CATALOG_READY)
		worker.sub = subscription_by_id(worker.me.subscription, true);
	MemoryContextSwitchTo(old);
	commit();
	/* the launcher shall know, so as to look for the next ALTER EXTENSION */
	if (state == CATALOG_OTHER_VERSION)
		request_database(MyDatabaseId);
	if (worker.sub == NULL || !worker.sub->enabled || worker.sub->foreign_identity ||
		worker.me.worker >= worker.sub->workers)
		leave_unwanted();
}

/* ---------------------------------------------------------------- starting */

static void
load_own_positions(void)
{
	Position   *all;
	int			nall;
	MemoryContext old;

	begin();
	old = MemoryContextSwitchTo(TopMemoryContext);
	all = load_positions(worker.sub->id, -1, 1, &nall);
	worker.known_partitions = nall > 0 ? all[nall - 1].part + 1 : 0;
	worker.positions = load_positions(worker.sub->id, worker.me.worker, worker.sub->workers,
									  &worker.npositions);
	MemoryContextSwitchTo(old);
	commit();
}

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
static void
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
static void
bound_to_one(BrokerSettings *settings)
{
	add_setting(settings, "queued.min.messages", 1);
	add_setting(settings, "queued.max.messages.kbytes", 1024);
	add_setting(settings, "fetch.message.max.bytes", 4096);
	bound_answers(settings);
}

static void client_failed(const KafkaError *error);

static KafkaClient *
open_client(void (*bound) (BrokerSettings *settings), bool group)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "Kafka settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	BrokerSettings *settings;
	KafkaClient *client;
	KafkaError	error;
	char	   *group_id = NULL;

	begin();
	old = MemoryContextSwitchTo(context);
	settings = broker_settings(worker.sub->server, worker.sub->owner, worker.sub->options);
	if (group)
		group_id = psprintf("pg.%s.%s", get_database_name(MyDatabaseId), worker.sub->name);
	bound(settings);
	MemoryContextSwitchTo(old);
	commit();
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

/* ---------------------------------------------------------------- stops */

/*
 * Durable, in a transaction of its own.  The other partitions go on, in a process
 * that does not fetch the stopped one: the caller ends with leave_to_reload.
 */
static void
store_stop(int32 part, const char *word, int64 from, int64 to, const char *detail)
{
	begin_under_lock();
	stop_partition(worker.sub, part, word, from, to, detail);
	commit();
	worker_slot_error(worker.slot, psprintf("%s: partition %d, offsets [%lld, %lld): %s", word, part,
											(long long) from, (long long) to, detail));
}

/*
 * Can the message at the offset, or the next one behind it, be read?  An answer that
 * was still on its way may break the connection for another offset than ours: so no
 * is what is said twice, or never anything else.
 */
static bool
readable_at(int32 part, int64 offset)
{
	KafkaPlace	place = {part, offset};
	KafkaRecord record;
	KafkaError	error;
	int			unreadable = 0;

	if (worker.verifier == NULL)
		worker.verifier = open_client(bound_to_one, false);
	for (int tries = 0; tries < PROBE_TRIES && unreadable < 2; tries++)
	{
		check_signals();
		if (kafka_reread(worker.verifier, worker.sub->topic, &place, &record, PROBE_MS, &error))
			return true;
		unreadable += error.class == KAFKA_UNREADABLE;
	}
	return false;
}

/*
 * Where reading can go on behind what cannot be read: messages come in batches that
 * are readable as a whole or not at all.  Steps that double, then halving; as far as
 * the time allows, for the stop must be told soon.
 */
static int64
readable_again(int32 part, int64 from)
{
	IntakePartition *p = intake_partition(worker.intake, part);
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PROBE_TOTAL_MS);
	int64		bad = from;
	int64		good = Max(p->high_watermark, from + 1);

	for (int64 step = 1; from + step < good && GetCurrentTimestamp() < until; step *= 2)
	{
		if (readable_at(part, from + step))
			good = from + step;
		else
			bad = from + step;
	}
	while (good - bad > 1 && GetCurrentTimestamp() < until)
	{
		int64		middle = bad + (good - bad) / 2;

		if (readable_at(part, middle))
			good = middle;
		else
			bad = middle;
	}
	return good - bad > 1 ? bad + 1 : good;
}

static void
store_problems(void)
{
	for (int i = 0; i < worker.intake->nproblems; i++)
	{
		IntakeProblem *p = &worker.intake->problems[i];

		if (strcmp(p->word, "unverified") == 0)
		{
			begin_under_lock();
			forget_last_message(worker.sub->id, p->part);
			commit();
			continue;
		}
		if (strcmp(p->word, "poison") == 0)
			p->to = readable_again(p->part, p->from);
		store_stop(p->part, p->word, p->from, p->to, p->detail);
	}
	leave_to_reload();
}

static const char *
stop_word(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION))
		return "rights";
	return "schema";
}

/*
 * No retry helps: all our partitions stop, or only those with something in hand
 * (the others may have nothing that is wrong).
 */
static void
stop_for_error(const ErrorData *error, bool all)
{
	char	   *detail = psprintf("%s: %s%s%s", unpack_sql_state(error->sqlerrcode), error->message,
								  error->detail ? " " : "", error->detail ? error->detail : "");

	for (int i = 0; i < worker.npositions; i++)
	{
		int64		from = worker.positions[i].next_offset;
		int64		to = from;

		if (worker.intake)
		{
			from = worker.intake->parts[i].pos.next_offset;
			to = worker.intake->parts[i].expected;
		}
		if (worker.positions[i].stop_word[0] == '\0' && (all || to > from))
			store_stop(worker.positions[i].part, stop_word(error), from, to, detail);
	}
	leave_to_reload();
}

static void
stop_for_authorization(const KafkaError *error)
{
	for (int i = 0; i < worker.npositions; i++)
		if (worker.positions[i].stop_word[0] == '\0')
			store_stop(worker.positions[i].part, "rights", worker.intake->parts[i].pos.next_offset,
					   worker.intake->parts[i].pos.next_offset,
					   psprintf("the broker refuses to let us read the topic: %s", error->text));
	leave_to_reload();
}

/* ---------------------------------------------------------------- errors of the client */

/*
 * The connection ended at an answer that we do not take: a batch of messages larger
 * than receive_message_max_bytes.  Which partition's, only asking for each can tell.
 */
static void
find_unreadable(void)
{
	Intake	   *intake = worker.intake;

	for (int i = 0; i < intake->nparts; i++)
	{
		IntakePartition *p = &intake->parts[i];

		if (p->fetching && (p->verifying || p->high_watermark > p->expected) &&
			!readable_at(p->pos.part, p->verifying ? p->pos.last_offset : p->expected))
			intake_unreadable(intake, p->pos.part,
							  "54000: the messages are larger than receive_message_max_bytes allows");
	}
	if (intake->nproblems > 0)
		store_problems();
}

/*
 * A question about the partitions of a topic that we may not see is answered by the
 * library alone: it knows of none.  Why so it says only when asked about the topic.
 */
static void
stop_if_topic_denied(void)
{
	KafkaError	error;
	KafkaMetadata *metadata = kafka_metadata(worker.client, worker.sub->topic, 500, &error);

	if (metadata == NULL)
		return;
	error.class = metadata->ntopics == 1 ? metadata->topics[0].error : KAFKA_OK;
	kafka_free_metadata(metadata);
	if (error.class != KAFKA_AUTHORIZATION)
		return;
	strlcpy(error.text, "Topic authorization failed", sizeof(error.text));
	stop_for_authorization(&error);
}

/* A backoff's reason begins with the step that fails, as kappa.check_server calls it. */
static const char *
backoff_reason(const KafkaError *error)
{
	if (error->class == KAFKA_DISCONNECTED || error->class == KAFKA_TIMED_OUT)
		return "disconnected";
	if (kafka_error_of_tls(error))
		return psprintf("tls: %s", error->text);
	if (error->class == KAFKA_AUTHENTICATION)
		return psprintf("authentication: %s", error->text);
	return error->text;
}

static void
client_failed(const KafkaError *error)
{
	if (worker.client)
		print_library_log();
	ereport(LOG,
			(errmsg("subscription \"%s\" lost its Kafka client: %s", worker.sub->name, error->text)));
	worker_slot_error(worker.slot, error->text);
	switch (error->class)
	{
		case KAFKA_DISCONNECTED:
		case KAFKA_TIMED_OUT:
			leave_to_retry(backoff_reason(error), RECONNECT_MAX_MS);
			break;
		case KAFKA_AUTHORIZATION:
			stop_for_authorization(error);
			break;
		case KAFKA_UNKNOWN_TOPIC:
			stop_if_topic_denied();
			leave_to_retry("the topic does not exist", RETRY_MAX_MS);
			break;
		case KAFKA_OUT_OF_RANGE:
			leave_to_retry("offset out of range", RETRY_BASE_MS);
			break;
		default:
			leave_to_retry(backoff_reason(error), RETRY_MAX_MS);
	}
}

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

/* ---------------------------------------------------------------- the topic */

/* Another id than the stored one: deleted and made anew. */
static void
check_topic_id(void)
{
	char		id[64];
	KafkaError	error;

	if (worker.sub->topic_id == NULL ||
		!kafka_topic_id(worker.client, worker.sub->topic, id, sizeof(id), 500, &error) ||
		strcmp(id, worker.sub->topic_id) == 0)
		return;
	for (int i = 0; i < worker.intake->nparts; i++)
	{
		IntakePartition *p = &worker.intake->parts[i];

		if (p->fetching)
			store_stop(p->pos.part, "recreated", p->pos.next_offset, p->pos.next_offset,
					   "the topic has another id: it was deleted and made anew");
	}
	leave_to_reload();
}

/* Rows for partitions that the topic has got since; they start at their first message. */
static void
add_partitions(int npartitions)
{
	int			added = 0;

	for (int32 part = worker.known_partitions; part < npartitions; part++)
	{
		int64_t		low;
		int64_t		high;
		KafkaError	error;

		if (part % worker.sub->workers != worker.me.worker)
			continue;
		if (!kafka_offsets(worker.client, worker.sub->topic, part, &low, &high, 500, &error))
			return;
		begin_under_lock();
		add_position(worker.sub->id, part, low);
		commit();
		added++;
	}
	if (added > 0)
		leave_to_reload();
	worker.known_partitions = npartitions;
}

static void
check_topic(TimestampTz now)
{
	KafkaMetadata *metadata;
	KafkaError	error;
	int			npartitions = 0;

	if (now < worker.next_topic_check)
		return;
	worker.next_topic_check = TimestampTzPlusMilliseconds(now, TOPIC_CHECK_MS);
	metadata = kafka_metadata(worker.client, worker.sub->topic, 500, &error);
	if (metadata == NULL)
		return;
	if (metadata->ntopics == 1)
		npartitions = metadata->topics[0].partitions;
	kafka_free_metadata(metadata);
	if (npartitions > worker.known_partitions)
		add_partitions(npartitions);
	check_topic_id();
}

/* ---------------------------------------------------------------- being seen */

static bool
open_transaction_ahead(const IntakePartition *p, TimestampTz now)
{
	return p->fetching && p->at_end && p->high_watermark > p->expected &&
		now - p->end_seen > USECS_PER_SEC;
}

static void
publish_partition(IntakePartition *p, TimestampTz now)
{
	PartitionStatus status;
	int64_t		low;
	int64_t		high;

	kafka_cached_offsets(worker.client, worker.sub->topic, p->pos.part, &low, &high);
	if (high >= 0)
		p->high_watermark = high;
	status.high_watermark = p->high_watermark;
	status.end_offset = p->at_end ? p->expected : -1;
	status.end_seen = p->end_seen;
	status.idle = p->fetching && p->at_end && now - p->end_seen > worker.sub->idle_timeout;
	set_partition_status(MyDatabaseId, worker.sub->id, p->pos.part, &status);
}

static void
publish_state(TimestampTz now)
{
	Intake	   *intake = worker.intake;
	char	   *reason = NULL;

	for (int i = 0; i < intake->nparts; i++)
		if (reason == NULL && open_transaction_ahead(&intake->parts[i], now))
			reason = psprintf("open transaction at offset %lld",
							  (long long) intake->parts[i].expected);
	if (intake_at_end(intake) && !intake_has_work(intake))
		worker_slot_state(worker.slot, WORKER_IDLE, reason);
	else
		worker_slot_state(worker.slot, WORKER_RUNNING, NULL);
	if (reason)
		pfree(reason);
}

static void
publish(bool now_please)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < worker.next_publish && !now_please)
		return;
	worker.next_publish = TimestampTzPlusMilliseconds(now, PUBLISH_MS);
	for (int i = 0; i < worker.intake->nparts; i++)
		publish_partition(&worker.intake->parts[i], now);
	publish_state(now);
}

/* Offsets to the consumer group, once the commit that they stand for is flushed. */
static void
commit_to_group(TimestampTz now)
{
	KafkaPlace *places;

	if (!worker.group_behind || now < worker.next_group_commit ||
		GetFlushRecPtr(NULL) < worker.group_lsn)
		return;
	places = palloc(sizeof(KafkaPlace) * Max(worker.intake->nparts, 1));
	for (int i = 0; i < worker.intake->nparts; i++)
	{
		places[i].part = worker.intake->parts[i].pos.part;
		places[i].offset = worker.intake->parts[i].pos.next_offset;
	}
	kafka_commit(worker.client, worker.sub->topic, places, worker.intake->nparts);
	pfree(places);
	worker.group_behind = false;
	worker.next_group_commit = TimestampTzPlusMilliseconds(now, GROUP_COMMIT_MS);
}

/* ---------------------------------------------------------------- the batch */

static void
batch_error_context(void *arg)
{
	errcontext("batch of subscription \"%s\" from topic \"%s\"", worker.sub->name, worker.sub->topic);
}

static void
batch_transaction(bool careful)
{
	Intake	   *intake = worker.intake;
	Batch	   *batch;
	WalUsage	wal_start = pgWalUsage;
	WalUsage	wal = {0};
	int			stopped;

	begin_under_lock();
	set_constraints_immediate();
	MemoryContextSwitchTo(worker.batch_context);
	batch = make_batch(worker.sub, intake->messages, intake->nmessages);
	apply_batch(batch, careful);
	FAULT_POINT("before_position");
	stopped = intake_store(intake, batch);
	PopActiveSnapshot();
	FAULT_POINT("before_commit");
	CommitTransactionCommand();
	FAULT_POINT("after_commit");
	WalUsageAccumDiff(&wal, &pgWalUsage, &wal_start);
	worker_slot_commit(worker.slot, intake->nmessages, batch->nrows, intake->bytes, wal.wal_bytes);
	worker.stopped = stopped > 0;
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
	if (worker.careful > 0)
		worker.careful--;
	worker.group_behind = true;
	worker.group_lsn = XactLastCommitEnd;
	intake_release(worker.intake);
	pgstat_report_stat(false);
}

/*
 * The next batch is smaller where this one has held its locks for too long (slow
 * triggers, many indexes), larger where it was full and quick.
 */
static void
adapt_batch(TimestampTz start)
{
	Intake	   *intake = worker.intake;
	long		ms = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

	if (ms > COMMIT_MS)
		intake->limit = Max(intake->nmessages / 2, Min(LEAST_BATCH, intake->max_messages));
	else if (ms < COMMIT_MS / 4 && intake->nmessages >= intake->limit)
		intake->limit = Min(intake->limit * 2, intake->max_messages);
}

/* Wait before the same batch is tried again; the definition may change meanwhile. */
static void
back_off(const ErrorData *error)
{
	TimestampTz until;

	worker.failures++;
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

static void
run_batch(void)
{
	FAULT_POINT("after_poll");
	check_fetches();
	recheck_partitions();
	pgstat_report_activity(STATE_RUNNING, "storing a batch");
	for (;;)
	{
		bool		careful = worker.careful > 0;
		TimestampTz start = GetCurrentTimestamp();
		ErrorData  *error = try_batch(careful);

		if (error == NULL)
		{
			adapt_batch(start);
			batch_committed();
			if (worker.stopped)
				leave_to_reload();
			break;
		}
		/* the fence: another owner has moved a position; no retry helps, read them again */
		if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE)
			leave_to_retry(error->message, RETRY_MAX_MS);
		if (classify_error(error->sqlerrcode) == ERROR_TRANSIENT)
			back_off(error);
		else if (!careful)
			worker.careful = CAREFUL_BATCHES;
		else
			stop_for_error(error, false);
	}
	pgstat_report_activity(STATE_IDLE, NULL);
	publish(true);
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
		return;
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
	publish(false);
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
