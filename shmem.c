/*
 * shmem.c
 *		Worker slots and partition entries in the server's shared memory.
 *
 * A slot is one wanted worker of one subscription.  A scout (ingest_bgw.c) makes
 * and removes slots to fit the definitions of a database; the launcher starts a
 * process for each; the process writes its own numbers.
 *
 *		free -> WAITING (scout) -> STARTING (launcher) -> RUNNING <-> IDLE (worker)
 *			 -> BACKOFF (worker at exit, or launcher when it died) -> STARTING ...
 *			 -> free (scout, or the worker that finds itself unwanted)
 *
 * Invariants: `used' and the identity (database, subscription, worker) change
 * only under the lock in exclusive mode; a slot with a pid is never freed by
 * another process (it is marked unwanted and its worker leaves).  All else of a
 * slot is guarded by its spinlock.  Partition entries come and go under the lock
 * in exclusive mode, their content is guarded by their spinlock; a subscription's
 * go with its last slot.
 *
 * Lock order: lock, then a spinlock.  Nothing that can raise an ERROR runs under
 * a spinlock.  A crash of any process resets all of it; the launcher then fills
 * it anew from the tables.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "shmem.h"

#define MAX_REQUESTS	64
#define MAX_KNOWN		1024	/* databases with the extension */
#define RATE_WINDOW		(2 * USECS_PER_SEC)	/* rows_per_s is measured over this */

typedef struct SharedSlot
{
	bool		used;			/* lock */
	bool		unwanted;		/* lock: its worker shall leave */
	slock_t		mutex;
	bool		reload;			/* mutex: the definition has changed since its worker attached; false without one */
	WorkerSlot	slot;			/* mutex; identity also lock */
	TimestampTz rate_start;		/* mutex */
	int64		rate_rows;		/* mutex: since rate_start */
} SharedSlot;

typedef struct KnownDatabase
{
	Oid			database;
	bool		other_version;	/* of the extension than ours */
} KnownDatabase;

typedef struct SharedState
{
	LWLock	   *lock;
	int			launcher_pid;	/* lock */
	bool		lacks_process;	/* lock: no background worker process for a scout */
	int			nrequests;		/* lock */
	Oid			requests[MAX_REQUESTS];
	bool		overflow;		/* lock: more requests than fit: look everywhere */
	int			nknown;			/* lock */
	KnownDatabase known[MAX_KNOWN];
	int			nslots;
	SharedSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SharedState;

typedef struct StatusKey
{
	Oid			database;
	int32		subscription;
	int32		part;
} StatusKey;

typedef struct StatusEntry
{
	StatusKey key;
	slock_t		mutex;
	PartitionStatus status;
} StatusEntry;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static SharedState *shared = NULL;
static HTAB *partitions = NULL;

/* subscriptions to notify when this transaction commits */
static List *to_notify = NIL;
static bool callback_registered = false;

static Size
shared_size(void)
{
	return add_size(offsetof(SharedState, slots),
					mul_size(kappa_max_workers, sizeof(SharedSlot)));
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(hash_estimate_size(kappa_max_partitions, sizeof(StatusEntry)));
	RequestNamedLWLockTranche("pg_kappa", 1);
}

static void
init_shared_state(void)
{
	memset(shared, 0, shared_size());
	shared->lock = &GetNamedLWLockTranche("pg_kappa")->lock;
	shared->nslots = kappa_max_workers;
	for (int i = 0; i < shared->nslots; i++)
		SpinLockInit(&shared->slots[i].mutex);
}

static void
startup_shmem(void)
{
	bool		found;
	HASHCTL		info = {0};

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("pg_kappa", shared_size(), &found);
	if (!found)
		init_shared_state();
	info.keysize = sizeof(StatusKey);
	info.entrysize = sizeof(StatusEntry);
	partitions = ShmemInitHash("pg_kappa partitions", kappa_max_partitions,
							   kappa_max_partitions, &info, HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_register(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

bool
shmem_available(void)
{
	return shared != NULL;
}

/* ---------------------------------------------------------------- reading */

static void
copy_slot(SharedSlot *from, WorkerSlot *to)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz rate_start;

	SpinLockAcquire(&from->mutex);
	*to = from->slot;
	rate_start = from->rate_start;
	SpinLockRelease(&from->mutex);
	/* a worker that commits nothing does not refresh its own rate */
	if (now - rate_start > 3 * RATE_WINDOW)
		to->stats.rows_per_s = 0;
}

WorkerSlot *
worker_slots(Oid database, int *n)
{
	WorkerSlot *result;

	*n = 0;
	if (!shared)
		return NULL;
	result = palloc(sizeof(WorkerSlot) * shared->nslots);
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		SharedSlot *slot = &shared->slots[i];

		if (slot->used && slot->slot.database == database)
			copy_slot(slot, &result[(*n)++]);
	}
	LWLockRelease(shared->lock);
	return result;
}

bool
partition_status(Oid database, int32 subscription, int32 part, PartitionStatus *status)
{
	StatusKey key = {database, subscription, part};
	StatusEntry *entry;

	if (!shared)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	entry = hash_search(partitions, &key, HASH_FIND, NULL);
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		*status = entry->status;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(shared->lock);
	return entry != NULL;
}

int
worker_slot_count(void)
{
	return shared ? shared->nslots : 0;
}

bool
worker_slot(int index, WorkerSlot *copy)
{
	bool		wanted;

	LWLockAcquire(shared->lock, LW_SHARED);
	wanted = shared->slots[index].used;
	if (wanted)
		copy_slot(&shared->slots[index], copy);
	LWLockRelease(shared->lock);
	return wanted;
}

/* ---------------------------------------------------------------- launcher */

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher_pid = 0;
	LWLockRelease(shared->lock);
}

void
launcher_attach(void)
{
	before_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher_pid = MyProcPid;
	shared->overflow = true;	/* nothing is known yet: look everywhere */
	LWLockRelease(shared->lock);
}

/* Told by the launcher, shown where a subscription has no slot yet. */
void
set_lacks_process(bool lacks)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->lacks_process = lacks;
	LWLockRelease(shared->lock);
}

