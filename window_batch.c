/*
 * window_batch.c
 *		Rows to a window view: layer r of its query, fold, state.
 *
 * Layer r is evaluated in one of two ways with one result: where FROM holds the
 * target alone, its expressions run on each row as it stands in memory; else (joins,
 * subqueries) the query runs with the rows as a relation in the target's place.
 *
 * All of it runs as the view's owner under restriction, with the settings pinned
 * that an expression could depend on, so that no reader's or worker's settings
 * change a window or a key.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "ingest.h"
#include "window_batch.h"
#include "window_progress.h"
#include "window_state.h"

#define ROWS_RELATION	"kappa_rows"
#define ROW_NUMBER		"kappa_row"
#define FILL_ROWS		10000	/* fetched at once */
#define FILL_BYTES		(64 * 1024 * 1024)	/* of groups in memory, then they are stored */
#define LATE_LINES		100000	/* in memory: a row may be late for thousands of hopping windows */
#define RELIEF_ROWS		1024
#define ROWS_AHEAD		16		/* that are on their way into the processor's cache */
#define KEPT_SHARE		2		/* of kappa.worker_memory: what a view keeps from batch to batch */

/* ---------------------------------------------------------------- what is kept in memory */

/* The view's groups from batch to batch. */
static WindowFold *
view_fold(WindowView *view)
{
	if (view->fold == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(view->context);

		view->fold = window_fold_begin(view);
		MemoryContextSwitchTo(old);
	}
	return view->fold;
}

void
window_forget(WindowView *view)
{
	if (view->fold)
		window_fold_end(view->fold);
	view->fold = NULL;
}

static bool
too_large(WindowFold *fold)
{
	return window_fold_size(fold) > (Size) kappa_worker_memory * 1024 / KEPT_SHARE;
}

/*
 * Called now and then within a batch: a row may be late for thousands of windows, and a
 * sketch for each of many keys takes more memory than the rows.
 */
static void
relieve(WindowView *view, WindowFold **fold, int worker)
{
	CHECK_FOR_INTERRUPTS();
	window_state_store_late(*fold, LATE_LINES);
	if (!too_large(*fold))
		return;
	window_state_store(*fold, worker);
	window_forget(view);
	CommandCounterIncrement();
	*fold = view_fold(view);
}

/* ---------------------------------------------------------------- rows as they stand */

/* Is the target all that FROM names, and the query nothing but expressions on its rows? */
static bool
target_alone(const WindowView *view)
{
	const Query *query = view->input;

	return list_length(query->jointree->fromlist) == 1 && IsA(linitial(query->jointree->fromlist), RangeTblRef) &&
		list_length(query->rtable) == 1 && !query->hasSubLinks && !query->hasAggs && !query->hasWindowFuncs &&
		!query->hasTargetSRFs && query->groupClause == NIL && query->groupingSets == NIL && query->distinctClause == NIL &&
		query->havingQual == NULL && query->limitCount == NULL && query->limitOffset == NULL;
}

typedef struct RowProgram
{
	EState	   *estate;
	ExprContext *econtext;
	TupleTableSlot *row;
	ExprState  *where;			/* NULL: none */
	TupleTableSlot *result;
	ProjectionInfo *columns;
} RowProgram;

static void
prepare_program(RowProgram *program, const WindowView *view, TupleDesc desc)
{
	List	   *targets = (List *) expression_planner((Expr *) copyObject(view->input->targetList));
	Expr	   *where = (Expr *) copyObject(view->input->jointree->quals);

	program->estate = CreateExecutorState();
	program->econtext = CreateExprContext(program->estate);
	program->row = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	program->econtext->ecxt_scantuple = program->row;
	program->where = where ? ExecInitQual(make_ands_implicit(expression_planner(where)), NULL) : NULL;
	program->result = MakeSingleTupleTableSlot(ExecTypeFromTL(targets), &TTSOpsVirtual);
	program->columns = ExecBuildProjectionInfo(targets, program->econtext, program->result, NULL, NULL);
}

/* Where layer r only picks columns: their numbers; NULL where it does more. */
static int *
plain_columns(const WindowView *view)
{
	int		   *atts = palloc(sizeof(int) * list_length(view->input->targetList));
	ListCell   *lc;

	if (view->input->jointree->quals != NULL)
		return NULL;
	foreach(lc, view->input->targetList)
	{
		Var		   *var = (Var *) lfirst_node(TargetEntry, lc)->expr;

		if (!IsA(var, Var) || var->varattno <= 0)
			return NULL;
		atts[foreach_current_index(lc)] = var->varattno - 1;
	}
	return atts;
}

