/*
 * shmem.h
 *		What the processes of this server tell each other: one slot a worker,
 *		one entry a partition.  Only numbers, process ids and short texts: nothing
 *		that is local to a process.
 *
 * Lives in the main shared memory, so only with shared_preload_libraries; all
 * functions work without it (they do nothing, or find nothing).  The truth is in
 * the tables; whatever stands here may be lost at any time.
 *
 * Locks: one LWLock guards the slots' and entries' existence (who owns which);
 * a slot's numbers are written by its worker alone under the slot's spinlock.
 */
#ifndef KAPPA_SHMEM_H
#define KAPPA_SHMEM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "stream_wal.h"

typedef enum WorkerState
{
	WORKER_WAITING,				/* wanted, no process yet */
	WORKER_STARTING,
	WORKER_RUNNING,
	WORKER_IDLE,				/* everything read */
	WORKER_BACKOFF,				/* failed, waits for next_retry */
	WORKER_STOPPED				/* all its partitions are stopped */
} WorkerState;

#define WORKER_REASON_SIZE	256

/* Counters since the slot was made; ms are float8 as in pg_stat views. */
typedef struct WorkerStats
{
	int64		messages;
	int64		rows;
	int64		bytes;
	int64		batches;
	StreamWal	wal;			/* of all that the worker did */
	int64		retries;
	double		rows_per_s;		/* over the last seconds */
	TimestampTz last_commit_time;
} WorkerStats;

/* A copy of a slot, as the views and the launcher read it. */
typedef struct WorkerSlot
{
	Oid			database;
	int32		subscription;
	int			worker;			/* 0 .. workers-1 */
	int			pid;			/* 0: none */
	WorkerState state;
	char		reason[WORKER_REASON_SIZE];
	char		last_error[WORKER_REASON_SIZE];
	TimestampTz since;			/* of the state */
	TimestampTz next_retry;		/* 0: none */
	int			failures;		/* in a row */
	WorkerStats stats;
} WorkerSlot;

/* What the views show of a partition between commits. */
typedef struct PartitionStatus
{
	int64		high_watermark;	/* -1 unknown */
	int64		end_offset;		/* last end seen: read_committed position, -1 */
	TimestampTz end_seen;		/* when */
	TimestampTz last_arrival;	/* of a message, or of the end */
	TimestampTz idle_proved;	/* when the broker last said that nothing stands behind end_offset; 0: not so */
	bool		idle;
} PartitionStatus;

extern int	kappa_max_workers;
extern int	kappa_max_partitions;

extern void shmem_register(void);	/* from _PG_init, when preloaded */
extern bool shmem_available(void);

/* All slots of a database (copied, palloc'd), NULL and 0 without shared memory. */
extern WorkerSlot *worker_slots(Oid database, int *n);
extern bool partition_status(Oid database, int32 subscription, int32 part,
							 PartitionStatus *status);

/* ---- for the background processes (ingest_bgw.c) ---- */

/*
 * The launcher's side: attach (and be woken by notify_at_commit), take the next
 * database somebody asked to be looked at, the number of slots, one slot's copy,
 * and what becomes of a slot.
 */
extern void launcher_attach(void);
extern void set_lacks_process(bool lacks);
extern bool lacks_process(void);
extern bool next_database_request(Oid *database);
extern int	worker_slot_count(void);
extern bool worker_slot(int index, WorkerSlot *copy);
extern void worker_slot_died(int index, const char *reason, TimestampTz next_retry);
extern void worker_slot_waits(int index, const char *reason, TimestampTz next_retry);

/* A subscription whose workers shall run, with their number */
typedef struct SubscriptionWorkers
{
	int32		id;
	int			workers;
	char		name[NAMEDATALEN * 2];
} SubscriptionWorkers;

/*
 * The scout's side: the slots of a database shall be these (a List of
 * SubscriptionWorkers); returns how many found no slot.
 */
extern int	want_workers(Oid database, List *subscriptions);
extern void request_database(Oid database);

/*
 * Databases that a scout found the extension in; the launcher looks at them again,
 * sooner at those with another version than ours.  The first returns true where
 * that version is news, the second where it has requested any.
 */
extern bool remember_database(Oid database, bool installed, bool other_version);
extern bool request_known_databases(bool all);

/* A worker's own slot. */
extern bool worker_slot_attach(int index, WorkerSlot *copy);
extern void worker_slot_state(int index, WorkerState state, const char *reason);
extern void worker_slot_error(int index, const char *error);
extern void worker_slot_detach(int index, WorkerState state, const char *reason,
							   TimestampTz next_retry);
extern void worker_slot_release(int index);
extern void worker_slot_commit(int index, int64 messages, int64 rows, int64 bytes,
							   const StreamWal *wal);
extern void worker_slot_wal(int index, const StreamWal *wal);
extern void worker_slot_retry(int index);
extern void worker_slot_backoff(int index, const char *reason, TimestampTz next_retry);

extern void set_partition_status(Oid database, int32 subscription, int32 part,
								 const PartitionStatus *status);

/* ---- for everybody ---- */

/*
 * Ask the launcher to look at this database again, and this subscription's
 * workers to re-read their definition, once this transaction has committed.
 */
extern void notify_at_commit(int32 subscription);

#endif
