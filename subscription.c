/*
 * subscription.c
 *		Subscriptions: their definitions, and the checks that a definition
 *		has to pass.
 *
 * Owns the rows of kappa.subscription as everybody else sees them (struct
 * Subscription); subscription_control.c holds the SQL functions that change
 * them.  A definition is checked once, when it is made or altered, with the
 * rights of its owner.  What changes behind its back (a dropped column, a
 * revoked right) is found by the worker, which stops with that reason.
 *
 * States: enabled or not; of this database or of another one, when the tables
 * came by a logical copy (foreign_identity: no worker runs until kappa.enable).
 *
 * Locks: one object lock per subscription, class kappa.subscription, object id.
 * Whoever needs it takes it before it reads the row, and holds it to the end of
 * the transaction.  The relations that a check looks at stay locked in access
 * share mode to the end of the transaction, as a query's would.
 *
 * Crash story: a definition is one row, written with its positions in one
 * transaction; nothing about it stands anywhere else.
 */
#include "postgres.h"

#include "subscription.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "broker_options.h"
#include "catalog.h"
#include "compat.h"
#include "core/json.h"
#include "shmem.h"
#include "transform_query.h"

#define MAX_WORKERS		64

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

/* Months count 30 days and days 24 hours, as when PostgreSQL compares intervals. */
int64
interval_microseconds(const Interval *interval, const char *argument)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, interval->time, &result) ||
		result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a finite interval that is not negative",
						argument),
				 errhint("Use %s => '5 s', for example.", argument)));
	return result;
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
 * extension itself is.
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

	if (!catalog_exists())
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

/*
 * Checks: server
 */
void
check_subscription_server(const char *server, Oid role)
{
	Oid			oid = get_foreign_server_oid(server, true);
	ForeignServer *foreign;

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", server),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'host:9092');",
						 quote_identifier(server))));
	foreign = GetForeignServer(oid);
	if (strcmp(GetForeignDataWrapper(foreign->fdwid)->fdwname, "kafka") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Kafka server", server),
				 errdetail("Its foreign-data wrapper is not \"kafka\"."),
				 errhint("CREATE SERVER ... FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'host:9092');")));
	if (foreign_server_aclcheck(oid, role) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server \"%s\"", server),
				 errdetail("Role \"%s\" has no USAGE on it.", GetUserNameFromId(role, false)),
				 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s;", quote_identifier(server),
						 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * Checks: target
 */
static char *
target_name(Oid target)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(target)),
									  get_rel_name(target));
}

static bool
is_system_schema(Oid schema)
{
	char	   *name = get_namespace_name(schema);

	return IsCatalogNamespace(schema) || IsToastNamespace(schema) ||
		(name != NULL && (strcmp(name, "information_schema") == 0 ||
						  strcmp(name, "kappa") == 0));
}

static void
check_target_kind(Oid target)
{
	char		kind = get_rel_relkind(target);

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE &&
		kind != RELKIND_VIEW && kind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be the target of a subscription", target_name(target)),
				 errdetail("A target is a table, a partitioned table, a view or a foreign table."),
				 errhint("Name a table by target => 'schema.table'.")));
	if (is_system_schema(get_rel_namespace(target)) || IsCatalogRelationOid(target))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s cannot be the target of a subscription", target_name(target)),
				 errdetail("It belongs to the system or to the extension."),
				 errhint("Name a table of your own by target => 'schema.table'.")));
	if (get_rel_persistence(target) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a temporary table cannot be the target of a subscription"),
				 errdetail("Only the session that made it can write to it."),
				 errhint("Make a table that is not temporary.")));
	if ((relation_is_updatable(target, NIL, true, NULL) & (1 << CMD_INSERT)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rows cannot be inserted into %s", target_name(target)),
				 errdetail("The view or foreign table takes no INSERT."),
				 errhint("Give the view an INSTEAD OF INSERT trigger, or name a table.")));
}

