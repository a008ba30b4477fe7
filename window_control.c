/*
 * window_control.c
 *		Window views made and dropped.
 *
 *		NAME			the view that is read: the state's partials combined, is_final
 *		NAME_batch		the same result computed from the rows; it is the definition,
 *						and carries the dependencies on the columns that it uses
 *		kappa.window_state_N	the partials (window_state.c), written by workers only
 *		kappa.window_view		a row for it all
 *
 * The two views belong to whoever made them, the table to the extension's owner.
 *
 * Whoever changes a view holds the subscription's lock exclusively and raises its
 * generation: no batch in flight sees half of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "catalog.h"
#include "subscription.h"
#include "window_batch.h"
#include "window_check.h"
#include "window_control.h"
#include "window_query.h"
#include "window_view.h"

#define STATE_FILLFACTOR	50	/* an update finds room on its own page */

PG_FUNCTION_INFO_V1(kappa_create_window_view);
PG_FUNCTION_INFO_V1(kappa_drop_window_view);

/* ---------------------------------------------------------------- making */

/* search_path for deparsing and parsing what we make up ourselves */
int
pin_search_path(void)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
execute_as_caller(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

static bool
fixed_length_keys(const WindowQuery *query)
{
	ListCell   *lc;

	foreach(lc, query->keys)
		if (get_typlen(exprType(lfirst(lc))) < 0)
			return false;
	return query->keys != NIL;
}

/*
 * Besides the writer's index one for readers who ask for a key: a B-tree where no key can
 * be too long for it, else a hash of the first.
 */
static void
create_state_indexes(const WindowQuery *query, const char *table)
{
	bool		session = query->spec.kind == WINDOW_SESSION;
	StringInfoData sql;

	catalog_execute(psprintf("CREATE INDEX ON %s (%s)", table,
							 session ? "key_hash, window_start" : "window_start, key_hash"), 0, NULL);
	if (session)
		catalog_execute(psprintf("CREATE INDEX ON %s USING brin (window_start)", table), 0, NULL);
	if (query->keys == NIL)
		return;
	initStringInfo(&sql);
	if (fixed_length_keys(query))
	{
		appendStringInfo(&sql, "CREATE INDEX ON %s (k1", table);
		for (int k = 2; k <= list_length(query->keys); k++)
			appendStringInfo(&sql, ", k%d", k);
		appendStringInfoString(&sql, ", window_start)");
	}
	else
		appendStringInfo(&sql, "CREATE INDEX ON %s USING hash (k1)", table);
	catalog_execute(sql.data, 0, NULL);
}

/* The table for a new view's partials; its name, qualified. */
static char *
create_state_table(const WindowQuery *query, int32 id, Oid reader)
{
	char	   *table = psprintf("kappa.window_state_%d", id);
	CatalogScope scope;

	catalog_begin(&scope);
	catalog_execute(psprintf("CREATE TABLE %s (window_start timestamptz NOT NULL, window_end timestamptz NOT NULL, "
							 "first_window timestamptz NOT NULL, key_hash uuid NOT NULL, worker integer NOT NULL%s) "
							 "WITH (fillfactor = %d)", table, window_state_columns(query), STATE_FILLFACTOR), 0, NULL);
	create_state_indexes(query, table);
	catalog_execute(psprintf("GRANT SELECT ON %s TO %s", table,
							 quote_identifier(GetUserNameFromId(reader, false))), 0, NULL);
	catalog_end(&scope);
	return table;
}

static int32
next_view_id(void)
{
	CatalogScope scope;
	bool		null;
	int32		id;

	catalog_begin(&scope);
	catalog_execute("SELECT nextval('kappa.window_view_id_seq')::integer", 0, NULL);
	id = DatumGetInt32(catalog_value(0, 1, &null));
	catalog_end(&scope);
	return id;
}

static const char *
kind_word(WindowKind kind)
{
	static const char *const words[] = {"tumble", "hop", "session"};

	return words[kind];
}

typedef struct NewView
{
	char	   *name;			/* qualified and quoted, as are the next two */
	char	   *batch_name;
	char	   *state;
	char	   *text;
	Interval   *lateness;
	Datum		retention;
	bool		keep;			/* no retention */
} NewView;

static void
insert_view(const WindowQuery *query, int32 id, const NewView *new)
{
	CatalogScope scope;
	CatalogArg	args[] = {
		CATALOG_INT4(id), CATALOG_INT4(query->sub->id), CATALOG_TEXT(new->name), CATALOG_TEXT(new->batch_name),
		CATALOG_TEXT(new->state), CATALOG_TEXT(kind_word(query->spec.kind)), CATALOG_TEXT(new->text),
		{INTERVALOID, IntervalPGetDatum(new->lateness), false}, {INTERVALOID, new->retention, new->keep}
	};

	catalog_begin(&scope);
	catalog_execute("INSERT INTO kappa.window_view (id, subscription, view, batch, state, kind, query, allowed_lateness, retention) "
					"VALUES ($1, $2, $3::regclass, $4::regclass, $5::regclass, $6, $7, $8, $9)", lengthof(args), args);
	catalog_end(&scope);
}

/* SELECT of the view that is read */
static char *
reading_query(const WindowQuery *query, int32 id, const NewView *new)
{
	char	   *lateness = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(new->lateness)));

	return window_outputs(query, window_state_layer(query, id, new->state),
						  psprintf(", w.window_end + %s::interval <= (SELECT kappa.final_watermark(%d)) AS is_final",
								   quote_literal_cstr(lateness), query->sub->id));
}

