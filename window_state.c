/*
 * window_state.c
 *		The table of a window view's partials: the second stage.
 *
 * One row a window (pane, session), key and worker.  A worker writes its own rows
 * alone, under the subscription's lock in share mode, so nobody waits for anybody;
 * readers combine the rows of all workers.  No aggregate is in an index, so an
 * update stays on its page (HOT) as long as there is room.
 *
 * The rows are found by window and a 128-bit hash of the keys, and then compared by
 * the keys themselves: two keys of the same hash are two rows.  Sessions are found
 * by the hash first: their start moves when an earlier row comes.
 *
 * Crash story: as any table of the transaction that stores the rows.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "compat.h"
#include "window_state.h"

/* The table while groups are added to it. */
typedef struct StateWriter
{
	WindowView *view;
	int			worker;
	AggContext *context;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	Relation	index;
	IndexScanDesc scan;
	Snapshot	snapshot;
	TupleTableSlot *old;		/* the stored row */
	TupleTableSlot *new;
	MemoryContext scan_context; /* an index scan keeps memory from one call to the next */
	MemoryContext row_context;	/* reset after each group */
} StateWriter;

/* ---------------------------------------------------------------- opening */

/* The index over exactly window and hash, in the order of the kind. */
static Relation
find_index(StateWriter *writer)
{
	bool		session = writer->view->spec.kind == WINDOW_SESSION;
	AttrNumber	first = session ? STATE_KEY_HASH : STATE_WINDOW_START;
	AttrNumber	second = session ? STATE_WINDOW_START : STATE_KEY_HASH;
	ResultRelInfo *rri = writer->rri;

	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		Form_pg_index form = rri->ri_IndexRelationDescs[i]->rd_index;

		if (form->indnkeyatts == 2 && form->indkey.values[0] == first && form->indkey.values[1] == second)
			return rri->ri_IndexRelationDescs[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the state of window view \"%s\" has lost its index", writer->view->name),
			 errhint("SELECT kappa.rebuild(%s).", quote_literal_cstr(writer->view->name))));
}

static void
open_writer(StateWriter *writer, WindowView *view, int worker, AggContext *context)
{
	writer->view = view;
	writer->worker = worker;
	writer->context = context;
	writer->rel = table_open(view->state, RowExclusiveLock);
	writer->estate = CreateExecutorState();
	init_range_table(writer->estate, writer->rel);
	writer->rri = makeNode(ResultRelInfo);
	ExecInitResultRelation(writer->estate, writer->rri, 1);
	ExecOpenIndices(writer->rri, false);
	writer->index = find_index(writer);
	/* newer than the batch's: kappa.run has several flushes in one transaction */
	writer->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(writer->snapshot);
	writer->scan = index_begin(writer->rel, writer->index, writer->snapshot, 2);
	writer->old = table_slot_create(writer->rel, NULL);
	writer->new = MakeSingleTupleTableSlot(RelationGetDescr(writer->rel), &TTSOpsVirtual);
	writer->scan_context = CurrentMemoryContext;
	writer->row_context = AllocSetContextCreate(CurrentMemoryContext, "window state row", ALLOCSET_DEFAULT_SIZES);
}

static void
close_writer(StateWriter *writer)
{
	index_endscan(writer->scan);
	ExecDropSingleTupleTableSlot(writer->old);
	ExecDropSingleTupleTableSlot(writer->new);
	PopActiveSnapshot();
	UnregisterSnapshot(writer->snapshot);
	ExecCloseResultRelations(writer->estate);
	ExecCloseRangeTableRelations(writer->estate);
	FreeExecutorState(writer->estate);
	table_close(writer->rel, NoLock);
	MemoryContextDelete(writer->row_context);
}

/* ---------------------------------------------------------------- finding */

static Datum
hash_datum(const FoldKey *key)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	memcpy(uuid->data, key->hash, UUID_LEN);
	return UUIDPGetDatum(uuid);
}

static void
start_scan(StateWriter *writer, const FoldGroup *group)
{
	ScanKeyData keys[2];
	Datum		hash = hash_datum(group->key);
	MemoryContext old;

	if (writer->view->spec.kind == WINDOW_SESSION)
	{
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, hash);
		ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(group->end));
	}
	else
	{
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(group->start));
		ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_UUID_EQ, hash);
	}
	old = MemoryContextSwitchTo(writer->scan_context);
	index_rescan(writer->scan, keys, 2, NULL, 0);
	MemoryContextSwitchTo(old);
}

static Datum
stored(StateWriter *writer, int column, bool *null)
{
	return slot_getattr(writer->old, column, null);
}

static TimestampTz
stored_time(StateWriter *writer, int column)
{
	bool		null;

	return DatumGetTimestampTz(stored(writer, column, &null));
}