static void
check_target_privilege(Oid target, Oid role, AclMode privilege, const char *word)
{
	char	   *name;

	if (pg_class_aclcheck(target, role, privilege) == ACLCHECK_OK)
		return;
	name = target_name(target);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for %s", name),
			 errdetail("Role \"%s\" has no right to %s.",
					   GetUserNameFromId(role, false), word),
			 errhint("GRANT %s ON %s TO %s;", word, name,
					 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * The worker runs a table's triggers, defaults and index expressions as the
 * table's owner, which the subscription's owner must be able to become: else any
 * table owner could have his code run with the rights of others.
 */
static void
check_target_owner(Oid target, Oid role)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(target));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", target);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	if (!can_set_role(role, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" cannot set role to the owner of %s",
						GetUserNameFromId(role, false), target_name(target)),
				 errdetail("Rows are written with the rights of the table's owner, role \"%s\".",
						   GetUserNameFromId(owner, false)),
				 errhint("GRANT %s TO %s;",
						 quote_identifier(GetUserNameFromId(owner, false)),
						 quote_identifier(GetUserNameFromId(role, false)))));
}

void
check_subscription_target(Oid target, Oid role, bool upsert)
{
	if (get_rel_name(target) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target of the subscription does not exist"),
				 errdetail("The relation with OID %u was dropped.", target),
				 errhint("Name another one by target => 'schema.table'.")));
	check_target_kind(target);
	check_target_privilege(target, role, ACL_INSERT, "INSERT");
	if (upsert)
	{
		check_target_privilege(target, role, ACL_SELECT, "SELECT");
		check_target_privilege(target, role, ACL_UPDATE, "UPDATE");
		check_target_privilege(target, role, ACL_DELETE, "DELETE");
	}
	check_target_owner(target, role);
	if (check_enable_rls(target, role, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("row-level security of %s binds role \"%s\"",
						target_name(target), GetUserNameFromId(role, false)),
				 errdetail("A subscription writes without row-level security, so it must not apply to its owner."),
				 errhint("Subscribe as the owner of the table or as a role with BYPASSRLS.")));
	if (get_rel_persistence(target) == RELPERSISTENCE_UNLOGGED)
		ereport(WARNING,
				(errmsg("%s is unlogged", target_name(target)),
				 errdetail("A crash empties it, while the positions stay."),
				 errhint("ALTER TABLE %s SET LOGGED;", target_name(target))));
}

/* Number of a target's column; ERROR 42703 where there is none to write to. */
static AttrNumber
target_column(Relation target, const char *name, const char *argument)
{
	TupleDesc	desc = RelationGetDescr(target);
	int			i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || strcmp(NameStr(att->attname), name) != 0)
			continue;
		if (att->attgenerated != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("column \"%s\" of %s is a generated column", name,
							target_name(RelationGetRelid(target))),
					 errdetail("%s names it, but nothing can be written to it.", argument),
					 errhint("Leave the column out.")));
		return att->attnum;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of %s does not exist", name,
					target_name(RelationGetRelid(target))),
			 errdetail("%s names it.", argument),
			 errhint("Names match exactly; ALTER TABLE ... ADD COLUMN %s ... makes one.",
					 quote_identifier(name))));
}

static Oid
target_column_type(Relation target, AttrNumber attnum)
{
	return TupleDescAttr(RelationGetDescr(target), attnum - 1)->atttypid;
}

/*
 * Checks: key_columns
 */
static List *
index_columns(Relation target, Form_pg_index index)
{
	List	   *names = NIL;
	int			i;

	for (i = 0; i < index->indnkeyatts; i++)
	{
		AttrNumber	attnum = index->indkey.values[i];

		if (attnum <= 0)
			return NIL;			/* an expression */
		names = lappend(names, pstrdup(NameStr(TupleDescAttr(RelationGetDescr(target),
															 attnum - 1)->attname)));
	}
	return names;
}

static bool
same_names(List *a, List *b)
{
	ListCell   *cell;
	ListCell   *other;

	if (list_length(a) != list_length(b))
		return false;
	foreach(cell, a)
	{
		bool		found = false;

		foreach(other, b)
			found = found || strcmp(lfirst(cell), lfirst(other)) == 0;
		if (!found)
			return false;
	}
	return true;
}

/*
 * Columns of the target's primary key where keys is NIL; else keys if a unique
 * index that ON CONFLICT can use has exactly these columns.  NIL: neither.
 */
static List *
find_unique_key(Relation target, List *keys)
{
	List	   *indexes = RelationGetIndexList(target);
	List	   *found = NIL;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	rel = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index index = rel->rd_index;
		List	   *names = index_columns(target, index);

		if (index->indisunique && index->indisvalid && index->indimmediate &&
			heap_attisnull(rel->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			found == NIL &&
			(keys == NIL ? index->indisprimary : same_names(names, keys)))
			found = keys == NIL ? names : keys;
		index_close(rel, AccessShareLock);
	}
	return found;
}

