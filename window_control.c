/*
 * window_control.c
 *		Window views found, locked and dropped, and what cannot change below them.
 *
 * Whoever changes a view holds the subscription's lock exclusively and raises its
 * generation: no batch in flight sees half of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "arguments.h"
#include "catalog.h"
#include "subscription.h"
#include "window_control.h"
#include "window_view.h"

PG_FUNCTION_INFO_V1(kappa_drop_window_view);

/* ---------------------------------------------------------------- in common */

/* For deparsing and parsing what we make up ourselves: what is written must be read as the same. */
int
pin_sql_settings(void)
{
	static const char *const pinned[][2] = {
		{"search_path", "pg_catalog, pg_temp"}, {"TimeZone", "UTC"}, {"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"}, {"extra_float_digits", "1"}, {"standard_conforming_strings", "on"}
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i][0], pinned[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

void
execute_as_caller(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

/* "schema"."name" of a view to be, in the schema that CREATE VIEW would choose */
char *
new_view_name(const char *name)
{
	RangeVar   *var = makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name)));

	return quote_qualified_identifier(get_namespace_name(RangeVarGetCreationNamespace(var)), var->relname);
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

/* ---------------------------------------------------------------- dropping */

/* A window view by name, and the name of its subscription. */
static int32
find_window_view(const char *name, char **subscription)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, true);
	CatalogScope scope;
	/* where it was dropped by hand its number is all that is left of its name */
	CatalogArg	args[] = {CATALOG_OID(relid), CATALOG_TEXT(name)};
	MemoryContext caller = CurrentMemoryContext;
	int32		id = 0;
	bool		null;

	catalog_begin(&scope);
	if (catalog_execute("SELECT v.id, s.name FROM kappa.window_view v JOIN kappa.subscription s ON s.id = v.subscription "
						"WHERE v.view = $1 OR v.view::oid::text = $2", lengthof(args), args) == 1)
	{
		id = DatumGetInt32(catalog_value(0, 1, &null));
		*subscription = MemoryContextStrdup(caller, TextDatumGetCString(catalog_value(0, 2, &null)));
	}
	catalog_end(&scope);
	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("window view \"%s\" does not exist", name),
				 errhint("SELECT name FROM kappa.window_views.")));
	return id;
}

/* For a change: its subscription's lock is ours. */
static int32
control_window_view_id(const char *name, const char *function, int32 *subscription_id)
{
	char	   *subscription;
	int32		id = find_window_view(name, &subscription);

	*subscription_id = control_subscription(subscription, function)->id;
	return id;
}

static WindowView *
load_existing(int32 id, const char *name)
{
	WindowView *view = load_window_view(id);

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the batch form of window view \"%s\" does not exist any more", name),
				 errhint("SELECT kappa.drop_window_view(%s).", quote_literal_cstr(name))));
	return view;
}

WindowView *
control_window_view(const char *name, const char *function, int32 *subscription_id)
{
	return load_existing(control_window_view_id(name, function, subscription_id), name);
}

WindowView *
read_window_view(const char *name)
{
	char	   *subscription;
	int32		id = find_window_view(name, &subscription);
	Subscription *sub = subscription_by_name(subscription, false);

	check_subscription_owner(sub);
	lock_subscription(sub->id, SUBSCRIPTION_BATCH_LOCK);
	return load_existing(id, name);
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

/* ---------------------------------------------------------------- changes of the subscription */

void
refuse_window_views(const Subscription *sub, const char *hint)
{
	int			n = list_length(window_view_ids(sub->id));

	if (n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("subscription \"%s\" has window views", sub->name),
				 errdetail_plural("%d window view is filled by it.", "%d window views are filled by it.", n, n),
				 errhint("%s", hint)));
}

/* Is that column (NULL: none) the one that the windows of all its views are taken from? */
static bool
views_use(const Subscription *sub, const char *column)
{
	AttrNumber	attno = column ? get_attnum(sub->target, column) : InvalidAttrNumber;
	ListCell   *lc;

	foreach(lc, window_view_ids(sub->id))
	{
		WindowView *view = load_window_view(lfirst_int(lc));
		Var		   *time;
		bool		same;

		if (view == NULL)
			continue;			/* dropped by hand */
		time = (Var *) linitial_node(TargetEntry, view->input->targetList)->expr;
		same = IsA(time, Var) && time->varattno == attno;
		free_window_view(view);
		if (!same)
			return false;
	}
	return true;
}

void
refuse_shared_target(const Subscription *sub)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_OID(sub->target), CATALOG_INT4(sub->id)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *other = NULL;
	bool		null;

	catalog_begin(&scope);
	if (catalog_execute("SELECT s.name FROM kappa.subscription s JOIN kappa.window_view v ON v.subscription = s.id "
						"WHERE s.target = $1 AND s.id <> $2 LIMIT 1", lengthof(args), args) == 1)
		other = MemoryContextStrdup(caller, TextDatumGetCString(catalog_value(0, 1, &null)));
	catalog_end(&scope);
	if (other)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("subscription \"%s\" has window views of relation \"%s\"", other, get_rel_name(sub->target)),
				 errdetail("A window view needs a target that one subscription alone writes."),
				 errhint("Choose another target.")));
}

/*
 * What window views rest on: the rows that they counted came from there.  A column that
 * has got another name is still theirs.
 */
void
refuse_change_below_views(const Subscription *before, const Subscription *sub)
{
	bool		same_time = before->event_time == NULL ? sub->event_time == NULL :
		sub->event_time != NULL && strcmp(before->event_time, sub->event_time) == 0;

	if (before->target != sub->target)
		refuse_shared_target(sub);
	if (before->target != sub->target || before->upsert != sub->upsert ||
		(!same_time && !views_use(sub, sub->event_time)))
		refuse_window_views(sub, "Its target, mode and event_time stay as they are. Drop the views first (SELECT name FROM kappa.window_views), or subscribe to the topic once more under another name.");
}
