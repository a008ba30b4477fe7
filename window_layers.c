/*
 * window_layers.c
 *		The SQL of a window view's layers (window_query.h), from what its query was taken
 *		apart into.
 *
 * The caller pins search_path to pg_catalog: names of ours stand as they are, all
 * others come qualified from the server's deparser.
 */
#include "postgres.h"

#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

#include "window_query.h"

/* ---------------------------------------------------------------- the window function */

static char *
interval_literal(const Interval *interval)
{
	int			level = NewGUCNestLevel();
	char	   *text;

	(void) set_config_option("IntervalStyle", "postgres", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	text = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(interval)));
	AtEOXact_GUC(false, level);
	return psprintf("%s::interval", quote_literal_cstr(text));
}

static char *
timestamptz_literal(TimestampTz value)
{
	int			level = NewGUCNestLevel();
	char	   *text;

	(void) set_config_option("DateStyle", "ISO, MDY", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	text = DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(value)));
	AtEOXact_GUC(false, level);
	return psprintf("%s::timestamptz", quote_literal_cstr(text));
}

char *
window_call(const WindowSpec *spec, const char *ts)
{
	static const char *const names[] = {"tumble", "hop", "session_window"};
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "kappa.%s(%s, %s", names[spec->kind], ts, interval_literal(&spec->size));
	if (spec->kind == WINDOW_HOP)
		appendStringInfo(&sql, ", %s", interval_literal(&spec->slide));
	if (spec->kind != WINDOW_SESSION)
	{
		appendStringInfo(&sql, ", %s", spec->has_origin ? timestamptz_literal(spec->origin) : "NULL::timestamptz");
		appendStringInfo(&sql, ", %s", spec->zone ? psprintf("%s::text", quote_literal_cstr(spec->zone)) : "NULL::text");
	}
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* ---------------------------------------------------------------- layer c */

static char *
type_of(Node *expr)
{
	return format_type_extended(exprType(expr), exprTypmod(expr), FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

static const char *
collate_clause(Oid collation)
{
	if (!OidIsValid(collation))
		return "";
	return psprintf(" COLLATE %s", generate_collation_name(collation));
}

char *
window_state_columns(const WindowQuery *query)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, query->keys)
		appendStringInfo(&sql, ", k%d %s%s", foreach_current_index(lc) + 1, type_of(lfirst(lc)),
						 collate_clause(exprCollation(lfirst(lc))));
	foreach(lc, query->aggregates)
		appendStringInfo(&sql, ", a%d kappa.partial", foreach_current_index(lc) + 1);
	return sql.data;
}

static void
append_keys(StringInfo sql, const WindowQuery *query, const char *prefix)
{
	for (int k = 1; k <= list_length(query->keys); k++)
		appendStringInfo(sql, ", %sk%d", prefix, k);
}

static char *
aggregate_name(Oid aggregate)
{
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(aggregate)), get_func_name(aggregate));
}

static void
append_aggregate_call(StringInfo sql, const WindowAggregate *aggregate)
{
	ListCell   *lc;

	appendStringInfo(sql, "%s(%s", aggregate_name(aggregate->call->aggfnoid), aggregate->call->aggstar ? "*" : "");
	foreach(lc, aggregate->args)
		appendStringInfo(sql, "%si.x%d", foreach_current_index(lc) > 0 ? ", " : "", lfirst_int(lc));
	appendStringInfoChar(sql, ')');
	if (aggregate->filter)
		appendStringInfo(sql, " FILTER (WHERE i.x%d)", aggregate->filter);
}

/* SELECT window_start, window_end, k.., a.. of the rows: what batch would compute. */
static char *
not_late(const char *late_view, const char *row, const char *window_start)
{
	return psprintf(" NOT EXISTS (SELECT 1 FROM kappa.late_rows l WHERE l.view_name = %s AND l.part = %s.kafka_partition"
					" AND l.kafka_offset = %s.kafka_offset AND l.window_start = %s)",
					quote_literal_cstr(late_view), row, row, window_start);
}

