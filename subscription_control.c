/*
 * subscription_control.c
 *		The SQL functions that make, change, move and end subscriptions, and
 *		those that wait for one.
 *
 * Each function that changes something takes the subscription's control lock
 * before it reads the definition, so it waits for the batches in flight, and no
 * batch is committed under the old definition once it returns.  Everything it
 * does is part of the caller's transaction and rolls back with it; workers and
 * launcher are told at commit.  The order is always: lock, broker, tables.
 *
 * Offsets move here in two ways: seek ends a partition's account and begins a
 * new one, skip passes a range within the account.  Both leave a line in
 * kappa.closed_account that says who did it.
 *
 * The waits (drain, wait_for) lock nothing and change nothing: they look at the
 * committed positions with a new snapshot each time.
 *
 * Crash story: a transaction of the caller's like any other.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "broker.h"
#include "broker_options.h"
#include "catalog.h"
#include "position.h"
#include "shmem.h"
#include "subscription.h"
#include "subscription_check.h"

#define POLL_MS				20
#define MAX_TIMEOUT			((int64) 3650 * USECS_PER_DAY)
#define SKIP_BATCH			500
#define SKIP_SILENCE_MS		30000	/* without any answer: give up */

/* What a changed definition or a fresh start may have put right. */
#define CURABLE_STOPS		"schema,rights,poison"

PG_FUNCTION_INFO_V1(kappa_subscribe);
PG_FUNCTION_INFO_V1(kappa_alter_subscription);
PG_FUNCTION_INFO_V1(kappa_enable);
PG_FUNCTION_INFO_V1(kappa_disable);
PG_FUNCTION_INFO_V1(kappa_unsubscribe);
PG_FUNCTION_INFO_V1(kappa_seek);
PG_FUNCTION_INFO_V1(kappa_skip);
PG_FUNCTION_INFO_V1(kappa_drain);
PG_FUNCTION_INFO_V1(kappa_wait_for);
PG_FUNCTION_INFO_V1(kappa_purge_dead_letters);

/* Arguments of kappa.subscribe; those of alter_subscription lack two of them. */
enum
{
	ARG_NAME,
	ARG_SERVER,
	ARG_TOPIC,
	ARG_TARGET,
	ARG_FORMAT,
	ARG_MODE,
	ARG_KEY_COLUMNS,
	ARG_COLUMNS,
	ARG_TRANSFORM,
	ARG_START_FROM,
	ARG_EVENT_TIME,
	ARG_WATERMARK_DELAY,
	ARG_IDLE_TIMEOUT,
	ARG_ON_ERROR,
	ARG_WORKERS,
	ARG_BATCH_ROWS,
	ARG_BATCH_WAIT,
	ARG_OPTIONS,
	ARG_ENABLED
};
#define ALTER_SHIFT		(ARG_TARGET - 1)

/* Where a subscription starts, as the broker says. */
typedef struct Start
{
	int			nparts;
	int64	   *offsets;
	int64	   *high;			/* where the partitions end now */
	bool	   *named;			/* by a JSON start_from; others are all true */
	char	   *topic_id;
} Start;

/* What kappa.skip passes. */
typedef struct Passed
{
	int64		seen;
	KafkaMessage last;			/* offset -1: none; the bytes are gone */
	uint64		fingerprint;
} Passed;

/*
 * Arguments
 */
static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name),
				 errhint("Give it a value, or leave it out if it has a default.")));
}

static char *
text_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	require_argument(fcinfo, number, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static int64
interval_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	require_argument(fcinfo, number, name);
	return interval_microseconds(PG_GETARG_INTERVAL_P(number), name);
}

/* NULL for '', which stands for none */
static char *
text_or_none(text *value)
{
	char	   *result = text_to_cstring(value);

	return result[0] == '\0' ? NULL : result;
}

static List *
names_argument(ArrayType *array, const char *name)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not hold a null", name),
					 errhint("Name columns, as in %s => '{id}'.", name)));
		result = lappend(result, TextDatumGetCString(values[i]));
	}
	return result;
}

/*
 * The subscription, locked against its workers until the end of the
 * transaction; for its owner alone.  Rights are checked before the lock too, so
 * that nobody can make others wait.
 */
Subscription *
control_subscription(const char *name, const char *function)
{
	PreventCommandIfReadOnly(function);
	for (;;)
	{
		Subscription *before = subscription_by_name(name, false);
		Subscription *sub;

		CHECK_FOR_INTERRUPTS();
		check_subscription_owner(before);
		lock_subscription(before->id, SUBSCRIPTION_CONTROL_LOCK);
		sub = subscription_by_name(name, false);
		check_subscription_owner(sub);
		if (sub->id == before->id)
			return sub;
	}
}

