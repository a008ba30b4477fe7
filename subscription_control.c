/*
 * subscription_control.c
 *		The SQL functions that make, change and end subscriptions.
 *
 * Each function that changes something takes the subscription's control lock
 * before it reads the definition, so it waits for the batches in flight, and no
 * batch is committed under the old definition once it returns.  Everything it
 * does is part of the caller's transaction and rolls back with it; workers and
 * launcher are told at commit.  The order is always: lock, broker, tables.
 * subscription_seek.c, which moves positions, keeps the same rules.
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
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "catalog.h"
#include "position.h"
#include "shmem.h"
#include "start_from.h"
#include "subscription.h"
#include "subscription_check.h"
#include "window_check.h"
#include "window_control.h"

/* What a changed definition or a fresh start may have put right. */
#define CURABLE_STOPS		"schema,rights,poison"

PG_FUNCTION_INFO_V1(kappa_subscribe);
PG_FUNCTION_INFO_V1(kappa_alter_subscription);
PG_FUNCTION_INFO_V1(kappa_enable);
PG_FUNCTION_INFO_V1(kappa_disable);
PG_FUNCTION_INFO_V1(kappa_unsubscribe);

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
	SubscriptionStart start;
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
	refuse_shared_target(sub);

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
	Subscription before;
	bool		enable = !PG_ARGISNULL(ARG_ENABLED - ALTER_SHIFT) &&
		PG_GETARG_BOOL(ARG_ENABLED - ALTER_SHIFT);

	sub = control_subscription(text_argument(fcinfo, ARG_NAME, "name"),
							   "kappa.alter_subscription()");
	before = *sub;
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
	refuse_change_below_views(&before, sub);

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
	if (!PG_GETARG_BOOL(1))
		refuse_window_views(sub, "Drop them, or use force => true, which drops them too.");
	drop_window_views(sub->id);
	arg.value = Int32GetDatum(sub->id);
	catalog_begin(&scope);
	for (i = 0; i < lengthof(statements); i++)
		catalog_execute(statements[i], 1, &arg);
	catalog_end(&scope);
	notify_at_commit(sub->id);
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