static void
fold_columns(WindowView *view, WindowFold **fold, int worker, const int *atts, const Row *rows, const FoldOrigin *origins, int n)
{
	int			ncolumns = list_length(view->input->targetList);
	Datum	   *values = palloc(sizeof(Datum) * ncolumns * FOLD_ROWS);
	bool	   *nulls = palloc(sizeof(bool) * ncolumns * FOLD_ROWS);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "window row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);

	for (int from = 0; from < n; from += FOLD_ROWS)
	{
		int			m = Min(n - from, FOLD_ROWS);

		if (from % RELIEF_ROWS == 0)
			relieve(view, fold, worker);
		for (int i = 0; i < m; i++)
		{
			if (from + i + ROWS_AHEAD < n)
				__builtin_prefetch(rows[from + i + ROWS_AHEAD].values);
			for (int c = 0; c < ncolumns; c++)
			{
				values[i * ncolumns + c] = rows[from + i].values[atts[c]];
				nulls[i * ncolumns + c] = rows[from + i].nulls[atts[c]];
			}
		}
		window_fold_rows(*fold, &origins[from], values, nulls, ncolumns, m);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(row_context);
}

static void
fold_expressions(WindowView *view, WindowFold **fold, int worker, TupleDesc desc, const Row *rows, const FoldOrigin *origins, int n)
{
	RowProgram	program;
	MemoryContext old = CurrentMemoryContext;

	prepare_program(&program, view, desc);
	MemoryContextSwitchTo(program.econtext->ecxt_per_tuple_memory);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *columns;

		if (i % RELIEF_ROWS == 0)
			relieve(view, fold, worker);
		ExecClearTuple(program.row);
		memcpy(program.row->tts_values, rows[i].values, sizeof(Datum) * desc->natts);
		memcpy(program.row->tts_isnull, rows[i].nulls, sizeof(bool) * desc->natts);
		ExecStoreVirtualTuple(program.row);
		if (program.where == NULL || ExecQual(program.where, program.econtext))
		{
			columns = ExecProject(program.columns);
			window_fold_rows(*fold, &origins[i], columns->tts_values, columns->tts_isnull, 0, 1);
		}
		ResetExprContext(program.econtext);
	}
	MemoryContextSwitchTo(old);
	ExecDropSingleTupleTableSlot(program.row);
	ExecDropSingleTupleTableSlot(program.result);
	FreeExecutorState(program.estate);
}

static void
fold_in_memory(WindowView *view, WindowFold **fold, int worker, TupleDesc desc, const Row *rows, const FoldOrigin *origins, int n)
{
	int		   *atts = plain_columns(view);

	if (atts)
		fold_columns(view, fold, worker, atts, rows, origins, n);
	else
		fold_expressions(view, fold, worker, desc, rows, origins, n);
}

/* ---------------------------------------------------------------- rows as a relation */

/* Layer r as SQL, with the rows in the target's place and their numbers behind all. */
static char *
query_on_rows(const WindowView *view, Relation target)
{
	Query	   *query = copyObject(view->input);
	TupleDesc	desc = RelationGetDescr(target);
	RangeTblEntry *rte = rt_fetch(view->source, query->rtable);

	/* the deparser writes a CTE by its name alone, which is how SPI knows the rows */
	rte->rtekind = RTE_CTE;
	rte->ctename = ROWS_RELATION;
	/* columns as they are named now: what the query was written with may have other names */
	rte->alias = makeAlias(rte->eref->aliasname, NIL);
	rte->eref->colnames = NIL;
	for (int i = 0; i < desc->natts; i++)
		rte->eref->colnames = lappend(rte->eref->colnames, makeString(pstrdup(NameStr(TupleDescAttr(desc, i)->attname))));
	rte->eref->colnames = lappend(rte->eref->colnames, makeString(ROW_NUMBER));
	query->targetList = lappend(query->targetList,
								makeTargetEntry((Expr *) makeVar(view->source, desc->natts + 1, INT4OID, -1, InvalidOid, 0),
												list_length(query->targetList) + 1, ROW_NUMBER, false));
	return pg_get_querydef(query, false);
}

/* The target's columns and the number of the row. */
static TupleDesc
numbered_desc(TupleDesc desc, int *attnos)
{
	TupleDesc	result;
	int			n = 0;

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped)
			attnos[n++] = i + 1;
	result = CreateTemplateTupleDesc(n + 1);
	for (int i = 0; i < n; i++)
		TupleDescCopyEntry(result, i + 1, desc, attnos[i]);
	TupleDescInitEntry(result, n + 1, ROW_NUMBER, INT4OID, -1, 0);
	return result;
}