char *
window_batch_layer(const WindowQuery *query, const char *late_view, const char *more)
{
	bool		session = query->spec.kind == WINDOW_SESSION;
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT lower(i.win) AS window_start, upper(i.win) AS window_end");
	append_keys(&sql, query, "i.");
	foreach(lc, query->aggregates)
	{
		appendStringInfoString(&sql, ", ");
		append_aggregate_call(&sql, lfirst(lc));
		appendStringInfo(&sql, " AS a%d", foreach_current_index(lc) + 1);
	}
	appendStringInfo(&sql, "%s FROM (SELECT %s", more ? more : "", window_call(&query->spec, "r.ts"));
	if (session)
	{
		const char *separator = "PARTITION BY ";

		appendStringInfoString(&sql, " OVER (");
		for (int k = 1; k <= list_length(query->keys); k++)
		{
			appendStringInfo(&sql, "%sr.k%d", separator, k);
			separator = ", ";
		}
		appendStringInfoString(&sql, " ORDER BY r.ts)");
	}
	appendStringInfo(&sql, " AS win, r.* FROM (%s) r WHERE r.ts >= %s AND r.ts < %s",
					 pg_get_querydef(copyObject(query->input), false),
					 timestamptz_literal(WINDOW_FIRST_TIME), timestamptz_literal(WINDOW_TIMES_END));
	/* a late row is in no session, but in some of its windows */
	if (late_view && session)
		appendStringInfo(&sql, " AND%s", not_late(late_view, "r", "r.ts"));
	appendStringInfoString(&sql, ") i");
	if (late_view && !session)
		appendStringInfo(&sql, " WHERE%s", not_late(late_view, "i", "lower(i.win)"));
	appendStringInfoString(&sql, " GROUP BY i.win");
	append_keys(&sql, query, "i.");
	return sql.data;
}

/*
 * A result's type where only the type matters; COLLATE names the aggregate's own
 * collation, which is that of its arguments.
 */
static char *
typed_null(const Aggref *call)
{
	return psprintf("NULL::%s%s", format_type_extended(call->aggtype, -1, FORMAT_TYPE_FORCE_QUALIFY),
					type_is_collatable(call->aggtype) ? collate_clause(call->inputcollid) : "");
}

static void
append_combined(StringInfo sql, const WindowQuery *query)
{
	ListCell   *lc;

	foreach(lc, query->aggregates)
	{
		Aggref	   *call = ((WindowAggregate *) lfirst(lc))->call;

		appendStringInfo(sql, ", kappa.combine(s.a%d, %s::regprocedure, %s) AS a%d", foreach_current_index(lc) + 1,
						 quote_literal_cstr(format_procedure_qualified(call->aggfnoid)), typed_null(call),
						 foreach_current_index(lc) + 1);
	}
}

char *
window_combined(const WindowQuery *query)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_combined(&sql, query);
	return sql.data;
}

char *
window_key_list(const WindowQuery *query, const char *prefix)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_keys(&sql, query, prefix);
	return sql.data;
}

bool
window_key_is_fixed(const WindowQuery *query, int k)
{
	Oid			type = exprType(list_nth(query->keys, k - 1));

	return get_typlen(type) > 0 && OidIsValid(GetDefaultOpClass(type, BTREE_AM_OID));
}

/* Where the state is read: what the planner makes a search by key of (window_plan.c). */
char *
window_key_search(const WindowQuery *query, const char *prefix)
{
	StringInfoData sql;
	const char *word = " WHERE";

	initStringInfo(&sql);
	for (int k = 1; k <= list_length(query->keys); k++)
	{
		if (window_key_is_fixed(query, k))
			continue;
		appendStringInfo(&sql, "%s kappa.key_given(%sk%d)", word, prefix, k);
		word = " AND";
	}
	return sql.data;
}

/*
 * Sessions of several workers that touch are one.  A row begins a session where it
 * begins behind the end of all that came before it.
 */
static void
append_islands(StringInfo sql, const WindowQuery *query, const char *state_table)
{
	StringInfoData keys;

	initStringInfo(&keys);
	append_keys(&keys, query, "t.");
	if (keys.len > 0)
		keys.data = psprintf("PARTITION BY %s ", keys.data + 2);
	appendStringInfo(sql, " FROM (SELECT t.*, count(*) FILTER (WHERE t.first) OVER (%sORDER BY t.window_start, t.window_end) AS island"
					 " FROM (SELECT t.*, coalesce(t.window_start > max(t.window_end) OVER (%sORDER BY t.window_start, t.window_end"
					 " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS first FROM %s t%s) t) s GROUP BY s.island",
					 keys.data, keys.data, state_table, window_key_search(query, "t."));
}

char *
window_state_layer(const WindowQuery *query, int32 view, const char *state_table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	switch (query->spec.kind)
	{
		case WINDOW_TUMBLE:
			appendStringInfoString(&sql, "SELECT s.window_start, s.window_end");
			append_keys(&sql, query, "s.");
			append_combined(&sql, query);
			appendStringInfo(&sql, " FROM %s s%s GROUP BY s.window_start, s.window_end", state_table,
							 window_key_search(query, "s."));
			break;
		case WINDOW_HOP:
			appendStringInfoString(&sql, "SELECT h.window_start, h.window_end");
			append_keys(&sql, query, "s.");
			append_combined(&sql, query);
			appendStringInfo(&sql, " FROM kappa.window_hops(%d) h JOIN %s s ON s.window_start >= h.window_start"
							 " AND s.window_start < h.window_end AND s.first_window <= h.window_start"
							 "%s GROUP BY h.window_start, h.window_end", view, state_table, window_key_search(query, "s."));
			break;
		case WINDOW_SESSION:
			appendStringInfoString(&sql, "SELECT min(s.window_start) AS window_start, max(s.window_end) AS window_end");
			append_keys(&sql, query, "s.");
			append_combined(&sql, query);
			append_islands(&sql, query, state_table);
			break;
	}
	append_keys(&sql, query, "s.");
	return sql.data;
}

