/*
 * subscription.c
 *		Subscriptions: their definitions as they are loaded, locked and touched.
 *
 * Owns the rows of kappa.subscription as everybody else sees them (struct
 * Subscription); subscription_control.c, subscription_seek.c and
 * subscription_wait.c hold the SQL functions that work on them,
 * subscription_check.c what a definition has to pass.
 *
 * States: enabled or not; of this database or of another one, when the tables
 * came by a logical copy (foreign_identity: no worker runs until kappa.enable).
 *
 * Locks: one object lock per subscription, class kappa.subscription, object id.
 * Whoever needs it takes it before it reads the row, and holds it to the end of
 * the transaction.
 *
 * Crash story: a definition is one row, written with its positions in one
 * transaction; nothing about it stands anywhere else.
 */
#include "postgres.h"

#include "subscription.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "arguments.h"
#include "catalog.h"
#include "compat.h"
#include "shmem.h"

static const char *const format_words[] = {"json", "csv", "text", "bytea"};

/* The columns that load_row() reads, in this order. */
#define SUBSCRIPTION_COLUMNS \
	"id, name, owner::pg_catalog.oid, server, topic, target::pg_catalog.oid, " \
	"format, mode, key_columns, columns, transform, search_path, event_time, " \
	"watermark_delay, idle_timeout, on_error, workers, batch_rows, batch_wait, " \
	"options, enabled, generation, system_identifier, database_oid, topic_id, xmin"

enum
{
	COL_ID = 1,
	COL_NAME,
	COL_OWNER,
	COL_SERVER,
	COL_TOPIC,
	COL_TARGET,
	COL_FORMAT,
	COL_MODE,
	COL_KEY_COLUMNS,
	COL_COLUMNS,
	COL_TRANSFORM,
	COL_SEARCH_PATH,
	COL_EVENT_TIME,
	COL_WATERMARK_DELAY,
	COL_IDLE_TIMEOUT,
	COL_ON_ERROR,
	COL_WORKERS,
	COL_BATCH_ROWS,
	COL_BATCH_WAIT,
	COL_OPTIONS,
	COL_ENABLED,
	COL_GENERATION,
	COL_SYSTEM_IDENTIFIER,
	COL_DATABASE_OID,
	COL_TOPIC_ID,
	COL_XMIN
};

/*
 * Words of a definition
 */
MessageFormat
parse_message_format(const char *word)
{
	int			i;

	for (i = 0; i < lengthof(format_words); i++)
	{
		if (strcmp(word, format_words[i]) == 0)
			return (MessageFormat) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown format \"%s\"", word),
			 errhint("Use format => 'json', 'csv', 'text' or 'bytea'.")));
}

const char *
message_format_word(MessageFormat format)
{
	return format_words[format];
}

bool
parse_upsert_mode(const char *word)
{
	if (strcmp(word, "append") != 0 && strcmp(word, "upsert") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", word),
				 errhint("Use mode => 'append' or 'upsert'.")));
	return strcmp(word, "upsert") == 0;
}

bool
parse_stop_on_error(const char *word)
{
	if (strcmp(word, "dead_letter") != 0 && strcmp(word, "stop") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown on_error \"%s\"", word),
				 errhint("Use on_error => 'dead_letter' or 'stop'.")));
	return strcmp(word, "stop") == 0;
}

/*
 * Loading
 */
static char *
load_text(int row, int column)
{
	bool		null;
	Datum		value = catalog_value(row, column, &null);

	return null ? NULL : TextDatumGetCString(value);
}

static Jsonb *
load_jsonb(int row, int column)
{
	bool		null;
	Datum		value = catalog_value(row, column, &null);

	return null ? NULL : DatumGetJsonbPCopy(value);
}

static List *
load_names(int row, int column)
{
	bool		null;
	Datum		value = catalog_value(row, column, &null);
	List	   *result = NIL;
	Datum	   *names;
	int			n;
	int			i;

	if (null)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &names, NULL, &n);
	for (i = 0; i < n; i++)
		result = lappend(result, TextDatumGetCString(names[i]));
	return result;
}