/* "schema"."name" of a view to be, in the schema that CREATE VIEW would choose */
char *
new_view_name(const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));

	return quote_qualified_identifier(get_namespace_name(RangeVarGetCreationNamespace(var)), var->relname);
}

static void
name_new_view(NewView *new, const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));
	char	   *batch = psprintf("%s_batch", var->relname);
	Oid			namespace = RangeVarGetCreationNamespace(var);

	if (strlen(batch) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name \"%s\" is too long for a window view", var->relname),
				 errdetail("Its batch form is named \"%s\".", batch)));
	new->name = quote_qualified_identifier(get_namespace_name(namespace), var->relname);
	new->batch_name = quote_qualified_identifier(get_namespace_name(namespace), batch);
}

/* Months have no fixed length, so no window could say when it is final. */
static Interval *
lateness_argument(FunctionCallInfo fcinfo, int number)
{
	(void) interval_argument(fcinfo, number, "allowed_lateness");
	return PG_GETARG_INTERVAL_P(number);
}

/* Rows that were committed before we had the lock must be seen. */
void
check_isolation(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot run in a REPEATABLE READ or SERIALIZABLE transaction", function),
				 errhint("Call it in a READ COMMITTED transaction.")));
}

/*
 * kappa.create_window_view(name text, query text, allowed_lateness interval,
 * retention interval) RETURNS bigint: rows that it was filled from.
 */
Datum
kappa_create_window_view(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0, "name");
	NewView		new = {.text = text_argument(fcinfo, 1, "query")};
	WindowQuery *query;
	Subscription *sub;
	WindowView *view;
	int64		rows;
	int32		id;
	int			level;

	new.lateness = lateness_argument(fcinfo, 2);
	new.keep = PG_ARGISNULL(3);
	if (!new.keep)
	{
		(void) interval_argument(fcinfo, 3, "retention");
		new.retention = PG_GETARG_DATUM(3);
	}
	check_isolation("kappa.create_window_view()");
	query = analyze_window_query(new.text);
	sub = control_subscription(query->sub->name, "kappa.create_window_view()");
	check_view_target(sub);
	name_new_view(&new, name);
	id = next_view_id();
	level = pin_search_path();
	new.state = create_state_table(query, id, GetUserId());
	execute_as_caller(psprintf("CREATE VIEW %s AS %s", new.name, reading_query(query, id, &new)));
	execute_as_caller(psprintf("CREATE VIEW %s AS %s", new.batch_name,
							   window_outputs(query, window_batch_layer(query, NULL, NULL), NULL)));
	AtEOXact_GUC(false, level);
	insert_view(query, id, &new);
	CommandCounterIncrement();
	view = load_window_view(id);
	rows = window_fill(view, false);
	free_window_view(view);
	touch_subscription(sub->id);
	PG_RETURN_INT64(rows);
}