/* Is the row in the slot this worker's, and of the group's keys? */
static bool
is_own(StateWriter *writer, const FoldGroup *group)
{
	WindowView *view = writer->view;
	bool		null;

	if (DatumGetInt32(stored(writer, STATE_WORKER, &null)) != writer->worker)
		return false;
	if (view->spec.kind == WINDOW_HOP && stored_time(writer, STATE_FIRST_WINDOW) != group->first)
		return false;
	for (int k = 0; k < view->nkeys; k++)
	{
		Datum		value = stored(writer, STATE_KEYS + k, &null);

		if (null != group->key->nulls[k])
			return false;
		if (!null && !DatumGetBool(FunctionCall2Coll(&view->keys[k].equal, view->keys[k].collation,
													 value, group->key->values[k])))
			return false;
	}
	return true;
}

static bool
next_row(StateWriter *writer, ScanDirection direction)
{
	MemoryContext old = MemoryContextSwitchTo(writer->scan_context);
	bool		found = index_getnext_slot(writer->scan, direction, writer->old);

	MemoryContextSwitchTo(old);
	return found;
}

/* The next stored row that the group belongs to; false: no more. */
static bool
next_stored(StateWriter *writer, const FoldGroup *group)
{
	bool		session = writer->view->spec.kind == WINDOW_SESSION;

	while (next_row(writer, session ? BackwardScanDirection : ForwardScanDirection))
	{
		if (!is_own(writer, group))
			continue;
		/* backwards by start, and a worker's sessions do not overlap: none before reaches further */
		if (session && stored_time(writer, STATE_WINDOW_END) < group->start)
			return false;
		return true;
	}
	return false;
}

/* ---------------------------------------------------------------- writing */

/* The stored row's partials into the group's states. */
static void
take_stored(StateWriter *writer, FoldGroup *group)
{
	WindowView *view = writer->view;

	if (view->spec.kind == WINDOW_SESSION)
	{
		group->start = Min(group->start, stored_time(writer, STATE_WINDOW_START));
		group->end = Max(group->end, stored_time(writer, STATE_WINDOW_END));
	}
	for (int a = 0; a < view->naggs; a++)
	{
		bool		null;
		Datum		partial = stored(writer, STATE_KEYS + view->nkeys + a, &null);

		agg_value_combine(&view->aggs[a].agg, &group->values[a], writer->context, partial, null);
	}
}

static void
fill_new(StateWriter *writer, const FoldGroup *group)
{
	WindowView *view = writer->view;
	TupleTableSlot *slot = writer->new;
	Datum	   *values = slot->tts_values;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	values[STATE_WINDOW_START - 1] = TimestampTzGetDatum(group->start);
	values[STATE_WINDOW_END - 1] = TimestampTzGetDatum(group->end);
	values[STATE_FIRST_WINDOW - 1] = TimestampTzGetDatum(group->first);
	values[STATE_KEY_HASH - 1] = hash_datum(group->key);
	values[STATE_WORKER - 1] = Int32GetDatum(writer->worker);
	for (int k = 0; k < view->nkeys; k++)
	{
		values[STATE_KEYS - 1 + k] = group->key->values[k];
		slot->tts_isnull[STATE_KEYS - 1 + k] = group->key->nulls[k];
	}
	for (int a = 0; a < view->naggs; a++)
	{
		int			at = STATE_KEYS - 1 + view->nkeys + a;

		slot->tts_isnull[at] = !agg_value_partial(&view->aggs[a].agg, &group->values[a],
												  writer->context, &values[at]);
	}
	ExecStoreVirtualTuple(slot);
}

static void
overtaken(StateWriter *writer)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the state of window view \"%s\" has changed under us", writer->view->name),
			 errdetail("Somebody else has written rows of worker %d; this batch is undone.", writer->worker)));
}

static void
write_update(StateWriter *writer, ItemPointer tid)
{
	IndexUpdate indexes;

	if (!update_row(writer->rel, tid, writer->new, GetCurrentCommandId(true), &indexes))
		overtaken(writer);
	if (indexes != INDEXES_NONE)
		update_index_tuples(writer->rri, writer->new, writer->estate, indexes);
}

static void
write_insert(StateWriter *writer)
{
	table_tuple_insert(writer->rel, writer->new, GetCurrentCommandId(true), 0, NULL);
	(void) insert_index_tuples(writer->rri, writer->new, writer->estate);
}

static void
write_delete(StateWriter *writer, ItemPointer tid)
{
	TM_FailureData failure;

	if (table_tuple_delete(writer->rel, tid, GetCurrentCommandId(true), writer->snapshot,
						   InvalidSnapshot, true, &failure, false) != TM_Ok)
		overtaken(writer);
}

