/*
 * subscription_wait.c
 *		kappa.drain and kappa.wait_for: wait until positions are reached.
 *
 * They lock nothing and change nothing: they look at the committed positions
 * with a new snapshot each time, and end with an ERROR where nobody will ever
 * move a position that is waited for.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "arguments.h"
#include "broker.h"
#include "catalog.h"
#include "compat.h"
#include "position.h"
#include "shmem.h"
#include "subscription.h"

#define POLL_MS				20
#define MAX_TIMEOUT			((int64) 3650 * USECS_PER_DAY)

PG_FUNCTION_INFO_V1(kappa_drain);
PG_FUNCTION_INFO_V1(kappa_wait_for);

/*
 * reader: whoever may read the target may wait for what he has written.  drain is
 * for the owner, because it asks the broker in his name.
 */
static Subscription *
subscription_to_wait_for(const char *name, bool reader)
{
	Subscription *sub = subscription_by_name(name, false);

	if (!reader || pg_class_aclcheck(sub->target, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		check_subscription_owner(sub);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a subscription at this isolation level"),
				 errdetail("The transaction's snapshot would never show what is waited for."),
				 errhint("Use READ COMMITTED.")));
	if (sub->changed_here || subscription_locked_here(sub->id))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a subscription that this transaction has changed"),
				 errdetail("Its workers wait for this transaction to end."),
				 errhint("COMMIT first.")));
	return sub;
}

static void
report_stopped(const Subscription *sub, const Position *position)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(sub->id), CATALOG_INT4(position->part)};
	MemoryContext context = CurrentMemoryContext;
	char	   *reason = pstrdup(position->stop_word);
	bool		null;
	Datum		value;

	catalog_begin(&scope);
	if (catalog_execute("SELECT format('%s: partition %s, offsets [%s, %s): %s', stop_word, part,"
						" stop_from, stop_to, stop_detail) FROM kappa.position"
						" WHERE subscription = $1 AND part = $2 AND stop_word IS NOT NULL",
						2, args) > 0)
	{
		value = catalog_value(0, 1, &null);
		reason = MemoryContextStrdup(context, TextDatumGetCString(value));
	}
	catalog_end(&scope);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition %d of subscription \"%s\" is stopped", position->part, sub->name),
			 has_privs_of_role(GetUserId(), sub->owner) ? errdetail_internal("%s", reason) : 0,
			 errhint("kappa.subscriptions shows the next step; kappa.skip and kappa.seek go on.")));
}

/* ERROR where nobody will ever move the position. */
static void
check_somebody_runs(const Subscription *sub, const Position *position)
{
	const char *name = quote_literal_cstr(sub->name);

	if (position != NULL && position->stop_word[0] != '\0')
		report_stopped(sub, position);
	if (!sub->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is disabled", sub->name),
				 errdetail("It has not reached the offset, and no worker runs."),
				 errhint("Use kappa.enable(%s) or kappa.run(%s).", name, name)));
	if (sub->foreign_identity)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is a copy and does not run", sub->name),
				 errdetail("It was made in another cluster or database."),
				 errhint("If this one shall consume, use kappa.enable(%s).", name)));
	if (!shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is not run by anybody", sub->name),
				 errdetail("pg_kappa is not in shared_preload_libraries."),
				 errhint("Use kappa.run(%s), or add shared_preload_libraries = 'pg_kappa' to postgresql.conf and restart.",
						 name)));
}

pg_noreturn static void
report_timeout(const Subscription *sub, const KafkaPlace *place, const Position *position)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("timeout while waiting for subscription \"%s\"", sub->name),
			 position ?
			 errdetail("Partition %d stands at %lld, wanted is %lld.", place->part,
					   (long long) position->next_offset, (long long) place->offset) :
			 errdetail("Partition %d has no position yet, wanted is %lld.", place->part,
					   (long long) place->offset),
			 errhint("kappa.stat_partition shows the lag; give a longer timeout.")));
}

/* One look: true when every place is reached, ERROR where that cannot be. */
static bool
places_reached(const Subscription *waited, const KafkaPlace *places, int nplaces, bool expired)
{
	Subscription *sub = subscription_by_id(waited->id, true);
	bool		reached = true;
	Position   *positions;
	int			npositions;
	int			i;
	int			j;

	if (sub == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" was removed while it was waited for", waited->name),
				 errhint("SELECT name FROM kappa.subscriptions lists those that exist.")));
	positions = load_positions(sub->id, -1, 1, &npositions);
	for (i = 0; i < nplaces; i++)
	{
		Position   *position = NULL;

		for (j = 0; j < npositions && position == NULL; j++)
		{
			if (positions[j].part == places[i].part)
				position = &positions[j];
		}
		if (position != NULL && position->next_offset >= places[i].offset)
			continue;
		check_somebody_runs(sub, position);
		if (expired)
			report_timeout(sub, &places[i], position);
		reached = false;
	}
	return reached;
}

static void
wait_for_places(const Subscription *sub, const KafkaPlace *places, int nplaces, int64 timeout)
{
	TimestampTz end = GetCurrentTimestamp() + Min(timeout, MAX_TIMEOUT);
	MemoryContext look = AllocSetContextCreate(CurrentMemoryContext, "pg_kappa wait",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(look);

	while (!places_reached(sub, places, nplaces, GetCurrentTimestamp() >= end))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		MemoryContextReset(look);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, POLL_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(look);
}

Datum
kappa_drain(PG_FUNCTION_ARGS)
{
	int64		timeout = interval_argument(fcinfo, 1, "timeout");
	TimestampTz begun = GetCurrentTimestamp();
	BrokerSession *session;
	Subscription *sub;
	KafkaPlace *places;
	int64	   *low;
	int64	   *high;
	int			nparts;
	int			nplaces = 0;
	int			part;

	sub = subscription_to_wait_for(text_argument(fcinfo, 0, "name"), false);
	session = broker_connect(sub->server, sub->owner, sub->options, NULL);
	nparts = broker_partitions(session, sub->topic);
	low = palloc(sizeof(int64) * Max(nparts, 1));
	high = palloc(sizeof(int64) * Max(nparts, 1));
	broker_offsets(session, sub->topic, nparts, low, high);
	broker_disconnect(session);

	places = palloc(sizeof(KafkaPlace) * Max(nparts, 1));
	for (part = 0; part < nparts; part++)
	{
		if (high[part] <= low[part])
			continue;			/* nothing stands there */
		places[nplaces].part = part;
		places[nplaces].offset = high[part];
		nplaces++;
	}
	wait_for_places(sub, places, nplaces,
					Max(timeout - (GetCurrentTimestamp() - begun), 0));
	PG_RETURN_VOID();
}

Datum
kappa_wait_for(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	KafkaPlace	place;
	int64		timeout;

	require_argument(fcinfo, 1, "part");
	require_argument(fcinfo, 2, "at");
	timeout = interval_argument(fcinfo, 3, "timeout");
	place.part = PG_GETARG_INT32(1);
	place.offset = PG_GETARG_INT64(2);
	if (place.part < 0 || place.offset < 0 || place.offset == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition %d has no offset %lld", place.part, (long long) place.offset),
				 errhint("Use the partition and offset that the producer was told.")));
	place.offset++;				/* the position behind the message */
	sub = subscription_to_wait_for(text_argument(fcinfo, 0, "name"), true);
	wait_for_places(sub, &place, 1, timeout);
	PG_RETURN_VOID();
}