static void
check_preload(void)
{
	if (!shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_kappa is not in shared_preload_libraries"),
				 errdetail("Without it no worker can run."),
				 errhint("Add shared_preload_libraries = 'pg_kappa' to postgresql.conf and restart, or use enabled => false with kappa.run.")));
}

/*
 * kappa.subscribe, kappa.alter_subscription
 */
static void
check_new_name(const char *name)
{
	const unsigned char *c;
	bool		printable = true;

	for (c = (const unsigned char *) name; *c; c++)
		printable = printable && *c >= 0x20 && *c != 0x7f;
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN || !printable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a subscription"),
				 errdetail("A name is not empty, shorter than %d bytes and holds no control characters.",
						   NAMEDATALEN),
				 errhint("Use kappa.subscribe('orders', ...), for example.")));
	if (subscription_by_name(name, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name),
				 errhint("Choose another name, or use kappa.alter_subscription.")));
}

static Oid
find_target(text *name)
{
	RangeVar   *relation = makeRangeVarFromNameList(textToQualifiedNameList(name));
	Oid			target = RangeVarGetRelid(relation, AccessShareLock, true);

	if (!OidIsValid(target))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", text_to_cstring(name)),
				 errhint("Create the table first (kappa.infer_table prints one), or leave target out.")));
	return target;
}

/*
 * The shortest form: a table named like the subscription, made by the caller as
 * CREATE TABLE would.
 */
static Oid
create_target(const char *name, MessageFormat format)
{
	Oid			schema;
	char	   *table;
	char	   *sql;

	if (format == FORMAT_CSV)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("format csv needs a target"),
				 errdetail("Its fields have no names to make columns of."),
				 errhint("Create a table and name it by target => 'schema.table'.")));
	schema = RangeVarGetCreationNamespace(makeRangeVar(NULL, pstrdup(name), -1));
	table = quote_qualified_identifier(get_namespace_name(schema), name);
	if (OidIsValid(get_relname_relid(name, schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation %s already exists", table),
				 errdetail("Without a target, the subscription makes a table of its own name."),
				 errhint("Use target => %s to fill it.", quote_literal_cstr(table))));
	sql = psprintf("CREATE TABLE %s (kafka_topic pg_catalog.text, kafka_partition pg_catalog.int4,"
				   " kafka_offset pg_catalog.int8, kafka_timestamp pg_catalog.timestamptz,"
				   " kafka_key pg_catalog.bytea, kafka_headers pg_catalog.jsonb, value pg_catalog.%s)",
				   table, format == FORMAT_JSON ? "jsonb" : message_format_word(format));
	SPI_connect();
	if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create table %s", table);
	SPI_finish();
	return get_relname_relid(name, schema);
}

/* The words and columns that were given; the rest stays. */
static void
apply_columns(FunctionCallInfo fcinfo, int shift, Subscription *sub)
{
	if (!PG_ARGISNULL(ARG_FORMAT - shift))
		sub->format = parse_message_format(text_argument(fcinfo, ARG_FORMAT - shift, "format"));
	if (!PG_ARGISNULL(ARG_MODE - shift))
		sub->upsert = parse_upsert_mode(text_argument(fcinfo, ARG_MODE - shift, "mode"));
	if (!PG_ARGISNULL(ARG_ON_ERROR - shift))
		sub->stop_on_error = parse_stop_on_error(text_argument(fcinfo, ARG_ON_ERROR - shift, "on_error"));

	if (!PG_ARGISNULL(ARG_KEY_COLUMNS - shift))
		sub->key_columns = names_argument(PG_GETARG_ARRAYTYPE_P(ARG_KEY_COLUMNS - shift),
										  "key_columns");
	else if (!sub->upsert)
		sub->key_columns = NIL;
	if (!PG_ARGISNULL(ARG_COLUMNS - shift))
		sub->columns = PG_GETARG_JSONB_P_COPY(ARG_COLUMNS - shift);
	if (sub->columns != NULL && JB_ROOT_IS_OBJECT(sub->columns) &&
		JB_ROOT_COUNT(sub->columns) == 0)
		sub->columns = NULL;
	if (!PG_ARGISNULL(ARG_TRANSFORM - shift))
	{
		sub->transform = text_or_none(PG_GETARG_TEXT_PP(ARG_TRANSFORM - shift));
		sub->search_path = pstrdup(GetConfigOption("search_path", false, false));
	}
	if (!PG_ARGISNULL(ARG_EVENT_TIME - shift))
		sub->event_time = text_or_none(PG_GETARG_TEXT_PP(ARG_EVENT_TIME - shift));
}