static void
check_key_names(Relation target, List *keys)
{
	ListCell   *cell;
	ListCell   *other;

	foreach(cell, keys)
	{
		target_column(target, lfirst(cell), "key_columns");
		foreach(other, keys)
		{
			if (other != cell && strcmp(lfirst(cell), lfirst(other)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" stands twice in key_columns",
								(char *) lfirst(cell)),
						 errhint("Name each column once.")));
		}
	}
}

static void
check_key_columns(Subscription *sub, Relation target)
{
	char		kind = target->rd_rel->relkind;

	if (!sub->upsert)
	{
		if (sub->key_columns != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key_columns have no meaning in append mode"),
					 errhint("Use mode => 'upsert', or leave key_columns out.")));
		return;
	}
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("upsert into %s is not supported", target_name(sub->target)),
				 errdetail("A view or foreign table has no unique index to find the row by."),
				 errhint("Use mode => 'append', or name the table itself.")));
	check_key_names(target, sub->key_columns);
	if (find_unique_key(target, sub->key_columns) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 sub->key_columns == NIL ?
				 errmsg("%s has no primary key to upsert by", target_name(sub->target)) :
				 errmsg("%s has no unique index on exactly the key_columns",
						target_name(sub->target)),
				 errdetail("Upsert needs a unique index that is neither deferrable nor partial and holds no expression."),
				 errhint("ALTER TABLE %s ADD PRIMARY KEY (...), or name the columns of a unique index by key_columns => '{...}'.",
						 target_name(sub->target))));
	sub->key_columns = find_unique_key(target, sub->key_columns);
}

/*
 * Checks: columns
 */
static void pg_attribute_noreturn()
refuse_column_source(const char *column, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid source of column \"%s\" in columns", column),
			 errdetail("%s", detail),
			 errhint("Use \"$.path\", \"kafka.topic\", \"kafka.partition\", \"kafka.offset\", \"kafka.timestamp\", \"kafka.key\", \"kafka.headers\" or {\"path\": \"$.path\", \"unit\": \"ms\"}.")));
}

static void
check_column_path(const Subscription *sub, const char *column, const char *path, int len)
{
	JsonStep	steps[JSON_MAX_DEPTH];

	if (sub->format != FORMAT_JSON)
		refuse_column_source(column, "A path needs format => 'json'.");
	if (json_parse_path(path, len, steps, JSON_MAX_DEPTH) < 0)
		refuse_column_source(column, "It is not a path such as $.a.b[0] or $['a b'].");
}

static void
check_column_metadata(const char *column, const char *word, int len)
{
	static const char *const words[] = {
		"kafka.topic", "kafka.partition", "kafka.offset", "kafka.timestamp",
		"kafka.key", "kafka.headers"
	};
	int			i;

	for (i = 0; i < lengthof(words); i++)
	{
		if (strlen(words[i]) == (size_t) len && strncmp(words[i], word, len) == 0)
			return;
	}
	refuse_column_source(column, "It is neither a path nor the name of a part of the message.");
}

static void
check_column_string(const Subscription *sub, const char *column, const JsonbValue *source)
{
	const char *text = source->val.string.val;
	int			len = source->val.string.len;

	if (len > 0 && text[0] == '$')
		check_column_path(sub, column, text, len);
	else
		check_column_metadata(column, text, len);
}

/* {"path": "$.ts_ms", "unit": "ms"} for a column of the given type */
static void
check_column_object(const Subscription *sub, const char *column, Oid type,
					JsonbContainer *object)
{
	JsonbValue *path = getKeyJsonValueFromContainer(object, "path", 4, NULL);
	JsonbValue *unit = getKeyJsonValueFromContainer(object, "unit", 4, NULL);
	static const char *const units[] = {"s", "ms", "us", "ns"};
	bool		known = false;
	int			i;

	if (path == NULL || path->type != jbvString ||
		JsonContainerSize(object) != (unit ? 2 : 1))
		refuse_column_source(column, "An object has the members \"path\" and \"unit\", and no others.");
	check_column_path(sub, column, path->val.string.val, path->val.string.len);
	if (unit == NULL)
		return;
	for (i = 0; i < lengthof(units); i++)
		known = known || (unit->type == jbvString &&
						  strlen(units[i]) == (size_t) unit->val.string.len &&
						  strncmp(units[i], unit->val.string.val, unit->val.string.len) == 0);
	if (!known)
		refuse_column_source(column, "The unit is one of s, ms, us, ns, counted since 1970.");
	type = getBaseType(type);
	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID)
		refuse_column_source(column, "Only a timestamptz or timestamp column can have a unit.");
}