static int64
load_interval(int row, int column, const char *name)
{
	bool		null;

	return interval_microseconds(DatumGetIntervalP(catalog_value(row, column, &null)),
								 name);
}

static bool
made_elsewhere(int row)
{
	bool		null;
	uint64		cluster = (uint64) DatumGetInt64(catalog_value(row, COL_SYSTEM_IDENTIFIER, &null));
	Oid			database = DatumGetObjectId(catalog_value(row, COL_DATABASE_OID, &null));

	return cluster != GetSystemIdentifier() || database != MyDatabaseId;
}

/* A row of SUBSCRIPTION_COLUMNS, into the current memory context. */
static Subscription *
load_row(int row)
{
	Subscription *sub = palloc0(sizeof(Subscription));
	bool		null;

	sub->id = DatumGetInt32(catalog_value(row, COL_ID, &null));
	sub->name = load_text(row, COL_NAME);
	sub->owner = DatumGetObjectId(catalog_value(row, COL_OWNER, &null));
	sub->server = load_text(row, COL_SERVER);
	sub->topic = load_text(row, COL_TOPIC);
	sub->target = DatumGetObjectId(catalog_value(row, COL_TARGET, &null));
	sub->format = parse_message_format(load_text(row, COL_FORMAT));
	sub->upsert = parse_upsert_mode(load_text(row, COL_MODE));
	sub->key_columns = load_names(row, COL_KEY_COLUMNS);
	sub->columns = load_jsonb(row, COL_COLUMNS);
	sub->transform = load_text(row, COL_TRANSFORM);
	sub->search_path = load_text(row, COL_SEARCH_PATH);
	sub->event_time = load_text(row, COL_EVENT_TIME);
	sub->watermark_delay = load_interval(row, COL_WATERMARK_DELAY, "watermark_delay");
	sub->idle_timeout = load_interval(row, COL_IDLE_TIMEOUT, "idle_timeout");
	sub->stop_on_error = parse_stop_on_error(load_text(row, COL_ON_ERROR));
	sub->workers = DatumGetInt32(catalog_value(row, COL_WORKERS, &null));
	sub->batch_rows = DatumGetInt32(catalog_value(row, COL_BATCH_ROWS, &null));
	sub->batch_wait = load_interval(row, COL_BATCH_WAIT, "batch_wait");
	sub->options = load_jsonb(row, COL_OPTIONS);
	sub->enabled = DatumGetBool(catalog_value(row, COL_ENABLED, &null));
	sub->generation = DatumGetInt64(catalog_value(row, COL_GENERATION, &null));
	sub->foreign_identity = made_elsewhere(row);
	sub->topic_id = load_text(row, COL_TOPIC_ID);
	sub->changed_here =
		TransactionIdIsCurrentTransactionId(DatumGetTransactionId(catalog_value(row, COL_XMIN, &null)));
	return sub;
}

/* sql gives one row of SUBSCRIPTION_COLUMNS or none */
static Subscription *
load_subscription(const char *sql, CatalogArg arg)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi_context;
	Subscription *sub = NULL;
	CatalogScope scope;

	catalog_begin(&scope);
	if (catalog_execute(sql, 1, &arg) > 0)
	{
		spi_context = MemoryContextSwitchTo(context);
		sub = load_row(0);
		MemoryContextSwitchTo(spi_context);
	}
	catalog_end(&scope);
	return sub;
}

Subscription *
subscription_by_name(const char *name, bool missing_ok)
{
	CatalogArg	arg = CATALOG_TEXT(name);
	Subscription *sub;

	sub = load_subscription("SELECT " SUBSCRIPTION_COLUMNS
							" FROM kappa.subscription WHERE name = $1", arg);
	if (sub == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("SELECT name FROM kappa.subscriptions lists them.")));
	return sub;
}