static void
apply_limits(FunctionCallInfo fcinfo, int shift, Subscription *sub)
{
	if (!PG_ARGISNULL(ARG_WATERMARK_DELAY - shift))
		sub->watermark_delay = interval_argument(fcinfo, ARG_WATERMARK_DELAY - shift, "watermark_delay");
	if (!PG_ARGISNULL(ARG_IDLE_TIMEOUT - shift))
		sub->idle_timeout = interval_argument(fcinfo, ARG_IDLE_TIMEOUT - shift, "idle_timeout");
	if (!PG_ARGISNULL(ARG_BATCH_WAIT - shift))
		sub->batch_wait = interval_argument(fcinfo, ARG_BATCH_WAIT - shift, "batch_wait");
	if (!PG_ARGISNULL(ARG_WORKERS - shift))
		sub->workers = PG_GETARG_INT32(ARG_WORKERS - shift);
	if (!PG_ARGISNULL(ARG_BATCH_ROWS - shift))
		sub->batch_rows = PG_GETARG_INT32(ARG_BATCH_ROWS - shift);
	if (!PG_ARGISNULL(ARG_OPTIONS - shift))
		sub->options = PG_GETARG_JSONB_P_COPY(ARG_OPTIONS - shift);
	if (!PG_ARGISNULL(ARG_ENABLED - shift))
		sub->enabled = PG_GETARG_BOOL(ARG_ENABLED - shift);
}

static Interval *
interval_of(int64 microseconds)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = microseconds;
	return interval;
}

static CatalogArg
names_value(List *names)
{
	CatalogArg	arg = CATALOG_NULL(TEXTARRAYOID);
	Datum	   *values = palloc(sizeof(Datum) * Max(list_length(names), 1));
	ListCell   *cell;

	if (names == NIL)
		return arg;
	foreach(cell, names)
		values[foreach_current_index(cell)] = CStringGetTextDatum(lfirst(cell));
	arg.value = PointerGetDatum(construct_array(values, list_length(names), TEXTOID,
												-1, false, TYPALIGN_INT));
	arg.null = false;
	return arg;
}

/*
 * The arguments $1 to $16 of the two statements below: all that
 * alter_subscription can change.
 */
#define NDEFINITION_ARGS	16
static void
definition_args(const Subscription *sub, CatalogArg *args)
{
	CatalogArg	all[NDEFINITION_ARGS] = {
		CATALOG_OID(sub->target),
		CATALOG_TEXT(message_format_word(sub->format)),
		CATALOG_TEXT(sub->upsert ? "upsert" : "append"),
		names_value(sub->key_columns),
		CATALOG_JSONB(sub->columns),
		CATALOG_TEXT(sub->transform),
		CATALOG_TEXT(sub->search_path),
		CATALOG_TEXT(sub->event_time),
		{INTERVALOID, IntervalPGetDatum(interval_of(sub->watermark_delay)), false},
		{INTERVALOID, IntervalPGetDatum(interval_of(sub->idle_timeout)), false},
		CATALOG_TEXT(sub->stop_on_error ? "stop" : "dead_letter"),
		CATALOG_INT4(sub->workers),
		CATALOG_INT4(sub->batch_rows),
		{INTERVALOID, IntervalPGetDatum(interval_of(sub->batch_wait)), false},
		CATALOG_JSONB(sub->options),
		CATALOG_BOOL(sub->enabled)
	};

	memcpy(args, all, sizeof(all));
}

static void
insert_subscription(Subscription *sub, const char *start_from)
{
	CatalogArg	own[] = {
		CATALOG_TEXT(sub->name), CATALOG_OID(sub->owner), CATALOG_TEXT(sub->server),
		CATALOG_TEXT(sub->topic), CATALOG_TEXT(start_from),
		CATALOG_INT8((int64) GetSystemIdentifier()), CATALOG_OID(MyDatabaseId),
		CATALOG_TEXT(sub->topic_id)
	};
	CatalogArg	args[NDEFINITION_ARGS + lengthof(own)];
	CatalogScope scope;
	bool		null;

	definition_args(sub, args);
	memcpy(args + NDEFINITION_ARGS, own, sizeof(own));
	catalog_begin(&scope);
	if (catalog_execute("INSERT INTO kappa.subscription (target, format, mode, key_columns, columns,"
						" transform, search_path, event_time, watermark_delay, idle_timeout, on_error,"
						" workers, batch_rows, batch_wait, options, enabled, name, owner, server, topic,"
						" start_from, system_identifier, database_oid, topic_id, generation, changed_at)"
						" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,"
						" $17, $18, $19, $20, $21, $22, $23, $24, 1, now())"
						" ON CONFLICT (name) DO NOTHING RETURNING id", lengthof(args), args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", sub->name),
				 errdetail("Another transaction has just made it."),
				 errhint("Choose another name, or use kappa.alter_subscription.")));
	sub->id = DatumGetInt32(catalog_value(0, 1, &null));
	catalog_end(&scope);
}