static void
check_column_map(const Subscription *sub, Relation target)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	AttrNumber	attnum = InvalidAttrNumber;
	char	   *column = NULL;

	if (sub->columns == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(sub->columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns must be a JSON object"),
				 errhint("Use columns => '{\"column\": \"$.path\"}'.")));
	it = JsonbIteratorInit(&sub->columns->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			column = pnstrdup(value.val.string.val, value.val.string.len);
			attnum = target_column(target, column, "columns");
		}
		else if (token == WJB_VALUE && value.type == jbvString)
			check_column_string(sub, column, &value);
		else if (token == WJB_VALUE && value.type == jbvBinary &&
				 JsonContainerIsObject(value.val.binary.data))
			check_column_object(sub, column, target_column_type(target, attnum),
								value.val.binary.data);
		else if (token == WJB_VALUE)
			refuse_column_source(column, "It is neither a string nor an object.");
	}
}

/* text and bytea fill column "value", unless a transform does the filling */
static void
check_value_column(const Subscription *sub, Relation target)
{
	AttrNumber	attnum;

	if (sub->transform != NULL ||
		(sub->format != FORMAT_TEXT && sub->format != FORMAT_BYTEA))
		return;
	attnum = target_column(target, "value",
						   psprintf("format => '%s'", message_format_word(sub->format)));
	if (sub->format == FORMAT_BYTEA &&
		getBaseType(target_column_type(target, attnum)) != BYTEAOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"value\" of %s is not of type bytea", target_name(sub->target)),
				 errdetail("format => 'bytea' stores the bytes of each message in it."),
				 errhint("Use format => 'text', or make the column a bytea.")));
}

/*
 * Checks: transform
 */
TupleDesc
transform_message_desc(MessageFormat format)
{
	TupleDesc	desc = CreateTemplateTupleDesc(7);
	Oid			value = format == FORMAT_JSON ? JSONBOID :
		format == FORMAT_BYTEA ? BYTEAOID : TEXTOID;

	TupleDescInitEntry(desc, 1, "topic", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, 2, "part", INT4OID, -1, 0);
	TupleDescInitEntry(desc, 3, "kafka_offset", INT8OID, -1, 0);
	TupleDescInitEntry(desc, 4, "kafka_timestamp", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, 5, "key", BYTEAOID, -1, 0);
	TupleDescInitEntry(desc, 6, "value", value, -1, 0);
	TupleDescInitEntry(desc, 7, "headers", JSONBOID, -1, 0);
	return desc;
}

static void
refuse_in_transform(bool found, const char *what)
{
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must not contain %s", what),
				 errdetail("A transform gives the rows of each message as if it ran for that message alone."),
				 errhint("Write one SELECT ... FROM message; aggregates belong in a window view or behind the table.")));
}

/* An error's position is one in the transform, not in the caller's statement. */
static void
transform_error_callback(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
	else
		errcontext("transform of the subscription");
}

static RawStmt *
parse_transform(const char *transform)
{
	List	   *statements = pg_parse_query(transform);
	RawStmt    *raw = statements == NIL ? NULL : linitial_node(RawStmt, statements);

	if (list_length(statements) != 1 || !IsA(raw->stmt, SelectStmt) ||
		((SelectStmt *) raw->stmt)->intoClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must be one SELECT"),
				 errhint("Use transform => 'SELECT value->>''a'' AS a FROM message'.")));
	return raw;
}

static bool
is_message(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_NAMEDTUPLESTORE &&
		strcmp(rte->enrname, TRANSFORM_RELATION) == 0;
}

/* Count the places in the whole query, sub-selects included, that read message. */
static bool
count_messages(Node *node, void *count)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		if (is_message((RangeTblEntry *) node))
			(*(int *) count)++;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_messages, count,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_messages, count);
}

/* Can an outer join give rows without a message?  (those belong to no offset) */
static bool
message_is_nullable(Node *node, int rtindex, bool nullable)
{
	ListCell   *cell;

	if (IsA(node, RangeTblRef))
		return nullable && ((RangeTblRef *) node)->rtindex == rtindex;
	if (IsA(node, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) node;
		bool		full = join->jointype == JOIN_FULL;

		return message_is_nullable(join->larg, rtindex,
								   nullable || full || join->jointype == JOIN_RIGHT) ||
			message_is_nullable(join->rarg, rtindex,
								nullable || full || join->jointype == JOIN_LEFT);
	}
	foreach(cell, castNode(FromExpr, node)->fromlist)
	{
		if (message_is_nullable(lfirst(cell), rtindex, nullable))
			return true;
	}
	return false;
}

