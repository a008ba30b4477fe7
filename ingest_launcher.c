/*
 * ingest_launcher.c
 *		The launcher, and the scouts that read definitions for it.
 *
 *		launcher	one for the server.  Connected to no database (shared catalogs
 *					only).  Starts a scout for each database that somebody asks to
 *					be looked at, and a worker for each slot that wants one; a worker
 *					that ended is started again when its slot says so.
 *		scout		"pg_kappa database launcher": connects to one database, reads which
 *					subscriptions are enabled, makes the slots fit, adds a sample
 *					to kappa.table_history where one is due, ends.
 *
 * At start every connectable database is looked at once.  Later a commit that
 * changed a definition asks for its database (shmem.c), and so does CREATE EXTENSION;
 * once a minute, or as often as kappa.history_interval says, the databases known to have
 * the extension are looked at again, for a sample and in case a notice was lost.  Where
 * the extension is of another version than this library nothing runs until ALTER
 * EXTENSION UPDATE; that is looked for every second.
 *
 * Neither process holds a transaction or snapshot while it waits.  Nothing here is
 * lost in a crash: it is all made anew from the tables.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "core/backoff.h"
#include "ingest.h"
#include "shmem.h"
#include "subscription.h"

#define POLL_MS			60000	/* known databases are looked at this often */
#define UPDATE_POLL_MS	1000	/* those that wait for ALTER EXTENSION UPDATE, which wakes nobody */
#define NO_PROCESS_MS	2000	/* until we ask for a process again */
#define DIED_BASE_MS	1000
#define DIED_MAX_MS		60000

void
fill_process(BackgroundWorker *process, const char *type, const char *name, const char *function)
{
	memset(process, 0, sizeof(*process));
	process->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process->bgw_start_time = BgWorkerStart_RecoveryFinished;
	process->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(process->bgw_library_name, "pg_kappa", sizeof(process->bgw_library_name));
	strlcpy(process->bgw_function_name, function, sizeof(process->bgw_function_name));
	strlcpy(process->bgw_type, type, sizeof(process->bgw_type));
	strlcpy(process->bgw_name, name, sizeof(process->bgw_name));
}

void
register_launcher(void)
{
	BackgroundWorker process;

	fill_process(&process, "pg_kappa launcher", "pg_kappa launcher", "pg_kappa_launcher_main");
	process.bgw_restart_time = 5;
	RegisterBackgroundWorker(&process);
}

void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"}, {"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"}, {"idle_session_timeout", "0"},
		PINNED_SINCE_17
		/* below deadlock_timeout, so that we and not a user's DDL give way */
		{"lock_timeout", "500ms"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"}, {"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"}, {"row_security", "on"}, {"role", "none"},
		/* an ERROR shall end a batch, not us */
		{"exit_on_error", "off"},
		/* how text is read, in transforms and triggers too */
		{"standard_conforming_strings", "on"}, {"transform_null_equals", "off"},
		{"bytea_output", "hex"}, {"extra_float_digits", "1"}
	};

	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* ---------------------------------------------------------------- scout */

/* Once for each database and start of the server: the view says so all the time. */
static void
complain_of_version(void)
{
	char	   *version = catalog_version();

	ereport(LOG,
			(errmsg("no pg_kappa worker runs in database \"%s\": the extension has version %s, its library version %s",
					get_database_name(MyDatabaseId), version, KAPPA_VERSION),
			 errhint("%s", version_remedy(version))));
}

/*
 * One sample of the tables' counters, where the last one is old enough.  The launcher
 * runs one scout at a time, so a database has one writer.  In a transaction of its own:
 * an ERROR here ends a scout that has done its work.
 */
static void
record_history(void)
{
	CatalogScope scope;
	CatalogArg	interval[] = {CATALOG_INT4(kappa_history_interval)};

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	catalog_begin(&scope);
	/* a poll that comes a little early counts */
	catalog_execute("SELECT kappa.record_history($1 * interval '0.9 second')", 1, interval);
	catalog_end(&scope);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void
pg_kappa_scout_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);
	List	   *wanted = NIL;
	CatalogState state;
	int			missing;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	pin_settings();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	state = catalog_state();
	if (state == CATALOG_READY)
		wanted = subscriptions_to_run();
	missing = want_workers(database, wanted);
	if (remember_database(database, state != CATALOG_MISSING, state == CATALOG_OTHER_VERSION))
		complain_of_version();
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (missing > 0)
		ereport(LOG,
				(errmsg("pg_kappa has no slot for %d of the workers wanted in this database", missing),
				 errhint("Raise kappa.max_workers and restart the server.")));
	if (state == CATALOG_READY && kappa_history_interval > 0)
		record_history();
	proc_exit(0);
}

/* ---------------------------------------------------------------- launcher */

typedef struct Launcher
{
	BackgroundWorkerHandle **handles;	/* by slot; NULL: none of ours */
	BackgroundWorkerHandle *scout;
	Oid			scouted;
	List	   *databases;		/* waiting for a scout, oids */
	TimestampTz next_poll;
	TimestampTz next_update_poll;
	TimestampTz scout_retry;
	TimestampTz last_complaint;
} Launcher;