static void
update_subscription(const Subscription *sub)
{
	CatalogArg	args[NDEFINITION_ARGS + 1];
	CatalogArg	id = CATALOG_INT4(sub->id);
	CatalogScope scope;

	definition_args(sub, args);
	args[NDEFINITION_ARGS] = id;
	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription SET (target, format, mode, key_columns, columns,"
					" transform, search_path, event_time, watermark_delay, idle_timeout, on_error,"
					" workers, batch_rows, batch_wait, options, enabled)"
					" = ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
					" WHERE id = $17", lengthof(args), args);
	catalog_end(&scope);
}

/* Ask the broker where start_from is. */
static Start
find_start(const Subscription *sub, const char *start_from)
{
	BrokerSession *session;
	Start		start;
	int64	   *low;
	int			i;

	session = broker_connect(sub->server, sub->owner, sub->options,
							 start_from_group(start_from));
	start.nparts = broker_partitions(session, sub->topic);
	start.named = palloc0(sizeof(bool) * Max(start.nparts, 1));
	start.offsets = broker_start_offsets(session, sub->topic, start.nparts, start_from,
										 start.named);
	low = palloc(sizeof(int64) * Max(start.nparts, 1));
	start.high = palloc(sizeof(int64) * Max(start.nparts, 1));
	broker_offsets(session, sub->topic, start.nparts, low, start.high);
	for (i = 0; i < start.nparts; i++)
	{
		if (!start.named[i])
			start.offsets[i] = low[i];
	}
	start.topic_id = broker_topic_id(session, sub->topic);
	broker_disconnect(session);
	return start;
}

static void
require_subscribe_arguments(FunctionCallInfo fcinfo)
{
	require_argument(fcinfo, ARG_NAME, "name");
	require_argument(fcinfo, ARG_SERVER, "server");
	require_argument(fcinfo, ARG_TOPIC, "topic");
	require_argument(fcinfo, ARG_FORMAT, "format");
	require_argument(fcinfo, ARG_MODE, "mode");
	require_argument(fcinfo, ARG_START_FROM, "start_from");
	require_argument(fcinfo, ARG_WATERMARK_DELAY, "watermark_delay");
	require_argument(fcinfo, ARG_IDLE_TIMEOUT, "idle_timeout");
	require_argument(fcinfo, ARG_ON_ERROR, "on_error");
	require_argument(fcinfo, ARG_WORKERS, "workers");
	require_argument(fcinfo, ARG_BATCH_ROWS, "batch_rows");
	require_argument(fcinfo, ARG_BATCH_WAIT, "batch_wait");
	require_argument(fcinfo, ARG_OPTIONS, "options");
	require_argument(fcinfo, ARG_ENABLED, "enabled");
}

/* Names and rights, before anything of the definition's content. */
static void
resolve_subscription(FunctionCallInfo fcinfo, Subscription *sub)
{
	bool		upsert = strcmp(text_argument(fcinfo, ARG_MODE, "mode"), "upsert") == 0;

	check_new_name(sub->name);
	if (PG_GETARG_BOOL(ARG_ENABLED))
		check_preload();
	check_subscription_server(sub->server, sub->owner);
	if (PG_ARGISNULL(ARG_TARGET))
		sub->target = create_target(sub->name,
									parse_message_format(text_argument(fcinfo, ARG_FORMAT, "format")));
	else
		sub->target = find_target(PG_GETARG_TEXT_PP(ARG_TARGET));
	check_subscription_target(sub->target, sub->owner, upsert);
}

