/*
 * views.c
 *		What the views show that does not stand in a table: worker slots,
 *		what the workers know of each partition, and what this build can do.
 *
 * The views themselves are SQL (pg_kappa--1.0.sql).  They join these functions
 * with the tables, so a subscription is listed with its last committed position
 * whether or not a worker, a broker or even the shared memory is there.
 *
 * Owns nothing and changes nothing: every function copies a slot or an entry
 * under shmem.c's locks, one at a time, and is done.  Nobody waits for a worker,
 * nobody calls a broker.  What is unknown is NULL.
 *
 * Views of another version's script call these functions too (catalog.c): version,
 * version_differs, preloaded, lacks_process and made_here keep their arguments and
 * results for ever, the others have nothing to tell there.
 *
 * Rights: a view checks EXECUTE of its functions as the caller, so all of these
 * are PUBLIC's.  Numbers of other people's subscriptions are no secret; the
 * texts of a slot may quote data, so worker_slots() returns only the slots of
 * subscriptions whose owner the caller is a member of, or all to a member of
 * pg_monitor: the same rule as in the views' WHERE.
 *
 * Crash story: none, nothing here outlives the call.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "kafka_client.h"
#include "shmem.h"

/* librdkafka's numbers are 0xMMmmrrpp; its minor versions are what matters. */
#define KAFKA_MINOR(major, minor)	(((major) << 8) | (minor))

PG_FUNCTION_INFO_V1(kappa_preloaded);
PG_FUNCTION_INFO_V1(kappa_lacks_process);
PG_FUNCTION_INFO_V1(kappa_made_here);
PG_FUNCTION_INFO_V1(kappa_version_differs);
PG_FUNCTION_INFO_V1(kappa_worker_slots);
PG_FUNCTION_INFO_V1(kappa_partition_status);
PG_FUNCTION_INFO_V1(kappa_version);

/* A subscription of this database and who owns it. */
typedef struct SlotOwner
{
	int32		subscription;
	Oid			owner;
} SlotOwner;

Datum
kappa_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(shmem_available());
}

Datum
kappa_lacks_process(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(lacks_process());
}

/*
 * Was a definition enabled in this cluster and database?  A logical copy (dump
 * and restore, CREATE DATABASE TEMPLATE) carries the numbers of the original.
 */
Datum
kappa_made_here(PG_FUNCTION_ARGS)
{
	uint64		system_identifier = (uint64) PG_GETARG_INT64(0);
	Oid			database = PG_GETARG_OID(1);

	PG_RETURN_BOOL(system_identifier == GetSystemIdentifier() &&
				   database == MyDatabaseId);
}