static void
check_transform_source(Query *query)
{
	ListCell   *cell;
	int			everywhere = 0;
	int			rtindex = 0;
	int			found = 0;

	foreach(cell, query->rtable)
	{
		rtindex++;
		if (is_message(lfirst(cell)))
		{
			found = rtindex;
			break;
		}
	}
	count_messages((Node *) query, &everywhere);
	if (found == 0 || everywhere != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform must name the relation \"%s\" once, in its own FROM",
						TRANSFORM_RELATION),
				 errdetail_plural("It is named %d time, sub-selects included.",
								  "It is named %d times, sub-selects included.",
								  everywhere, everywhere),
				 errhint("Write SELECT ... FROM message; sub-selects may use its columns by LATERAL.")));
	refuse_in_transform(message_is_nullable((Node *) query->jointree, found, false),
						"an outer join that gives rows without a message");
}

static void
check_transform_shape(Query *query)
{
	refuse_in_transform(query->setOperations != NULL, "a set operation (UNION, INTERSECT, EXCEPT)");
	refuse_in_transform(query->groupClause != NIL || query->groupingSets != NIL ||
						query->havingQual != NULL, "GROUP BY or HAVING");
	refuse_in_transform(query->hasAggs, "an aggregate");
	refuse_in_transform(query->hasWindowFuncs || query->windowClause != NIL, "a window function");
	refuse_in_transform(query->distinctClause != NIL, "DISTINCT");
	refuse_in_transform(query->limitCount != NULL || query->limitOffset != NULL,
						"LIMIT or OFFSET");
	refuse_in_transform(query->rowMarks != NIL, "FOR UPDATE or FOR SHARE");
	refuse_in_transform(query->hasModifyingCTE, "a data-modifying WITH query");
	refuse_in_transform(isQueryUsingTempRelation(query), "a temporary table or view");
}

/*
 * Parsed and held to the rules.  Names resolve as they will in the worker: by
 * the stored search_path, as the subscription's owner.
 */
Query *
analyze_transform(const Subscription *sub)
{
	ErrorContextCallback callback;
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation message = palloc0(sizeof(EphemeralNamedRelationData));
	Oid			save_userid;
	int			save_context;
	int			guc_level;
	Query	   *query;

	message->md.name = TRANSFORM_RELATION;
	message->md.reliddesc = InvalidOid;
	message->md.tupdesc = transform_message_desc(sub->format);
	message->md.enrtype = ENR_NAMED_TUPLESTORE;
	message->md.enrtuples = sub->batch_rows;	/* what the planner shall expect */
	register_ENR(environment, message);

	callback.callback = transform_error_callback;
	callback.arg = sub->transform;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(sub->owner, save_context | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", sub->search_path,
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	query = parse_analyze_fixedparams(parse_transform(sub->transform), sub->transform,
									  NULL, 0, environment);

	AtEOXact_GUC(true, guc_level);
	SetUserIdAndSecContext(save_userid, save_context);
	error_context_stack = callback.previous;
	check_transform_shape(query);
	check_transform_source(query);
	return query;
}

static void
check_transform_outputs(Query *query, Relation target)
{
	Bitmapset  *seen = NULL;
	ListCell   *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		Oid			from = exprType((Node *) entry->expr);
		AttrNumber	attnum;
		Oid			to;

		if (entry->resjunk)
			continue;
		attnum = target_column(target, entry->resname, "transform");
		to = target_column_type(target, attnum);
		if (bms_is_member(attnum, seen))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("transform gives column \"%s\" twice", entry->resname),
					 errhint("Give each column once.")));
		seen = bms_add_member(seen, attnum);
		if (!can_coerce_type(1, &from, &to, COERCION_ASSIGNMENT))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("transform gives column \"%s\" as %s, which is not assignable to %s",
							entry->resname, format_type_be(from), format_type_be(to)),
					 errdetail("Rows go to %s by column name.",
							   target_name(RelationGetRelid(target))),
					 errhint("Write a cast: (...)::%s AS %s.", format_type_be(to),
							 quote_identifier(entry->resname))));
	}
	refuse_in_transform(seen == NULL, "an empty list of columns");
}