bool
lacks_process(void)
{
	bool		lacks = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	lacks = shared->lacks_process;
	LWLockRelease(shared->lock);
	return lacks;
}

/* true with *database invalid: look at every database */
bool
next_database_request(Oid *database)
{
	bool		found = true;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->overflow)
	{
		shared->overflow = false;
		shared->nrequests = 0;
		*database = InvalidOid;
	}
	else if (shared->nrequests > 0)
		*database = shared->requests[--shared->nrequests];
	else
		found = false;
	LWLockRelease(shared->lock);
	return found;
}

static void
set_state(SharedSlot *slot, WorkerState state, const char *reason)
{
	SpinLockAcquire(&slot->mutex);
	if (slot->slot.state != state)
		slot->slot.since = GetCurrentTimestamp();
	slot->slot.state = state;
	strlcpy(slot->slot.reason, reason ? reason : "", WORKER_REASON_SIZE);
	SpinLockRelease(&slot->mutex);
}

void
worker_slot_waits(int index, const char *reason, TimestampTz next_retry)
{
	worker_slot_detach(index, WORKER_WAITING, reason, next_retry);
}

/* Its process ended before it could say a word. */
void
worker_slot_died(int index, const char *reason, TimestampTz next_retry)
{
	worker_slot_detach(index, WORKER_BACKOFF, reason, next_retry);
}

/* ---------------------------------------------------------------- scout */

static SharedSlot *
find_slot(Oid database, int32 subscription, int worker)
{
	for (int i = 0; i < shared->nslots; i++)
	{
		SharedSlot *slot = &shared->slots[i];

		if (slot->used && slot->slot.database == database &&
			slot->slot.subscription == subscription && slot->slot.worker == worker)
			return slot;
	}
	return NULL;
}

static void
forget_partitions(Oid database, int32 subscription)
{
	HASH_SEQ_STATUS scan;
	StatusEntry *entry;

	hash_seq_init(&scan, partitions);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->key.database == database && entry->key.subscription == subscription)
			hash_search(partitions, &entry->key, HASH_REMOVE, NULL);
}

/* Under the lock in exclusive mode. */
static void
give_back(SharedSlot *slot)
{
	slot->used = false;
	slot->slot.pid = 0;
	slot->reload = false;
	for (int i = 0; i < shared->nslots; i++)
		if (shared->slots[i].used && shared->slots[i].slot.database == slot->slot.database &&
			shared->slots[i].slot.subscription == slot->slot.subscription)
			return;
	forget_partitions(slot->slot.database, slot->slot.subscription);
}

static SharedSlot *
free_slot(void)
{
	for (int i = 0; i < shared->nslots; i++)
		if (!shared->slots[i].used)
			return &shared->slots[i];
	return NULL;
}

static void
wake_process(int pid)
{
	PGPROC	   *proc = pid ? BackendPidGetProc(pid) : NULL;

	if (proc)
		SetLatch(&proc->procLatch);
}

static bool
is_wanted(const WorkerSlot *slot, List *subscriptions)
{
	ListCell   *lc;

	foreach(lc, subscriptions)
	{
		SubscriptionWorkers *wanted = lfirst(lc);

		if (wanted->id == slot->subscription)
			return slot->worker < wanted->workers;
	}
	return false;
}