/* ---------------------------------------------------------------- dropping */

/* A window view by name, for a change: its subscription's lock is ours. */
static int32
control_window_view_id(const char *name, const char *function, int32 *subscription_id)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, true);
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_OID(relid)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *subscription = NULL;
	int32		id = 0;
	bool		null;

	catalog_begin(&scope);
	if (OidIsValid(relid) &&
		catalog_execute("SELECT v.id, s.name FROM kappa.window_view v JOIN kappa.subscription s ON s.id = v.subscription "
						"WHERE v.view = $1", 1, args) == 1)
	{
		id = DatumGetInt32(catalog_value(0, 1, &null));
		subscription = MemoryContextStrdup(caller, TextDatumGetCString(catalog_value(0, 2, &null)));
	}
	catalog_end(&scope);
	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("window view \"%s\" does not exist", name),
				 errhint("SELECT name FROM kappa.window_views.")));
	*subscription_id = control_subscription(subscription, function)->id;
	return id;
}

WindowView *
control_window_view(const char *name, const char *function, int32 *subscription_id)
{
	WindowView *view = load_window_view(control_window_view_id(name, function, subscription_id));

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the batch form of window view \"%s\" does not exist any more", name),
				 errhint("SELECT kappa.drop_window_view(%s).", quote_literal_cstr(name))));
	return view;
}

/* The relations of a view, with its list of late rows.  The caller holds the lock. */
static void
drop_view(int32 id)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(id)};
	Oid			relids[3];
	char	   *state;
	bool		null;

	catalog_begin(&scope);
	catalog_execute("DELETE FROM kappa.window_view WHERE id = $1 RETURNING view, batch, state", 1, args);
	for (int i = 0; i < lengthof(relids); i++)
		relids[i] = DatumGetObjectId(catalog_value(0, i + 1, &null));
	catalog_execute("DELETE FROM kappa.late_row WHERE view = $1", 1, args);
	catalog_end(&scope);
	state = relation_name(relids[2]);
	/* as the caller, who must own them; what was dropped by hand is gone */
	for (int i = 0; i < 2; i++)
		if (get_rel_name(relids[i]) != NULL)
			execute_as_caller(psprintf("DROP VIEW %s", relation_name(relids[i])));
	if (get_rel_name(relids[2]) == NULL)
		return;
	catalog_begin(&scope);
	catalog_execute(psprintf("DROP TABLE %s", state), 0, NULL);
	catalog_end(&scope);
}

List *
window_view_ids(int32 subscription)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(subscription)};
	MemoryContext caller = CurrentMemoryContext;
	List	   *ids = NIL;
	bool		null;
	int			n;

	catalog_begin(&scope);
	n = (int) catalog_execute("SELECT id FROM kappa.window_view WHERE subscription = $1 ORDER BY id", 1, args);
	for (int row = 0; row < n; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		ids = lappend_int(ids, DatumGetInt32(catalog_value(row, 1, &null)));
		MemoryContextSwitchTo(old);
	}
	catalog_end(&scope);
	return ids;
}

void
drop_window_views(int32 subscription)
{
	ListCell   *lc;

	foreach(lc, window_view_ids(subscription))
		drop_view(lfirst_int(lc));
}

/* kappa.drop_window_view(name text) RETURNS void */
Datum
kappa_drop_window_view(PG_FUNCTION_ARGS)
{
	int32		subscription;
	int32		id = control_window_view_id(text_argument(fcinfo, 0, "name"), "kappa.drop_window_view()", &subscription);

	drop_view(id);
	touch_subscription(subscription);
	PG_RETURN_VOID();
}