static void
check_transform(const Subscription *sub, Relation target)
{
	if (sub->transform == NULL)
		return;
	if (sub->columns != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("transform and columns exclude each other"),
				 errdetail("A transform names the columns itself."),
				 errhint("Use columns => '{}' or transform => ''.")));
	check_transform_outputs(analyze_transform(sub), target);
}

/*
 * Checks: event_time, numbers, options
 */
static void
check_event_time(const Subscription *sub, Relation target)
{
	Oid			type;

	if (sub->event_time == NULL)
		return;
	type = getBaseType(target_column_type(target, target_column(target, sub->event_time,
																"event_time")));
	if (type != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of %s is of type %s, not timestamp with time zone",
						sub->event_time, target_name(sub->target), format_type_be(type)),
				 errdetail("An event time is an instant."),
				 errhint("ALTER TABLE %s ALTER COLUMN %s TYPE timestamptz;",
						 target_name(sub->target), quote_identifier(sub->event_time))));
}

static void
check_numbers(const Subscription *sub)
{
	if (sub->workers < 1 || sub->workers > MAX_WORKERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"workers\" must be between 1 and %d", MAX_WORKERS),
				 errdetail("It is %d.", sub->workers),
				 errhint("More workers than partitions have nothing to do.")));
	if (sub->batch_rows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"batch_rows\" must be at least 1"),
				 errdetail("It is %d.", sub->batch_rows),
				 errhint("It is the most messages in one commit; the default is 10000.")));
}

static bool
is_csv_option(const char *name)
{
	return strcmp(name, "delimiter") == 0 || strcmp(name, "quote") == 0 ||
		strcmp(name, "escape") == 0 || strcmp(name, "null") == 0 ||
		strcmp(name, "header") == 0;
}

static bool
is_no_option(const char *name)
{
	return false;
}

static void pg_attribute_noreturn()
refuse_option(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value of option \"%s\"", name),
			 errdetail("%s", detail),
			 errhint("The csv options are those of COPY, such as options => '{\"delimiter\": \";\"}'.")));
}

/* One byte that is no line break, as COPY demands; fallback where not given. */
static char
csv_character(Jsonb *options, const char *name, char fallback)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&options->root, name, strlen(name), NULL);

	if (value == NULL)
		return fallback;
	if (value->type != jbvString || value->val.string.len != 1 ||
		value->val.string.val[0] == '\n' || value->val.string.val[0] == '\r')
		refuse_option(name, "It must be a single one-byte character, not a line break.");
	return value->val.string.val[0];
}

static void
check_csv_options(Jsonb *options)
{
	char		delimiter = csv_character(options, "delimiter", ',');
	char		quote = csv_character(options, "quote", '"');
	JsonbValue *null = getKeyJsonValueFromContainer(&options->root, "null", 4, NULL);
	JsonbValue *header = getKeyJsonValueFromContainer(&options->root, "header", 6, NULL);
	int			i;

	(void) csv_character(options, "escape", quote);
	if (delimiter == quote)
		refuse_option("delimiter", "It must differ from the quote character.");
	if (null != NULL && null->type != jbvString)
		refuse_option("null", "It must be a string.");
	for (i = 0; null != NULL && i < null->val.string.len; i++)
	{
		char		c = null->val.string.val[i];

		if (c == '\n' || c == '\r' || c == delimiter || c == quote)
			refuse_option("null", "It must hold no line break, delimiter or quote character.");
	}
	if (header != NULL && header->type != jbvBool)
		refuse_option("header", "It must be true or false.");
}

static void
check_options(const Subscription *sub)
{
	if (!JB_ROOT_IS_OBJECT(sub->options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errhint("Use options => '{}'.")));
	check_subscription_options(sub->options,
							   sub->format == FORMAT_CSV ? is_csv_option : is_no_option);
	if (sub->format == FORMAT_CSV)
		check_csv_options(sub->options);
}

void
check_subscription_definition(Subscription *sub)
{
	Relation	target = relation_open(sub->target, AccessShareLock);

	check_key_columns(sub, target);
	check_column_map(sub, target);
	check_value_column(sub, target);
	check_transform(sub, target);
	check_event_time(sub, target);
	relation_close(target, NoLock);
}

void
check_subscription_limits(const Subscription *sub)
{
	check_numbers(sub);
	check_options(sub);
}