static void
drop_unwanted(Oid database, List *subscriptions)
{
	for (int i = 0; i < shared->nslots; i++)
	{
		SharedSlot *slot = &shared->slots[i];

		if (!slot->used || slot->slot.database != database ||
			is_wanted(&slot->slot, subscriptions))
			continue;
		if (slot->slot.pid == 0 && slot->slot.state != WORKER_STARTING)
			give_back(slot);
		else
		{
			slot->unwanted = true;
			wake_process(slot->slot.pid);
		}
	}
}

static bool
want_worker(Oid database, const SubscriptionWorkers *sub, int worker)
{
	SharedSlot *slot = find_slot(database, sub->id, worker);

	if (slot)
	{
		slot->unwanted = false;
		return true;
	}
	slot = free_slot();
	if (!slot)
		return false;
	memset(&slot->slot, 0, sizeof(WorkerSlot));
	slot->slot.database = database;
	slot->slot.subscription = sub->id;
	slot->slot.worker = worker;
	slot->slot.state = WORKER_WAITING;
	slot->slot.since = GetCurrentTimestamp();
	slot->rate_start = slot->slot.since;
	slot->rate_rows = 0;
	slot->unwanted = false;
	slot->used = true;
	return true;
}

int
want_workers(Oid database, List *subscriptions)
{
	ListCell   *lc;
	int			missing = 0;
	int			launcher;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	drop_unwanted(database, subscriptions);
	foreach(lc, subscriptions)
	{
		SubscriptionWorkers *sub = lfirst(lc);

		for (int worker = 0; worker < sub->workers; worker++)
			missing += !want_worker(database, sub, worker);
	}
	launcher = shared->launcher_pid;
	LWLockRelease(shared->lock);
	wake_process(launcher);
	return missing;
}

/* ---------------------------------------------------------------- worker */

/* false: the slot is no longer wanted */
bool
worker_slot_attach(int index, WorkerSlot *copy)
{
	SharedSlot *slot = &shared->slots[index];
	bool		wanted;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	wanted = slot->used && !slot->unwanted;
	if (wanted)
	{
		SpinLockAcquire(&slot->mutex);
		slot->slot.pid = MyProcPid;
		slot->slot.next_retry = 0;
		*copy = slot->slot;
		SpinLockRelease(&slot->mutex);
	}
	else if (slot->used)
		give_back(slot);
	LWLockRelease(shared->lock);
	return wanted;
}

void
worker_slot_state(int index, WorkerState state, const char *reason)
{
	set_state(&shared->slots[index], state, reason);
}

void
worker_slot_error(int index, const char *error)
{
	SharedSlot *slot = &shared->slots[index];

	SpinLockAcquire(&slot->mutex);
	strlcpy(slot->slot.last_error, error, WORKER_REASON_SIZE);
	SpinLockRelease(&slot->mutex);
}

/*
 * The worker leaves; the slot stays for its successor.  Where the definition has changed
 * meanwhile, what it failed at may be mended: the successor does not wait.
 */
void
worker_slot_detach(int index, WorkerState state, const char *reason, TimestampTz next_retry)
{
	SharedSlot *slot = &shared->slots[index];

	set_state(slot, state, reason);
	SpinLockAcquire(&slot->mutex);
	slot->slot.pid = 0;
	slot->slot.next_retry = slot->reload ? 0 : next_retry;
	slot->reload = false;
	if (state == WORKER_BACKOFF)
		slot->slot.failures++;
	SpinLockRelease(&slot->mutex);
}

void
worker_slot_release(int index)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	give_back(&shared->slots[index]);
	LWLockRelease(shared->lock);
}

void
worker_slot_retry(int index)
{
	SharedSlot *slot = &shared->slots[index];

	SpinLockAcquire(&slot->mutex);
	slot->slot.stats.retries++;
	SpinLockRelease(&slot->mutex);
}

/* The worker stays, and waits before it tries again. */
void
worker_slot_backoff(int index, const char *reason, TimestampTz next_retry)
{
	SharedSlot *slot = &shared->slots[index];

	set_state(slot, WORKER_BACKOFF, reason);
	SpinLockAcquire(&slot->mutex);
	slot->slot.next_retry = next_retry;
	SpinLockRelease(&slot->mutex);
}