Datum
kappa_subscribe(PG_FUNCTION_ARGS)
{
	Subscription *sub = palloc0(sizeof(Subscription));
	char	   *start_from;
	Start		start;
	int			i;

	PreventCommandIfReadOnly("kappa.subscribe()");
	require_subscribe_arguments(fcinfo);
	sub->name = text_argument(fcinfo, ARG_NAME, "name");
	sub->server = text_argument(fcinfo, ARG_SERVER, "server");
	sub->topic = text_argument(fcinfo, ARG_TOPIC, "topic");
	start_from = text_argument(fcinfo, ARG_START_FROM, "start_from");
	sub->owner = GetUserId();
	sub->search_path = pstrdup(GetConfigOption("search_path", false, false));

	resolve_subscription(fcinfo, sub);
	apply_columns(fcinfo, 0, sub);
	/* a table of our own takes the whole document, whatever its fields are */
	if (PG_ARGISNULL(ARG_TARGET) && sub->format == FORMAT_JSON &&
		sub->columns == NULL && sub->transform == NULL)
		sub->columns = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														  CStringGetDatum("{\"value\": \"$\"}")));
	check_subscription_definition(sub);
	apply_limits(fcinfo, 0, sub);
	check_subscription_limits(sub);

	start = find_start(sub, start_from);
	sub->topic_id = start.topic_id;
	insert_subscription(sub, start_from);
	for (i = 0; i < start.nparts; i++)
		add_position(sub->id, i, start.offsets[i]);
	notify_at_commit(sub->id);
	PG_RETURN_TEXT_P(cstring_to_text(sub->name));
}

/* The definition belongs to this cluster and database from now on. */
static void
adopt_subscription(int32 id)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(id), CATALOG_INT8((int64) GetSystemIdentifier()),
		CATALOG_OID(MyDatabaseId)
	};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription SET system_identifier = $2, database_oid = $3"
					" WHERE id = $1", 3, args);
	catalog_end(&scope);
	clear_stops(id, -1, "identity");
}

Datum
kappa_alter_subscription(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	bool		enable = !PG_ARGISNULL(ARG_ENABLED - ALTER_SHIFT) &&
		PG_GETARG_BOOL(ARG_ENABLED - ALTER_SHIFT);

	sub = control_subscription(text_argument(fcinfo, ARG_NAME, "name"),
							   "kappa.alter_subscription()");
	if (!PG_ARGISNULL(ARG_START_FROM - ALTER_SHIFT))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("alter_subscription cannot change start_from"),
				 errdetail("The subscription has positions of its own by now."),
				 errhint("Use kappa.seek(%s, start_from => ...).", quote_literal_cstr(sub->name))));
	if (enable)
		check_preload();
	if (!PG_ARGISNULL(ARG_TARGET - ALTER_SHIFT))
		sub->target = find_target(PG_GETARG_TEXT_PP(ARG_TARGET - ALTER_SHIFT));

	check_subscription_server(sub->server, sub->owner);
	apply_columns(fcinfo, ALTER_SHIFT, sub);
	check_subscription_target(sub->target, sub->owner, sub->upsert);
	check_subscription_definition(sub);
	apply_limits(fcinfo, ALTER_SHIFT, sub);
	check_subscription_limits(sub);

	update_subscription(sub);
	if (enable)
		adopt_subscription(sub->id);
	clear_stops(sub->id, -1, CURABLE_STOPS);
	touch_subscription(sub->id);
	PG_RETURN_VOID();
}

/*
 * kappa.enable, kappa.disable, kappa.unsubscribe
 */
static void
set_enabled(int32 id, bool enabled)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(id), CATALOG_BOOL(enabled)};

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription SET enabled = $2 WHERE id = $1", 2, args);
	catalog_end(&scope);
	touch_subscription(id);
}

Datum
kappa_enable(PG_FUNCTION_ARGS)
{
	Subscription *sub;

	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.enable()");
	check_preload();
	adopt_subscription(sub->id);
	clear_stops(sub->id, -1, CURABLE_STOPS);
	set_enabled(sub->id, true);
	PG_RETURN_VOID();
}

Datum
kappa_disable(PG_FUNCTION_ARGS)
{
	Subscription *sub;

	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.disable()");
	set_enabled(sub->id, false);
	PG_RETURN_VOID();
}

static void
refuse_open_dead_letters(const Subscription *sub)
{
	CatalogScope scope;
	CatalogArg	arg = CATALOG_INT4(sub->id);
	int64		n;
	bool		null;

	catalog_begin(&scope);
	catalog_execute("SELECT count(*) FROM kappa.dead_letter"
					" WHERE subscription = $1 AND redriven_at IS NULL", 1, &arg);
	n = DatumGetInt64(catalog_value(0, 1, &null));
	catalog_end(&scope);
	if (n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("subscription \"%s\" has dead letters", sub->name),
				 errdetail_plural("%lld message was neither stored nor purged.",
								  "%lld messages were neither stored nor purged.",
								  (unsigned long) n, (long long) n),
				 errhint("Use kappa.redrive, kappa.purge_dead_letters or kappa.unsubscribe(%s, force => true).",
						 quote_literal_cstr(sub->name))));
}

