/*
 * subscription_check.c
 *		What the definition of a subscription has to pass.
 *
 * A definition is checked once, when it is made or altered, with the rights of
 * its owner.  What changes behind its back (a dropped column, a revoked right) is
 * found by the worker, which stops with that reason.
 *
 * Locks: the relations that a check looks at stay locked in access share mode to
 * the end of the transaction, as a query's would.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/pg_am.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "broker_options.h"
#include "compat.h"
#include "decode.h"
#include "subscription_check.h"
#include "transform_query.h"

#define MAX_WORKERS		64
#define MAX_BATCH_ROWS	1000000

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
char *
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
AttrNumber
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

Oid
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
			rel->rd_rel->relam == BTREE_AM_OID &&
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
pg_noreturn static void
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
				 errhint("It is the most messages in one commit; the default is 50000.")));
	/* the worker has room for so many at once */
	if (sub->batch_rows > MAX_BATCH_ROWS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"batch_rows\" must be at most %d", MAX_BATCH_ROWS),
				 errdetail("It is %d.", sub->batch_rows),
				 errhint("It is the most messages in one commit; the default is 50000.")));
}

static bool
is_no_option(const char *name)
{
	return false;
}

pg_noreturn static void
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
							   sub->format == FORMAT_CSV ? is_format_option : is_no_option);
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
