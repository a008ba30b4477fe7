/*
 * worker.h
 *		The process of a worker, as its own files see it (ingest_bgw.c is its main):
 *		one struct, and what they call of each other.  Everything here runs in the
 *		worker alone.
 */
#ifndef KAPPA_WORKER_H
#define KAPPA_WORKER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "broker_options.h"
#include "compat.h"
#include "intake.h"
#include "kafka_client.h"
#include "position.h"
#include "shmem.h"
#include "subscription.h"

#define DEFINITION_CHECK_MS	3000	/* while nothing comes: is the extension still there? */
#define RETRY_BASE_MS		1000
#define RETRY_MAX_MS		60000

typedef struct Worker
{
	int			slot;
	WorkerSlot	me;
	Subscription *sub;
	int			npositions;		/* our own, as they stood at the start */
	Position   *positions;
	KafkaClient *client;
	KafkaClient *verifier;		/* reads single messages again; NULL: not needed yet */
	Intake	   *intake;
	MemoryContext batch_context;	/* reset before each try of a batch */
	int			careful;		/* batches still to be done with care */
	int			failures;		/* of the batch in hand, in a row */
	int			same_failures;	/* of those, the last ones with one SQLSTATE */
	int			failed_state;	/* that one */
	bool		stopped;		/* the last commit stopped a partition or a window view */
	TimestampTz last_commit;
	TimestampTz next_topic_check;
	TimestampTz next_definition_check;
	TimestampTz next_publish;
	TimestampTz next_group_commit;
	TimestampTz next_watermark;
	XLogRecPtr	group_lsn;		/* the group may know what is flushed to here */
	bool		group_behind;
	TimestampTz log_minute;
	int			log_lines;
} Worker;

extern Worker worker;

/* ---- worker.c ---- */

/* on_proc_exit and before_shmem_exit callbacks */
extern void leave_library(int code, Datum arg);
extern void leave_slot(int code, Datum arg);
extern void publish_wal(void);

/* These end the process. */
pg_noreturn extern void leave_to_reload(void);
pg_noreturn extern void leave_to_retry(const char *reason, int max_ms);

extern void check_signals(void);
extern void print_library_log(void);
extern bool wait_for_events(long ms);

/* Begin a transaction with a snapshot; under_lock: while our definition stands, else leave. */
extern void worker_begin(void);
extern void begin_under_lock(void);
extern void worker_commit(void);

extern void load_definition(void);
extern void load_own_positions(void);
extern void reread_definition(void);

/* bound: what it may fetch ahead. */
extern KafkaClient *open_client(void (*bound) (BrokerSettings *settings), bool group);
extern void bound_queue(BrokerSettings *settings);
extern void bound_to_one(BrokerSettings *settings);

/* ---- worker_stop.c ---- */

extern const char *backoff_reason(const KafkaError *error);
extern void store_stop(int32 part, const char *word, int64 from, int64 to, const char *detail);

/* Returns where no partition of ours turns out to be unreadable. */
extern void find_unreadable(void);

/* These end the process. */
pg_noreturn extern void store_problems(void);
pg_noreturn extern void stop_for_error(const ErrorData *error, bool all);
pg_noreturn extern void stop_for_authorization(const KafkaError *error);
extern void error_of_topic(const KafkaMetadata *metadata, KafkaError *error);
pg_noreturn extern void client_failed(const KafkaError *error);

/* ---- worker_watch.c ---- */

extern void check_topic(TimestampTz now);
extern void commit_to_group(TimestampTz now);

/* Prove partitions idle, and let their verdicts follow the watermark. */
extern void watch_event_time(TimestampTz now);

/* What stat_* views show; a few times a second, or now. */
extern void publish_status(bool now_please);

#endif