Datum
kappa_unsubscribe(PG_FUNCTION_ARGS)
{
	static const char *const statements[] = {
		"DELETE FROM kappa.dead_letter WHERE subscription = $1",
		"DELETE FROM kappa.closed_account WHERE subscription = $1",
		"DELETE FROM kappa.position WHERE subscription = $1",
		"DELETE FROM kappa.subscription WHERE id = $1"
	};
	Subscription *sub;
	CatalogScope scope;
	CatalogArg	arg = CATALOG_INT4(0);
	int			i;

	require_argument(fcinfo, 1, "force");
	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.unsubscribe()");
	if (!PG_GETARG_BOOL(1))
		refuse_open_dead_letters(sub);
	arg.value = Int32GetDatum(sub->id);
	catalog_begin(&scope);
	for (i = 0; i < lengthof(statements); i++)
		catalog_execute(statements[i], 1, &arg);
	catalog_end(&scope);
	notify_at_commit(sub->id);
	PG_RETURN_VOID();
}

/*
 * kappa.seek, kappa.skip
 */

/*
 * Whoever moves a position after the topic was re-created accepts the new topic
 * for the partitions that he moves.  The others stop, if they did not already:
 * their positions mean nothing in it.
 */
static void
accept_topic(const Subscription *sub, const char *topic_id, const bool *moved, int nparts)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(sub->id), CATALOG_TEXT(topic_id)};
	Position   *positions;
	int			n;
	int			i;

	if (topic_id == NULL || (sub->topic_id != NULL && strcmp(sub->topic_id, topic_id) == 0))
		return;
	positions = load_positions(sub->id, -1, 1, &n);
	for (i = 0; sub->topic_id != NULL && i < n; i++)
	{
		if (positions[i].part >= nparts || !moved[positions[i].part])
			stop_partition(sub, positions[i].part, "recreated",
						   positions[i].next_offset, positions[i].next_offset,
						   "the topic was re-created, and only other partitions were moved");
	}
	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription SET topic_id = $2 WHERE id = $1", 2, args);
	catalog_end(&scope);
}

/*
 * Ends the account and begins one at offset; high: the end by the broker, which
 * may be less than before.  false: there was none; *old is not set.
 */
static bool
seek_partition(int32 id, int32 part, int64 offset, int64 high, int64 *old)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(id), CATALOG_INT4(part), CATALOG_INT8(offset),
		CATALOG_OID(GetUserId()), CATALOG_TEXT(psprintf("seek to %lld", (long long) offset))
	};
	CatalogArg	place[] = {args[0], args[1], args[2], CATALOG_INT8(high)};
	bool		found;
	bool		null;

	catalog_begin(&scope);
	found = catalog_execute("INSERT INTO kappa.closed_account (subscription, part, start_offset,"
							" next_offset, stored, dead_lettered, filtered, skipped, holes,"
							" closed_by, reason)"
							" SELECT subscription, part, start_offset, next_offset, stored,"
							" dead_lettered, filtered, skipped, holes, $3, $4"
							" FROM kappa.position WHERE subscription = $1 AND part = $2"
							" RETURNING next_offset", 4,
							(CatalogArg[]) {args[0], args[1], args[3], args[4]}) > 0;
	if (found)
	{
		*old = DatumGetInt64(catalog_value(0, 1, &null));
		catalog_execute("UPDATE kappa.position SET start_offset = $3, next_offset = $3,"
						" stored = 0, dead_lettered = 0, filtered = 0, skipped = 0, holes = 0,"
						" last_offset = NULL, last_timestamp = NULL, last_fingerprint = NULL,"
						" last_message_time = NULL, verdict = 'ok', high_watermark = $4,"
						" recent_messages = 0, recent_dead = 0, stop_word = NULL, stop_from = NULL,"
						" stop_to = NULL, stop_detail = NULL, stop_since = NULL"
						" WHERE subscription = $1 AND part = $2", 4, place);
	}
	catalog_end(&scope);
	if (!found)
		add_position(id, part, offset);
	return found;
}