static void
register_rows(TupleDesc desc, const Row *rows, int n)
{
	int		   *attnos = palloc(sizeof(int) * desc->natts);
	TupleDesc	numbered = numbered_desc(desc, attnos);
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	Datum	   *values = palloc(sizeof(Datum) * numbered->natts);
	bool	   *nulls = palloc0(sizeof(bool) * numbered->natts);
	int			last = numbered->natts - 1;

	for (int r = 0; r < n; r++)
	{
		for (int i = 0; i < last; i++)
		{
			values[i] = rows[r].values[attnos[i] - 1];
			nulls[i] = rows[r].nulls[attnos[i] - 1];
		}
		values[last] = Int32GetDatum(r);
		tuplestore_putvalues(store, numbered, values, nulls);
	}
	enr->md.name = ROWS_RELATION;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = numbered;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = n;
	enr->reldata = store;
	if (SPI_register_relation(enr) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the batch as a relation");
}

/* States outlive the query, and its values may point to another table's TOAST. */
static void
detoast(TupleDesc desc, Datum *values, const bool *nulls)
{
	for (int i = 0; i < desc->natts; i++)
		if (!nulls[i] && TupleDescAttr(desc, i)->attlen == -1 &&
			VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
			values[i] = PointerGetDatum(PG_DETOAST_DATUM(values[i]));
}

static void
fold_by_query(WindowView *view, WindowFold **fold, int worker, Relation target, const Row *rows, const FoldOrigin *origins, int n)
{
	char	   *sql = query_on_rows(view, target);
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;

	SPI_connect();
	register_rows(RelationGetDescr(target), rows, n);
	if (SPI_execute(sql, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run the query of window view \"%s\"", view->name);
	desc = SPI_tuptable->tupdesc;
	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		heap_deform_tuple(SPI_tuptable->vals[i], desc, values, nulls);
		detoast(desc, values, nulls);
		if (i % RELIEF_ROWS == 0)
			relieve(view, fold, worker);
		window_fold_rows(*fold, &origins[DatumGetInt32(values[desc->natts - 1])], values, nulls, 0, 1);
	}
	SPI_finish();
}

/* ---------------------------------------------------------------- a batch */

void
window_batch(WindowView *view, TargetTable *target, int worker,
			 const Row *rows, const FoldOrigin *origins, int n)
{
	WindowFold *fold = view_fold(view);
	UserScope	scope;

	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	if (target_alone(view))
		fold_in_memory(view, &fold, worker, RelationGetDescr(target->rel), rows, origins, n);
	else
		fold_by_query(view, &fold, worker, target->rel, rows, origins, n);
	window_state_store(fold, worker);
	user_scope_end(&scope);
	if (too_large(fold))
		window_forget(view);
}

/* ---------------------------------------------------------------- a table */

/* What a message's rows were late for: windows that end so early (sessions: times). */
typedef struct LateKey
{
	int64		offset;
	int64		part;
} LateKey;

typedef struct LateEntry
{
	LateKey		key;
	TimestampTz upto;
} LateEntry;

typedef struct Fill
{
	WindowView *view;
	WindowFold *fold;
	HTAB	   *late;			/* NULL: none */
	int			part;			/* columns of layer r, -1 */
	int			offset;
	int64		rows;
	/* what came while the view stood still: nobody has judged it yet */
	TimestampTz stopped_at;		/* watermark; DT_NOBEGIN: it did not */
	int			nparts;
	int64	   *known;			/* by partition, offset of the first such row */
} Fill;

/*
 * It is judged by the watermark of then: is_final has gone by that since.  What another
 * worker has listed late behind it is judged anew.
 */
static void
load_stop(Fill *fill)
{
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(fill->view->id)};
	MemoryContext caller = CurrentMemoryContext;
	bool		null;
	int			n;

	catalog_begin(&scope);
	n = (int) catalog_execute("SELECT v.stop_watermark, p.key::integer, p.value::bigint "
							  "FROM kappa.window_view v, jsonb_each_text(v.stop_positions) p WHERE v.id = $1 ORDER BY 2", 1, args);
	for (int row = 0; row < n; row++)
	{
		int32		part = DatumGetInt32(catalog_value(row, 2, &null));

		fill->stopped_at = DatumGetTimestampTz(catalog_value(row, 1, &null));
		fill->known = fill->known ? repalloc(fill->known, sizeof(int64) * (part + 1)) :
			MemoryContextAlloc(caller, sizeof(int64) * (part + 1));
		while (fill->nparts <= part)
			fill->known[fill->nparts++] = 0;
		fill->known[part] = DatumGetInt64(catalog_value(row, 3, &null));
	}
	catalog_execute("DELETE FROM kappa.late_row l USING kappa.window_view v WHERE v.id = $1 AND l.view = v.id "
					"AND l.kafka_offset >= coalesce((v.stop_positions ->> l.part::text)::bigint, 0) AND v.stop_positions IS NOT NULL", 1, args);
	catalog_end(&scope);
}

static bool
came_meanwhile(const Fill *fill, const LateKey *key)
{
	return fill->stopped_at != DT_NOBEGIN && (key->part >= fill->nparts || key->offset >= fill->known[key->part]);
}

static void
load_late(Fill *fill)
{
	HASHCTL		control = {.keysize = sizeof(LateKey),.entrysize = sizeof(LateEntry),.hcxt = CurrentMemoryContext};
	CatalogScope scope;
	CatalogArg	args[] = {CATALOG_INT4(fill->view->id), CATALOG_BOOL(fill->view->spec.kind == WINDOW_SESSION)};
	bool		null;
	int			n;

	fill->late = hash_create("late rows", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	catalog_begin(&scope);
	n = (int) catalog_execute("SELECT part, kafka_offset, max(CASE WHEN $2 THEN window_start ELSE window_end END) "
							  "FROM kappa.late_row WHERE view = $1 GROUP BY 1, 2", 2, args);
	for (int row = 0; row < n; row++)
	{
		LateKey		key = {DatumGetInt64(catalog_value(row, 2, &null)), DatumGetInt32(catalog_value(row, 1, &null))};
		LateEntry  *entry = hash_search(fill->late, &key, HASH_ENTER, NULL);

		entry->upto = DatumGetTimestampTz(catalog_value(row, 3, &null));
	}
	catalog_end(&scope);
}

static int
column_number(const WindowView *view, const char *name)
{
	ListCell   *lc;

	foreach(lc, view->input->targetList)
		if (strcmp(lfirst_node(TargetEntry, lc)->resname, name) == 0)
			return foreach_current_index(lc);
	return -1;
}

void
require_metadata(const WindowView *view)
{
	if (column_number(view, "kafka_partition") < 0 || column_number(view, "kafka_offset") < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the rows of window view \"%s\" do not say which message they came from", view->name),
				 errdetail("Late rows can only be left out by partition and offset."),
				 errhint("ALTER TABLE ... ADD COLUMN kafka_partition integer, ADD COLUMN kafka_offset bigint; then make the view again.")));
}