/* ---------------------------------------------------------------- the outputs */

typedef struct Substitution
{
	const WindowQuery *query;
	const char *output;
} Substitution;

static Var *
layer_column(int number, Node *expr, Oid type, Oid collation)
{
	return makeVar(1, number, type, exprTypmod(expr), collation, 0);
}

/* Keys and aggregates become columns of layer c. */
static Node *
substitute_mutator(Node *node, void *context)
{
	Substitution *s = context;
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	foreach(lc, s->query->keys)
		if (equal(node, lfirst(lc)))
			return (Node *) layer_column(3 + foreach_current_index(lc), node, exprType(node), exprCollation(node));
	if (IsA(node, Aggref))
		foreach(lc, s->query->aggregates)
			if (equal(node, ((WindowAggregate *) lfirst(lc))->call))
				return (Node *) layer_column(3 + list_length(s->query->keys) + foreach_current_index(lc), node,
											 exprType(node), exprCollation(node));
	if (equal(node, s->query->window))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the window cannot stand inside of an expression"),
				 errhint("The view has it as window_start and window_end."),
				 errposition(exprLocation(node) + 1)));
	if (IsA(node, Var))
		ereport(ERROR,
				(errcode(ERRCODE_GROUPING_ERROR),
				 errmsg("output column \"%s\" depends on a column that is not in GROUP BY", s->output),
				 errposition(exprLocation(node) + 1)));
	if (IsA(node, SubLink))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a subquery cannot stand in the output of a window view"),
				 errposition(exprLocation(node) + 1)));
	return expression_tree_mutator(node, substitute_mutator, context);
}

static List *
output_targets(const WindowQuery *query)
{
	List	   *targets = list_make2(makeTargetEntry((Expr *) makeVar(1, 1, TIMESTAMPTZOID, -1, InvalidOid, 0), 1, "window_start", false),
									 makeTargetEntry((Expr *) makeVar(1, 2, TIMESTAMPTZOID, -1, InvalidOid, 0), 2, "window_end", false));
	ListCell   *lc;

	foreach(lc, query->analyzed->targetList)
	{
		TargetEntry *tle = lfirst(lc);
		Substitution s = {query, tle->resname};

		if (tle->resjunk || equal(tle->expr, query->window))
			continue;
		targets = lappend(targets, makeTargetEntry((Expr *) substitute_mutator((Node *) tle->expr, &s),
												   list_length(targets) + 1, tle->resname, false));
	}
	return targets;
}

/*
 * The query's own expressions over a layer c, with more columns behind them (", x
 * AS y" in terms of w.window_end and the like).
 */
char *
window_outputs(const WindowQuery *query, const char *layer, const char *more_columns)
{
	ParseState *pstate = make_parsestate(NULL);
	Query	   *outer = makeNode(Query);
	ParseNamespaceItem *item;
	Substitution s = {query, "HAVING"};
	RangeTblRef *reference = makeNode(RangeTblRef);

	item = addRangeTableEntryForSubquery(pstate, parse_window_query(layer), makeAlias("c", NIL), false, true);
	outer->commandType = CMD_SELECT;
	outer->canSetTag = true;
	outer->rtable = pstate->p_rtable;
	reference->rtindex = item->p_rtindex;
	outer->jointree = makeFromExpr(list_make1(reference), substitute_mutator(query->analyzed->havingQual, &s));
	outer->targetList = output_targets(query);
	free_parsestate(pstate);
	if (more_columns == NULL)
		return pg_get_querydef(outer, false);
	return psprintf("SELECT w.*%s FROM (%s) w", more_columns, pg_get_querydef(outer, false));
}

/* The view belongs to its owner, who may have put another query in its place. */
static RangeTblEntry *
subquery_of(Query *query)
{
	RangeTblEntry *rte = NULL;

	if (query->jointree && list_length(query->jointree->fromlist) == 1 && IsA(linitial(query->jointree->fromlist), RangeTblRef))
		rte = rt_fetch(linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex, query->rtable);
	if (rte == NULL || rte->rtekind != RTE_SUBQUERY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the window view has been replaced by another query"),
				 errhint("Drop the window view and make it again.")));
	return rte;
}

char *
replace_layer(Query *view, const char *layer)
{
	Query	   *query = copyObject(view);
	RangeTblEntry *source = subquery_of(query);

	/* the view that is read has is_final around its outputs */
	if (strcmp(source->eref->aliasname, "c") != 0)
		source = subquery_of(source->subquery);
	source->subquery = parse_window_query(layer);
	return pg_get_querydef(query, false);
}