/* Why no worker runs on this database's script, and what to type; NULLs: it is ours. */
Datum
kappa_version_differs(PG_FUNCTION_ARGS)
{
	char	   *installed = catalog_version();
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (strcmp(installed, KAPPA_VERSION) != 0)
	{
		values[0] = CStringGetTextDatum(psprintf("the extension has version %s, its library version %s",
												 installed, KAPPA_VERSION));
		values[1] = CStringGetTextDatum(version_remedy(installed));
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static const char *
state_name(WorkerState state)
{
	switch (state)
	{
		case WORKER_WAITING:
			return "waiting_for_worker";
		case WORKER_STARTING:
			return "starting";
		case WORKER_RUNNING:
			return "running";
		case WORKER_IDLE:
			return "idle";
		case WORKER_BACKOFF:
			return "backoff";
		case WORKER_STOPPED:
			return "stopped";
	}
	return "unknown";
}

/* Owners of this database's subscriptions, in the current memory context. */
static SlotOwner *
load_owners(int *n)
{
	MemoryContext context = CurrentMemoryContext;
	CatalogScope scope;
	SlotOwner  *owners;
	bool		null;
	int			i;

	catalog_begin(&scope);
	*n = (int) catalog_execute("SELECT id, owner::pg_catalog.oid FROM kappa.subscription",
							   0, NULL);
	owners = MemoryContextAlloc(context, sizeof(SlotOwner) * Max(*n, 1));
	for (i = 0; i < *n; i++)
	{
		owners[i].subscription = DatumGetInt32(catalog_value(i, 1, &null));
		owners[i].owner = DatumGetObjectId(catalog_value(i, 2, &null));
	}
	catalog_end(&scope);
	return owners;
}

static bool
may_see_slot(int32 subscription, const SlotOwner *owners, int nowners)
{
	int			i;

	for (i = 0; i < nowners; i++)
	{
		if (owners[i].subscription == subscription)
			return is_member_of_role(GetUserId(), owners[i].owner) ||
				is_member_of_role(GetUserId(), ROLE_PG_MONITOR);
	}
	return false;
}

/* The values below are filled in the order of the function's columns. */
static void
set_text(Datum *value, bool *null, const char *text)
{
	*null = text[0] == '\0';
	if (!*null)
		*value = CStringGetTextDatum(text);
}

static void
set_time(Datum *value, bool *null, TimestampTz time)
{
	*null = time == 0;
	if (!*null)
		*value = TimestampTzGetDatum(time);
}

static void
put_slot(ReturnSetInfo *rsinfo, const WorkerSlot *slot)
{
	Datum		values[17];
	bool		nulls[17] = {0};

	values[0] = Int32GetDatum(slot->subscription);
	values[1] = Int32GetDatum(slot->worker);
	values[2] = Int32GetDatum(slot->pid);
	nulls[2] = slot->pid == 0;
	values[3] = CStringGetTextDatum(state_name(slot->state));
	set_text(&values[4], &nulls[4], slot->reason);
	set_text(&values[5], &nulls[5], slot->last_error);
	set_time(&values[6], &nulls[6], slot->since);
	set_time(&values[7], &nulls[7], slot->next_retry);
	values[8] = Int32GetDatum(slot->failures);
	values[9] = Int64GetDatum(slot->stats.messages);
	values[10] = Int64GetDatum(slot->stats.rows);
	values[11] = Int64GetDatum(slot->stats.bytes);
	values[12] = Int64GetDatum(slot->stats.batches);
	values[13] = Int64GetDatum(slot->stats.wal.bytes);
	values[14] = Int64GetDatum(slot->stats.retries);
	values[15] = Float8GetDatum(slot->stats.rows_per_s);
	set_time(&values[16], &nulls[16], slot->stats.last_commit_time);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Worker slots of this database that the caller may see. */
Datum
kappa_worker_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	WorkerSlot *slots;
	SlotOwner  *owners;
	int			nslots;
	int			nowners;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	slots = worker_slots(MyDatabaseId, &nslots);
	if (nslots == 0 || catalog_state() != CATALOG_READY)
		return (Datum) 0;
	owners = load_owners(&nowners);
	for (i = 0; i < nslots; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (may_see_slot(slots[i].subscription, owners, nowners))
			put_slot(rsinfo, &slots[i]);
	}
	return (Datum) 0;
}

/* What the partition's worker last knew; NULL where there is none. */
Datum
kappa_partition_status(PG_FUNCTION_ARGS)
{
	PartitionStatus status;
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (catalog_state() != CATALOG_READY ||
		!partition_status(MyDatabaseId, PG_GETARG_INT32(0), PG_GETARG_INT32(1), &status))
		PG_RETURN_NULL();

	values[0] = Int64GetDatum(status.high_watermark);
	nulls[0] = status.high_watermark < 0;
	values[1] = Int64GetDatum(status.end_offset);
	nulls[1] = status.end_offset < 0;
	set_time(&values[2], &nulls[2], status.end_seen);
	values[3] = BoolGetDatum(status.idle);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}

static void
put_fact(ReturnSetInfo *rsinfo, const char *item, const char *value,
		 const char *detail)
{
	Datum		values[3];
	bool		nulls[3] = {0};

	values[0] = CStringGetTextDatum(item);
	values[1] = CStringGetTextDatum(value);
	set_text(&values[2], &nulls[2], detail);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* What depends on the librdkafka that is linked at run time. */
static void
put_library_facts(ReturnSetInfo *rsinfo)
{
	int			minor = (kafka_library_version_number() >> 16) & 0xffff;
	bool		topic_ids = minor >= KAFKA_MINOR(2, 3);
	bool		fetch_backoff = minor >= KAFKA_MINOR(2, 2);

	put_fact(rsinfo, "librdkafka", kafka_library_version(),
			 "as loaded, not as compiled with");
	put_fact(rsinfo, "topic ids", topic_ids ? "yes" : "no",
			 topic_ids ? "a re-created topic is told by its id" :
			 "needs librdkafka 2.3; a re-created topic is told by reading the last record again");
	put_fact(rsinfo, "fetch backoff", fetch_backoff ? "yes" : "no",
			 fetch_backoff ? "a full queue waits as long as fetch_queue_backoff_ms says" :
			 "needs librdkafka 2.2; a full queue may wait a second before the next fetch");
}

/* One fact a row, for a bug report or a doubt. */
Datum
kappa_version(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *installed = catalog_version();

	InitMaterializedSRF(fcinfo, 0);
	put_fact(rsinfo, "library", KAPPA_VERSION,
			 "pg_kappa, compiled for PostgreSQL " PG_VERSION);
	put_fact(rsinfo, "extension", installed,
			 strcmp(installed, KAPPA_VERSION) == 0 ? "same as the library" :
			 version_remedy(installed));
	put_fact(rsinfo, "server",
			 GetConfigOption("server_version", false, false),
			 "PostgreSQL 15 to 18 are supported");
	put_library_facts(rsinfo);
	put_fact(rsinfo, "preloaded", shmem_available() ? "yes" : "no",
			 shmem_available() ? "workers run by themselves" :
			 "not in shared_preload_libraries: no workers; kappa.run() works");
#ifdef KAPPA_FAULTS
	put_fact(rsinfo, "fault points", "yes", "compiled in for tests; not for production");
#endif
	return (Datum) 0;
}