Subscription *
subscription_by_id(int32 id, bool missing_ok)
{
	CatalogArg	arg = CATALOG_INT4(id);
	Subscription *sub;

	sub = load_subscription("SELECT " SUBSCRIPTION_COLUMNS
							" FROM kappa.subscription WHERE id = $1", arg);
	if (sub == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription with number %d does not exist", id),
				 errhint("SELECT name FROM kappa.subscriptions lists them.")));
	return sub;
}

List *
subscriptions_to_run(void)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi_context;
	List	   *result = NIL;
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT8((int64) GetSystemIdentifier()), CATALOG_OID(MyDatabaseId)
	};
	uint64		n;
	uint64		i;
	bool		null;

	catalog_begin(&scope);
	n = catalog_execute("SELECT id, workers, name FROM kappa.subscription"
						" WHERE enabled AND system_identifier = $1"
						" AND database_oid = $2 ORDER BY id", 2, args);
	spi_context = MemoryContextSwitchTo(context);
	for (i = 0; i < n; i++)
	{
		SubscriptionWorkers *run = palloc0(sizeof(SubscriptionWorkers));

		run->id = DatumGetInt32(catalog_value(i, 1, &null));
		run->workers = DatumGetInt32(catalog_value(i, 2, &null));
		strlcpy(run->name, load_text(i, 3), sizeof(run->name));
		result = lappend(result, run);
	}
	MemoryContextSwitchTo(spi_context);
	catalog_end(&scope);
	return result;
}

/*
 * Locks and ownership
 */
static Oid
subscription_class(void)
{
	Oid			schema = get_namespace_oid("kappa", true);
	Oid			class = OidIsValid(schema) ? get_relname_relid("subscription", schema) : InvalidOid;

	if (!OidIsValid(class))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table kappa.subscription does not exist"),
				 errhint("Run CREATE EXTENSION pg_kappa CASCADE.")));
	return class;
}

void
lock_subscription(int32 id, LOCKMODE mode)
{
	LockDatabaseObject(subscription_class(), (Oid) id, 0, mode);
}

bool
subscription_locked_here(int32 id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, subscription_class(), (Oid) id, 0);
	return lock_held_by_me(&tag, SUBSCRIPTION_CONTROL_LOCK);
}

void
check_subscription_owner(const Subscription *sub)
{
	char	   *owner;

	if (has_privs_of_role(GetUserId(), sub->owner))
		return;
	owner = GetUserNameFromId(sub->owner, true);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of subscription \"%s\"", sub->name),
			 owner ? errdetail("Its owner is role \"%s\".", owner) :
			 errdetail("The role that owned it was dropped."),
			 owner ? errhint("GRANT %s TO %s lets you control it.",
							 quote_identifier(owner),
							 quote_identifier(GetUserNameFromId(GetUserId(), false))) :
			 errhint("Ask a superuser.")));
}

void
touch_subscription(int32 id)
{
	CatalogScope scope;
	CatalogArg	arg = CATALOG_INT4(id);

	catalog_begin(&scope);
	catalog_execute("UPDATE kappa.subscription"
					" SET generation = generation + 1, changed_at = now()"
					" WHERE id = $1", 1, &arg);
	catalog_end(&scope);
	notify_at_commit(id);
}

/*
 * Read before every batch, so its plan is kept.  -1: gone, disabled, or the
 * extension itself is gone or of another version.
 */
int64
subscription_generation(int32 id)
{
	static SPIPlanPtr plan = NULL;
	CatalogScope scope;
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(id);
	int64		generation = -1;
	bool		null;

	if (catalog_state() != CATALOG_READY)
		return -1;
	catalog_begin(&scope);
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT generation FROM kappa.subscription WHERE id = $1 AND enabled",
						   1, &type);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the look at a subscription's generation");
	}
	if (SPI_execute_plan(plan, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a subscription's generation");
	if (SPI_processed == 1)
		generation = DatumGetInt64(catalog_value(0, 1, &null));
	catalog_end(&scope);
	return generation;
}