/* Rows of the table that have gone into the group in hand: the first one stays. */
typedef struct Taken
{
	int			n;
	int			room;
	ItemPointerData *tids;
} Taken;

/* The scan does not see what we have just written, so it gives them a second time. */
static bool
is_taken(const Taken *taken, ItemPointer tid)
{
	for (int i = 0; i < taken->n; i++)
		if (ItemPointerEquals(&taken->tids[i], tid))
			return true;
	return false;
}

static void
take_all_stored(StateWriter *writer, FoldGroup *group, Taken *taken)
{
	start_scan(writer, group);
	while (next_stored(writer, group))
	{
		if (is_taken(taken, &writer->old->tts_tid))
			continue;
		take_stored(writer, group);
		if (taken->n == taken->room)
		{
			taken->room = Max(taken->room * 2, 4);
			taken->tids = taken->tids ? repalloc(taken->tids, sizeof(ItemPointerData) * taken->room) :
				palloc(sizeof(ItemPointerData) * taken->room);
		}
		taken->tids[taken->n++] = writer->old->tts_tid;
		if (writer->view->spec.kind != WINDOW_SESSION)
			break;
	}
}

/*
 * The group with what is stored of it.  A session may bridge several stored ones, and
 * then reach the next of the batch, which is taken in too; returns how many groups
 * are dealt with.
 */
static int
add_group(StateWriter *writer, FoldGroup **groups, int n)
{
	Taken		taken = {0};
	FoldGroup  *group = groups[0];
	int			done = 1;

	take_all_stored(writer, group, &taken);
	while (writer->view->spec.kind == WINDOW_SESSION && done < n &&
		   groups[done]->key == group->key && groups[done]->start <= group->end)
	{
		window_fold_merge(writer->view, writer->context, group, groups[done++]);
		take_all_stored(writer, group, &taken);
	}
	fill_new(writer, group);
	if (taken.n == 0)
		write_insert(writer);
	else
		write_update(writer, &taken.tids[0]);
	for (int i = 1; i < taken.n; i++)
		write_delete(writer, &taken.tids[i]);
	return done;
}

static int
compare_groups(const void *a, const void *b)
{
	const FoldGroup *x = *(FoldGroup *const *) a;
	const FoldGroup *y = *(FoldGroup *const *) b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return memcmp(x->key->hash, y->key->hash, sizeof(x->key->hash));
}

void
window_state_add(WindowView *view, int worker, FoldGroup **groups, int n, AggContext *context)
{
	StateWriter writer;
	MemoryContext old;

	if (n == 0)
		return;
	open_writer(&writer, view, worker, context);
	/* neighbours in the index one after the other */
	if (view->spec.kind != WINDOW_SESSION)
		qsort(groups, n, sizeof(FoldGroup *), compare_groups);
	old = MemoryContextSwitchTo(writer.row_context);
	for (int i = 0; i < n;)
	{
		CHECK_FOR_INTERRUPTS();
		i += add_group(&writer, groups + i, n - i);
		ResetPerTupleExprContext(writer.estate);
		MemoryContextReset(writer.row_context);
	}
	MemoryContextSwitchTo(old);
	close_writer(&writer);
}

/* ---------------------------------------------------------------- late rows */

void
window_late_add(const WindowView *view, const LateRow *rows, int n)
{
	CatalogScope scope;
	Datum	   *columns[6];
	CatalogArg	args[7] = {CATALOG_INT4(view->id)};
	static const Oid types[6] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	static const Oid arrays[6] = {TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, INT8ARRAYOID,
	TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID};

	if (n == 0)
		return;
	for (int c = 0; c < 6; c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = TimestampTzGetDatum(rows[i].start);
		columns[1][i] = TimestampTzGetDatum(rows[i].end);
		columns[2][i] = Int32GetDatum(rows[i].part);
		columns[3][i] = Int64GetDatum(rows[i].offset);
		columns[4][i] = TimestampTzGetDatum(rows[i].event_time);
		columns[5][i] = TimestampTzGetDatum(rows[i].watermark);
	}
	for (int c = 0; c < 6; c++)
		args[c + 1] = (CatalogArg)
	{
		arrays[c], PointerGetDatum(construct_array(columns[c], n, types[c], types[c] == INT4OID ? 4 : 8, true,
												   types[c] == INT4OID ? TYPALIGN_INT : TYPALIGN_DOUBLE)), false
	};
	catalog_begin(&scope);
	catalog_execute("INSERT INTO kappa.late_row (view, window_start, window_end, part, kafka_offset, event_time, watermark) "
					"SELECT $1, * FROM unnest($2, $3, $4, $5, $6, $7)", 7, args);
	catalog_end(&scope);
}