/* By a scan of the shared catalog. */
static List *
list_databases(bool connectable)
{
	List	   *databases = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (connectable && !form->datallowconn)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

static BackgroundWorkerHandle *
start_process(BackgroundWorker *process, Datum arg)
{
	BackgroundWorkerHandle *handle = NULL;

	process->bgw_main_arg = arg;
	process->bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(process, &handle) ? handle : NULL;
}

static bool
has_ended(BackgroundWorkerHandle *handle)
{
	pid_t		pid;
	BgwHandleStatus status = GetBackgroundWorkerPid(handle, &pid);

	return status == BGWH_STOPPED || status == BGWH_POSTMASTER_DIED;
}

static bool
is_listed(Oid database, bool connectable)
{
	List	   *databases = list_databases(connectable);
	bool		found = list_member_oid(databases, database);

	list_free(databases);
	return found;
}

/* false: nobody can connect to it now, and its slots are given back */
static bool
database_is_there(Oid database)
{
	if (is_listed(database, true))
		return true;
	want_workers(database, NIL);
	/* one that only allows no connections may do so again: the next poll sees */
	if (!is_listed(database, false))
		(void) remember_database(database, false, false);
	return false;
}

/* Collect what is asked. */
static void
take_requests(Launcher *launcher)
{
	Oid			database;

	while (next_database_request(&database))
	{
		if (!OidIsValid(database))
		{
			List	   *all = list_databases(true);

			launcher->databases = list_concat_unique_oid(launcher->databases, all);
			list_free(all);
		}
		else if (database_is_there(database))
			launcher->databases = list_append_unique_oid(launcher->databases, database);
	}
}

static void
complain_of_no_process(Launcher *launcher, TimestampTz now)
{
	if (now - launcher->last_complaint < USECS_PER_MINUTE)
		return;
	launcher->last_complaint = now;
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots for pg_kappa"),
			 errhint("Raise max_worker_processes and restart the server.")));
}

static void
run_scouts(Launcher *launcher, TimestampTz now)
{
	BackgroundWorker process;

	if (launcher->scout && has_ended(launcher->scout))
	{
		pfree(launcher->scout);
		launcher->scout = NULL;
	}
	if (launcher->scout || launcher->databases == NIL || now < launcher->scout_retry)
		return;
	fill_process(&process, "pg_kappa database launcher", "pg_kappa database launcher",
				 "pg_kappa_scout_main");
	launcher->scout = start_process(&process, ObjectIdGetDatum(linitial_oid(launcher->databases)));
	set_lacks_process(launcher->scout == NULL);
	if (launcher->scout)
		launcher->databases = list_delete_first(launcher->databases);
	else
	{
		launcher->scout_retry = TimestampTzPlusMilliseconds(now, NO_PROCESS_MS);
		complain_of_no_process(launcher, now);
	}
}

static void
start_worker(Launcher *launcher, int index, TimestampTz now)
{
	BackgroundWorker process;
	WorkerSlot	slot = {0};

	fill_process(&process, "pg_kappa worker", "pg_kappa worker", "pg_kappa_worker_main");
	/* what made the last one fail holds until this one knows better */
	(void) worker_slot(index, &slot);
	worker_slot_state(index, WORKER_STARTING, slot.state == WORKER_BACKOFF ? slot.reason : NULL);
	launcher->handles[index] = start_process(&process, Int32GetDatum(index));
	if (launcher->handles[index])
		return;
	worker_slot_waits(index, "no free background worker process: raise max_worker_processes",
					  TimestampTzPlusMilliseconds(now, NO_PROCESS_MS));
	complain_of_no_process(launcher, now);
}

/* One slot: start its worker, note its death, or say when to look again. */
static void
serve_slot(Launcher *launcher, int index, TimestampTz now, TimestampTz *next)
{
	WorkerSlot	slot;

	if (launcher->handles[index])
	{
		if (!has_ended(launcher->handles[index]))
			return;
		pfree(launcher->handles[index]);
		launcher->handles[index] = NULL;
		if (worker_slot(index, &slot) && slot.state == WORKER_STARTING)
			worker_slot_died(index, "the worker could not start; see the server's log",
							 TimestampTzPlusMilliseconds(now, backoff_delay(slot.failures + 1, DIED_BASE_MS,
																			DIED_MAX_MS, (uint64) now)));
	}
	if (!worker_slot(index, &slot) || slot.pid != 0)
		return;
	if (slot.next_retry > now)
		*next = Min(*next, slot.next_retry);
	/* the last one may have ended because its database was dropped */
	else if (database_is_there(slot.database))
		start_worker(launcher, index, now);
}

/* Scouts also take the samples. */
static long
poll_ms(void)
{
	if (kappa_history_interval == 0)
		return POLL_MS;
	return Min(POLL_MS, kappa_history_interval * 1000L);
}

static long
serve_all(Launcher *launcher)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now, 10000);

	if (now >= launcher->next_poll)
	{
		(void) request_known_databases(true);
		launcher->next_poll = TimestampTzPlusMilliseconds(now, poll_ms());
	}
	if (now >= launcher->next_update_poll && request_known_databases(false))
		launcher->next_update_poll = TimestampTzPlusMilliseconds(now, UPDATE_POLL_MS);
	next = Min(next, launcher->next_poll);
	if (launcher->next_update_poll > now)
		next = Min(next, launcher->next_update_poll);
	take_requests(launcher);
	run_scouts(launcher, now);
	if (launcher->databases != NIL && launcher->scout == NULL)
		next = Min(next, TimestampTzPlusMilliseconds(now, NO_PROCESS_MS));
	for (int i = 0; i < worker_slot_count(); i++)
		serve_slot(launcher, i, now, &next);
	return Max(1, (long) ((next - now) / 1000));
}

void
pg_kappa_launcher_main(Datum arg)
{
	Launcher	launcher = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(TopMemoryContext);
	launcher.handles = palloc0(sizeof(BackgroundWorkerHandle *) * worker_slot_count());
	launcher_attach();
	for (;;)
	{
		long		wait;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			launcher.next_poll = 0; /* kappa.history_interval may be shorter now */
		}
		wait = serve_all(&launcher);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