void
worker_slot_commit(int index, int64 messages, int64 rows, int64 bytes, const StreamWal *wal)
{
	SharedSlot *slot = &shared->slots[index];
	TimestampTz now = GetCurrentTimestamp();
	WorkerStats *stats = &slot->slot.stats;

	SpinLockAcquire(&slot->mutex);
	stats->messages += messages;
	stats->rows += rows;
	stats->bytes += bytes;
	stream_wal_add(&stats->wal, wal);
	stats->batches++;
	stats->last_commit_time = now;
	slot->slot.failures = 0;
	slot->slot.next_retry = 0;
	slot->rate_rows += rows;
	if (now - slot->rate_start >= RATE_WINDOW)
	{
		stats->rows_per_s = slot->rate_rows * (double) USECS_PER_SEC / (now - slot->rate_start);
		slot->rate_start = now;
		slot->rate_rows = 0;
	}
	SpinLockRelease(&slot->mutex);
}

/* WAL that no batch's commit has told of: of batches that failed, of stops, of the watermark */
void
worker_slot_wal(int index, const StreamWal *wal)
{
	SharedSlot *slot = &shared->slots[index];

	SpinLockAcquire(&slot->mutex);
	stream_wal_add(&slot->slot.stats.wal, wal);
	SpinLockRelease(&slot->mutex);
}

void
set_partition_status(Oid database, int32 subscription, int32 part,
					 const PartitionStatus *status)
{
	StatusKey key = {database, subscription, part};
	StatusEntry *entry;
	bool		found = true;

	LWLockAcquire(shared->lock, LW_SHARED);
	entry = hash_search(partitions, &key, HASH_FIND, NULL);
	if (!entry)
	{
		LWLockRelease(shared->lock);
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		/* the table is full: this partition has no live state, only its row */
		entry = hash_search(partitions, &key, HASH_ENTER_NULL, &found);
		if (entry && !found)
			SpinLockInit(&entry->mutex);
	}
	if (entry)
	{
		SpinLockAcquire(&entry->mutex);
		entry->status = *status;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(shared->lock);
}

/* ---------------------------------------------------------------- notifying */

void
request_database(Oid database)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nrequests; i++)
		if (shared->requests[i] == database)
			goto done;
	if (shared->nrequests < MAX_REQUESTS)
		shared->requests[shared->nrequests++] = database;
	else
		shared->overflow = true;
done:
	wake_process(shared->launcher_pid);
	LWLockRelease(shared->lock);
}

bool
remember_database(Oid database, bool installed, bool other_version)
{
	int			i = 0;
	bool		news = other_version;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	while (i < shared->nknown && shared->known[i].database != database)
		i++;
	if (!installed && i < shared->nknown)
		shared->known[i] = shared->known[--shared->nknown];
	else if (installed && i < MAX_KNOWN)
	{
		if (i == shared->nknown)
			shared->nknown++;
		else if (shared->known[i].other_version)
			news = false;
		shared->known[i].database = database;
		shared->known[i].other_version = other_version;
	}
	LWLockRelease(shared->lock);
	return news;
}

bool
request_known_databases(bool all)
{
	Oid			known[MAX_KNOWN];
	int			n = 0;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nknown; i++)
		if (all || shared->known[i].other_version)
			known[n++] = shared->known[i].database;
	LWLockRelease(shared->lock);
	for (int i = 0; i < n; i++)
		request_database(known[i]);
	return n > 0;
}

/* Its definition has changed: no worker waits any longer, neither a process nor a slot. */
static void
wake_workers(int32 subscription)
{
	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		SharedSlot *slot = &shared->slots[i];

		if (!slot->used || slot->slot.database != MyDatabaseId ||
			slot->slot.subscription != subscription)
			continue;
		SpinLockAcquire(&slot->mutex);
		slot->reload = slot->slot.pid != 0;
		if (!slot->reload)
			slot->slot.next_retry = 0;
		SpinLockRelease(&slot->mutex);
		wake_process(slot->slot.pid);
	}
	LWLockRelease(shared->lock);
}

/*
 * After commit nothing may raise an ERROR: only latches and our own lock.  A
 * transaction that is prepared commits in another session, maybe after a restart,
 * where nobody would tell the workers.
 */
static void
notify_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (to_notify == NIL)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed a subscription of pg_kappa"),
				 errhint("COMMIT it, without PREPARE TRANSACTION.")));
	if (event == XACT_EVENT_COMMIT)
	{
		foreach(lc, to_notify)
			wake_workers(lfirst_int(lc));
		request_database(MyDatabaseId);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		to_notify = NIL;		/* its memory went with the transaction */
}

void
notify_at_commit(int32 subscription)
{
	MemoryContext old;

	if (!shared)
		return;
	if (!callback_registered)
	{
		RegisterXactCallback(notify_callback, NULL);
		callback_registered = true;
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	to_notify = list_append_unique_int(to_notify, subscription);
	MemoryContextSwitchTo(old);
}