Datum
kappa_seek(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Subscription *sub;
	char	   *start_from;
	Start		start;
	int			part;

	start_from = text_argument(fcinfo, 1, "start_from");
	InitMaterializedSRF(fcinfo, 0);
	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.seek()");
	start = find_start(sub, start_from);
	for (part = 0; part < start.nparts; part++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};
		int64		old = 0;

		if (!start.named[part])
			continue;
		nulls[1] = !seek_partition(sub->id, part, start.offsets[part], start.high[part], &old);
		values[0] = Int32GetDatum(part);
		values[1] = Int64GetDatum(old);
		values[2] = Int64GetDatum(start.offsets[part]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	accept_topic(sub, start.topic_id, start.named, start.nparts);
	touch_subscription(sub->id);
	return (Datum) 0;
}

/* Takes what came; true when the whole range up to `at` has passed. */
static bool
count_messages(KafkaMessage *messages, int n, int32 part, int64 at, Passed *passed)
{
	bool		complete = false;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (messages[i].part == part && messages[i].offset <= at)
		{
			passed->seen++;
			passed->last = messages[i];
			passed->fingerprint = message_fingerprint(&messages[i]);
		}
		if (messages[i].part == part && messages[i].offset >= at)
			complete = true;
		kafka_release(&messages[i]);
	}
	return complete;
}

/* true when the event says that the range has passed; ERROR where it cannot. */
static bool
judge_event(const Subscription *sub, const KafkaEvent *event, int32 part, int64 at)
{
	if (event->kind == KAFKA_END_OF_PARTITION)
		return event->place.part == part && event->place.offset > at;
	if (event->kind == KAFKA_NO_EVENT ||
		event->error.class == KAFKA_DISCONNECTED || event->error.class == KAFKA_TIMED_OUT)
		return false;
	/* a record that cannot be read is what a skip may be for: it is a hole */
	report_kafka_error(event->kind == KAFKA_PARTITION_ERROR &&
					   event->error.class == KAFKA_OTHER ? WARNING : ERROR,
					   &event->error, sub->server, sub->topic);
	return false;
}

/* Read [from, at] to tell messages from holes. */
static void
read_passed(BrokerSession *session, const Subscription *sub, int32 part,
			int64 from, int64 at, Passed *passed)
{
	KafkaMessage *messages = palloc(sizeof(KafkaMessage) * SKIP_BATCH);
	KafkaPlace	place;
	KafkaError	error;
	TimestampTz heard = GetCurrentTimestamp();
	bool		complete = false;

	place.part = part;
	place.offset = from;
	if (!kafka_assign(session->client, sub->topic, &place, 1, &error))
		report_kafka_error(ERROR, &error, sub->server, sub->topic);
	while (!complete)
	{
		KafkaEvent	event;
		int			n;

		CHECK_FOR_INTERRUPTS();
		event.kind = KAFKA_NO_EVENT;
		n = broker_fill(session, messages, SKIP_BATCH, &event, 500);
		if (n > 0)
			heard = GetCurrentTimestamp();
		complete = count_messages(messages, n, part, at, passed);
		complete = judge_event(sub, &event, part, at) || complete;
		if (!complete && TimestampDifferenceExceeds(heard, GetCurrentTimestamp(), SKIP_SILENCE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the offsets to skip could not be read"),
					 errdetail("Server \"%s\" gave nothing of partition %d for %d s.",
							   sub->server, part, SKIP_SILENCE_MS / 1000),
					 errhint("Look at kappa.check_server, then try again.")));
	}
	pfree(messages);
}

static int64
stored_position(const Subscription *sub, int32 part)
{
	int			n;
	Position   *positions = load_positions(sub->id, -1, 1, &n);
	int			i;

	for (i = 0; i < n; i++)
	{
		if (positions[i].part == part)
			return positions[i].next_offset;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("subscription \"%s\" has no partition %d", sub->name, part),
			 errhint("SELECT part FROM kappa.stat_partition lists them.")));
}

/* Moves the position within its account and leaves a line of who did so. */
static void
skip_range(const Subscription *sub, int32 part, int64 from, int64 at, const Passed *passed)
{
	bool		none = passed->last.offset < 0;
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(sub->id), CATALOG_INT4(part), CATALOG_INT8(from), CATALOG_INT8(at + 1),
		CATALOG_INT8(passed->seen), CATALOG_INT8(at + 1 - from - passed->seen),
		{INT8OID, Int64GetDatum(passed->last.offset), none},
		{INT8OID, Int64GetDatum(passed->last.timestamp), none},
		{INT8OID, Int64GetDatum((int64) passed->fingerprint), none}
	};
	CatalogArg	line[] = {
		args[0], args[1], args[2], args[3], args[4], args[5], CATALOG_OID(GetUserId()),
		CATALOG_TEXT(psprintf("skip to %lld", (long long) at + 1))
	};

	catalog_begin(&scope);
	if (catalog_execute("UPDATE kappa.position SET next_offset = $4, skipped = skipped + $5,"
						" holes = holes + $6, last_offset = $7, last_timestamp = $8,"
						" last_fingerprint = $9, recent_messages = 0, recent_dead = 0,"
						" stop_word = NULL, stop_from = NULL, stop_to = NULL,"
						" stop_detail = NULL, stop_since = NULL"
						" WHERE subscription = $1 AND part = $2 AND next_offset = $3",
						lengthof(args), args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition %d is not at offset %lld any more", part, (long long) from),
				 errhint("Try again.")));
	catalog_execute("INSERT INTO kappa.closed_account (subscription, part, start_offset, next_offset,"
					" stored, dead_lettered, filtered, skipped, holes, closed_by, reason)"
					" VALUES ($1, $2, $3, $4, 0, 0, 0, $5, $6, $7, $8)", lengthof(line), line);
	catalog_end(&scope);
}