static void
fill_row(Fill *fill, const Datum *values, const bool *nulls)
{
	FoldOrigin	origin = {-1, -1, DT_NOBEGIN};
	LateEntry  *entry = NULL;

	if (fill->late && !nulls[fill->part] && !nulls[fill->offset])
	{
		LateKey		key = {DatumGetInt64(values[fill->offset]), DatumGetInt32(values[fill->part])};

		entry = hash_search(fill->late, &key, HASH_FIND, NULL);
		if (key.part >= 0 && came_meanwhile(fill, &key))
			origin = (FoldOrigin)
		{
			(int32) key.part, key.offset, fill->stopped_at
		};
	}
	if (entry)
		origin.verdict = entry->upto + fill->view->lateness;
	window_fold_rows(fill->fold, &origin, values, nulls, 0, 1);
	fill->rows++;
}

/* What has been folded goes to the state; late rows that are in the list already have no place. */
static void
flush_fill(Fill *fill)
{
	int			n = 0;

	for (int i = 0; i < fill->fold->nlate; i++)
		if (fill->fold->late[i].part >= 0)
			fill->fold->late[n++] = fill->fold->late[i];
	fill->fold->nlate = n;
	window_state_store(fill->fold, 0);
	window_fold_end(fill->fold);
	CommandCounterIncrement();
	fill->fold = window_fold_begin(fill->view);
}

int64
window_fill(WindowView *view, bool late)
{
	Fill		fill = {.view = view,.stopped_at = DT_NOBEGIN};
	UserScope	scope;
	Portal		portal;
	Datum	   *values = palloc(sizeof(Datum) * list_length(view->input->targetList));
	bool	   *nulls = palloc(sizeof(bool) * list_length(view->input->targetList));

	fill.part = column_number(view, "kafka_partition");
	fill.offset = column_number(view, "kafka_offset");
	if (late)
	{
		load_stop(&fill);
		load_late(&fill);
	}
	user_scope_begin(&scope, view->owner, "pg_catalog, pg_temp");
	SPI_connect();
	/* not read-only: with a snapshot taken behind the subscription's lock */
	fill.fold = window_fold_begin(view);
	portal = SPI_cursor_open_with_args(NULL, pg_get_querydef(copyObject(view->input), false), 0, NULL, NULL, NULL, false, 0);
	window_progress_begin(view, late, linitial_node(PlannedStmt, portal->stmts)->planTree->plan_rows);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FILL_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
			detoast(SPI_tuptable->tupdesc, values, nulls);
			fill_row(&fill, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
		if (window_fold_size(fill.fold) > FILL_BYTES)
			flush_fill(&fill);
		window_progress_step(fill.rows);
	}
	flush_fill(&fill);
	window_progress_end();
	window_fold_end(fill.fold);
	SPI_finish();
	user_scope_end(&scope);
	return fill.rows;
}
