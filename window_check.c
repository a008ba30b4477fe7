/*
 * window_check.c
 *		What a window view cannot be made of.
 *
 * A view counts a row as its message gave it, in memory, once, when it comes.  So its
 * query may use nothing that the server adds or changes behind that (generated
 * columns, BEFORE triggers, rules), nothing that another reading of the row would
 * give differently, and no clause that cannot be kept by adding.  And one subscription
 * alone writes the target, by one event time.
 *
 * The callers hold the subscription's lock.  What can be done without it (ALTER TABLE, CREATE
 * TRIGGER) is seen by the next batch, which stops the view (ingest_batch.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "catalog.h"
#include "target_table.h"
#include "window_check.h"
#include "window_query.h"

/* ---------------------------------------------------------------- the query */

static void
refuse_clause(bool present, const char *what, const char *hint)
{
	if (present)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view cannot have %s", what),
				 errhint("%s", hint)));
}

void
check_window_clauses(Query *query)
{
	static const char view_hint[] = "Do that in a query or view on top of the window view.";

	refuse_clause(query->setOperations != NULL, "UNION, INTERSECT or EXCEPT", "Make a window view for each of the queries.");
	refuse_clause(query->cteList != NIL, "WITH", "Write the dimension as a view or as a subquery in FROM.");
	refuse_clause(query->hasWindowFuncs, "window functions with OVER", view_hint);
	refuse_clause(query->distinctClause != NIL, "DISTINCT", view_hint);
	refuse_clause(query->limitCount != NULL || query->limitOffset != NULL, "LIMIT or OFFSET", view_hint);
	refuse_clause(query->sortClause != NIL, "ORDER BY", view_hint);
	refuse_clause(query->rowMarks != NIL, "FOR UPDATE or FOR SHARE", view_hint);
	refuse_clause(query->groupingSets != NIL, "GROUPING SETS, CUBE or ROLLUP", "Make a window view for each grouping.");
	if (query->groupClause == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view must have GROUP BY with a window function"),
				 errhint("SELECT kappa.tumble(ts, '1 minute'), count(*) FROM ... GROUP BY 1.")));
}

/* What gives another answer for the same row tomorrow. */
static bool
changing_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncExpr))
	{
		Oid			function = ((FuncExpr *) node)->funcid;

		if (function == F_NOW || function == F_TRANSACTION_TIMESTAMP || function == F_STATEMENT_TIMESTAMP ||
			func_volatile(function) == PROVOLATILE_VOLATILE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function %s cannot stand in the query of a window view", format_procedure(function)),
					 errdetail("It gives another result when the same row is counted again."),
					 errposition(exprLocation(node) + 1)));
	}
	if (IsA(node, SQLValueFunction))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the present time or user cannot stand in the query of a window view"),
				 errdetail("It gives another result when the same row is counted again."),
				 errposition(exprLocation(node) + 1)));
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, changing_walker, context, 0);
	return expression_tree_walker(node, changing_walker, context);
}

/* One row of the target is one row in one window of a group, or in several by the window function alone. */
static bool
set_returning_walker(Node *node, void *context)
{
	WindowKind	kind;

	if (node == NULL)
		return false;
	if ((IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset && !is_window_function(((FuncExpr *) node)->funcid, &kind)) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the keys of a window view cannot be set-returning functions"),
				 errhint("Write it in FROM: FROM events, unnest(tags) AS tag."),
				 errposition(exprLocation(node) + 1)));
	return expression_tree_walker(node, set_returning_walker, context);
}