/* Is `at` a place to skip to?  from: the position; high: the end by the broker. */
static void
check_skip(int32 part, int64 at, int64 from, int64 high)
{
	if (at < from)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("offset %lld of partition %d has been passed already",
						(long long) at, part),
				 errdetail("The position is %lld.", (long long) from),
				 errhint("kappa.seek moves a position back.")));
	if (high >= 0 && at >= high)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("offset %lld of partition %d is not there yet", (long long) at, part),
				 errdetail("The high watermark is %lld.", (long long) high),
				 errhint("Skip only what stands in the topic.")));
}

Datum
kappa_skip(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	BrokerSession *session;
	Passed		passed = {0};
	char	   *topic_id;
	int64	   *low;
	int64	   *high;
	bool	   *moved;
	int32		part;
	int64		at;
	int64		from;
	int			nparts;

	require_argument(fcinfo, 1, "part");
	require_argument(fcinfo, 2, "at");
	part = PG_GETARG_INT32(1);
	at = PG_GETARG_INT64(2);
	sub = control_subscription(text_argument(fcinfo, 0, "name"), "kappa.skip()");
	from = stored_position(sub, part);
	check_skip(part, at, from, -1);

	session = broker_connect(sub->server, sub->owner, sub->options, NULL);
	nparts = broker_partitions(session, sub->topic);
	if (part >= nparts)
		check_skip(part, at, from, 0);
	low = palloc(sizeof(int64) * nparts);
	high = palloc(sizeof(int64) * nparts);
	moved = palloc0(sizeof(bool) * nparts);
	broker_offsets(session, sub->topic, nparts, low, high);
	check_skip(part, at, from, high[part]);
	passed.last.offset = -1;
	if (low[part] <= at)
		read_passed(session, sub, part, Max(from, low[part]), at, &passed);
	topic_id = broker_topic_id(session, sub->topic);
	broker_disconnect(session);

	skip_range(sub, part, from, at, &passed);
	moved[part] = true;
	accept_topic(sub, topic_id, moved, nparts);
	touch_subscription(sub->id);
	PG_RETURN_INT64(at + 1);
}

/*
 * kappa.drain, kappa.wait_for
 */
static Subscription *
subscription_to_wait_for(const char *name)
{
	Subscription *sub = subscription_by_name(name, false);

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
			 errdetail_internal("%s", reason),
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

static void pg_attribute_noreturn()
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

	sub = subscription_to_wait_for(text_argument(fcinfo, 0, "name"));
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
	sub = subscription_to_wait_for(text_argument(fcinfo, 0, "name"));
	wait_for_places(sub, &place, 1, timeout);
	PG_RETURN_VOID();
}

/*
 * kappa.purge_dead_letters
 */
Datum
kappa_purge_dead_letters(PG_FUNCTION_ARGS)
{
	Subscription *sub;
	CatalogScope scope;
	CatalogArg	args[2] = {CATALOG_NULL(INT4OID), CATALOG_NULL(TIMESTAMPTZOID)};
	uint64		n;

	require_argument(fcinfo, 1, "before");
	PreventCommandIfReadOnly("kappa.purge_dead_letters()");
	sub = subscription_by_name(text_argument(fcinfo, 0, "name"), false);
	check_subscription_owner(sub);
	/* not while kappa.redrive works on them */
	lock_subscription(sub->id, SUBSCRIPTION_BATCH_LOCK);
	args[0].value = Int32GetDatum(sub->id);
	args[1].value = PG_GETARG_DATUM(1);
	args[0].null = args[1].null = false;
	catalog_begin(&scope);
	n = catalog_execute("DELETE FROM kappa.dead_letter WHERE subscription = $1 AND created_at < $2",
						2, args);
	catalog_end(&scope);
	PG_RETURN_INT64((int64) n);
}