void
check_window_expressions(Query *query)
{
	ListCell   *lc;

	(void) expression_tree_walker((Node *) query->targetList, set_returning_walker, NULL);
	foreach(lc, query->rtable)
		if (lfirst_node(RangeTblEntry, lc)->tablesample != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the query of a window view cannot have TABLESAMPLE")));
	(void) query_tree_walker(query, changing_walker, NULL, 0);
	if (contain_volatile_functions((Node *) query))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view cannot have volatile expressions")));
}

typedef struct Columns
{
	Query	   *query;
	Index		source;
	int			depth;			/* of subqueries, from query down */
	TupleDesc	desc;
} Columns;

static bool source_columns_walker(Node *node, void *context);

/* The reason why the column of a row in memory is not the stored one's; NULL: it is. */
static const char *
missing_in_memory(TupleDesc desc, AttrNumber attno)
{
	if (attno < 0)
		return "a system column";
	/* in a join it would have the row's number in it, and it changes with each new column */
	if (attno == 0)
		return "a whole row";
	for (int i = 0; i < desc->natts; i++)
		if (attno == i + 1 && TupleDescAttr(desc, i)->attgenerated != '\0')
			return "a generated column";
	return NULL;
}

static void
check_source_column(const Columns *columns, const Var *var)
{
	const char *what = missing_in_memory(columns->desc, var->varattno);

	if (what)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a window view cannot use %s of the target", what),
				 errdetail("Rows are counted as the messages gave them, before it is known."),
				 errhint("Write a generated column's expression in its place, or name the columns that are meant."),
				 errposition(var->location + 1)));
}

/* A column of a join, or all of them, stands for columns of its sides. */
static void
check_join_column(const Columns *columns, const RangeTblEntry *join, AttrNumber attno)
{
	Columns		sides = *columns;

	sides.depth = 0;
	if (attno == 0)
		(void) source_columns_walker((Node *) join->joinaliasvars, &sides);
	else if (attno > 0)
		(void) source_columns_walker(list_nth(join->joinaliasvars, attno - 1), &sides);
}

static bool
source_columns_walker(Node *node, void *context)
{
	Columns    *columns = context;
	bool		found;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		RangeTblEntry *rte;

		if (var->varlevelsup != columns->depth)
			return false;
		rte = rt_fetch(var->varno, columns->query->rtable);
		if (var->varno == columns->source)
			check_source_column(columns, var);
		else if (rte->rtekind == RTE_JOIN)
			check_join_column(columns, rte, var->varattno);
		return false;
	}
	if (!IsA(node, Query))
		return expression_tree_walker(node, source_columns_walker, context);
	columns->depth++;
	found = query_tree_walker((Query *) node, source_columns_walker, context, QTW_IGNORE_JOINALIASES);
	columns->depth--;
	return found;
}

/* Rows are folded in before the server adds what it computes itself. */
void
check_window_columns(Query *query, Index source)
{
	Relation	rel = table_open(rt_fetch(source, query->rtable)->relid, AccessShareLock);
	Columns		columns = {query, source, 0, RelationGetDescr(rel)};

	(void) query_tree_walker(query, source_columns_walker, &columns, QTW_IGNORE_JOINALIASES);
	table_close(rel, NoLock);
}

/* ---------------------------------------------------------------- the target */

/* A partition whose rows go another way than the table's; NULL: there is none. */
static char *
diverting_partition(Relation rel)
{
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return NULL;
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		Relation	part = table_open(lfirst_oid(lc), NoLock);
		bool		diverts = part->rd_rel->relkind == RELKIND_FOREIGN_TABLE ||
			(part->trigdesc && part->trigdesc->trig_insert_before_row);
		char	   *name = pstrdup(RelationGetRelationName(part));

		table_close(part, NoLock);
		if (diverts)
			return name;
	}
	return NULL;
}

void
check_view_target(const Subscription *sub)
{
	TargetTable *target = target_open(sub);
	char	   *partition = diverting_partition(target->rel);

	if (target->general || partition)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("relation \"%s\" cannot have window views", RelationGetRelationName(target->rel)),
				 partition ?
				 errdetail("Its partition \"%s\" is a foreign table or has BEFORE ROW triggers, so its rows are not what the messages say.", partition) :
				 errdetail("It is no plain table, or it has rules or BEFORE ROW triggers, so its rows are not what the messages say."),
				 errhint("Use a transform in the subscription instead of the trigger.")));
	if (target->rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("relation \"%s\" cannot have window views", RelationGetRelationName(target->rel)),
				 errdetail("It is unlogged: a crash empties it, and not its windows."),
				 errhint("ALTER TABLE %s SET LOGGED.", quote_identifier(RelationGetRelationName(target->rel)))));
	target_close(target);
}
