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
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "compat.h"
#include "index_entries.h"
#include "window_state.h"

/* The table while groups are added to it. */
typedef struct StateWriter
{
	WindowFold *fold;
	WindowView *view;
	int			worker;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	Relation	index;
	IndexScanDesc scan;
	Snapshot	snapshot;
	TupleTableSlot *old;		/* the stored row */
	TupleTableSlot *new;
	BlockNumber pruned;			/* last page that was */
	IndexEntries *entries;		/* of new rows; NULL: they go in row by row */
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
			 errhint("Drop the window view and make it again.")));
}

static void
open_writer(StateWriter *writer, WindowFold *fold, int worker)
{
	writer->fold = fold;
	writer->view = fold->view;
	writer->worker = worker;
	writer->pruned = InvalidBlockNumber;
	writer->entries = NULL;
	writer->rel = table_open(fold->view->state, RowExclusiveLock);
	writer->estate = CreateExecutorState();
	init_range_table(writer->estate, writer->rel);
	writer->rri = makeNode(ResultRelInfo);
	ExecInitResultRelation(writer->estate, writer->rri, 1);
	ExecOpenIndices(writer->rri, false);
	writer->index = find_index(writer);
	/* newer than the batch's: kappa.run has several flushes in one transaction */
	writer->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(writer->snapshot);
	writer->scan = index_begin(writer->rel, writer->index, writer->snapshot, writer->view->spec.kind == WINDOW_SESSION ? 1 : 2);
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

/* Rows of a pane and hash, or of a hash backwards by start. */
static void
start_scan(StateWriter *writer, const FoldKey *key, TimestampTz start)
{
	ScanKeyData keys[2];
	Datum		hash = hash_datum(key);
	MemoryContext old;
	int			n = 1;

	if (writer->view->spec.kind == WINDOW_SESSION)
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, hash);
	else
	{
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(start));
		ScanKeyInit(&keys[n++], 2, BTEqualStrategyNumber, F_UUID_EQ, hash);
	}
	old = MemoryContextSwitchTo(writer->scan_context);
	index_rescan(writer->scan, keys, n, NULL, 0);
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

/* Is the row in the slot this worker's, and of the key? */
static bool
is_own(StateWriter *writer, const FoldKey *key)
{
	WindowView *view = writer->view;
	bool		null;

	if (DatumGetInt32(stored(writer, STATE_WORKER, &null)) != writer->worker)
		return false;
	for (int k = 0; k < view->nkeys; k++)
	{
		Datum		value = stored(writer, STATE_KEYS + k, &null);

		if (null != key->nulls[k])
			return false;
		if (!null && !DatumGetBool(FunctionCall2Coll(&view->keys[k].equal, view->keys[k].collation,
													 value, key->values[k])))
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

/* The stored row's partials into the group's states. */
static void
take_partials(StateWriter *writer, FoldGroup *group)
{
	WindowView *view = writer->view;

	for (int a = 0; a < view->naggs; a++)
	{
		bool		null;
		Datum		partial = stored(writer, STATE_KEYS + view->nkeys + a, &null);

		agg_value_combine(&view->aggs[a].agg, &group->values[a], writer->fold->agg, partial, null);
	}
}

/* What the table may hold of a pane that has come up in this batch. */
static void
look_up_pane(StateWriter *writer, FoldGroup *group)
{
	start_scan(writer, group->key, group->start);
	while (next_row(writer, ForwardScanDirection))
	{
		if (!is_own(writer, group->key) || stored_time(writer, STATE_FIRST_WINDOW) != group->first)
			continue;
		take_partials(writer, group);
		group->stored = true;
		group->tid = writer->old->tts_tid;
		return;
	}
}

/* The key's sessions that end at wanted_from or later, less those that are known. */
static void
look_up_sessions(StateWriter *writer, FoldKey *key)
{
	start_scan(writer, key, 0);
	while (next_row(writer, BackwardScanDirection))
	{
		TimestampTz end;

		if (!is_own(writer, key))
			continue;
		/* a worker's sessions of a key do not overlap: none before this one ends later */
		end = stored_time(writer, STATE_WINDOW_END);
		if (end < key->wanted_from)
			return;
		if (end < key->known_from)
			take_partials(writer, window_fold_stored(writer->fold, key, stored_time(writer, STATE_WINDOW_START),
													 end, &writer->old->tts_tid));
	}
}

static void
look_up(StateWriter *writer)
{
	WindowFold *fold = writer->fold;

	for (int i = 0; i < fold->nunknown; i++)
	{
		CHECK_FOR_INTERRUPTS();
		look_up_sessions(writer, fold->unknown[i]);
		MemoryContextReset(writer->row_context);
	}
	if (writer->view->spec.kind == WINDOW_SESSION)
		return;
	for (int i = 0; i < fold->ndirty; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!fold->dirty[i]->stored)
			look_up_pane(writer, fold->dirty[i]);
		MemoryContextReset(writer->row_context);
	}
}

/* ---------------------------------------------------------------- writing */

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
												  writer->fold->agg, &values[at]);
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

/*
 * Room for the new versions on the page of the old ones: what an index scan would do on
 * its way to the row, we do when we come to its page.
 */
static void
prune_page(StateWriter *writer, BlockNumber block)
{
	Buffer		buffer;

	if (block == writer->pruned)
		return;
	writer->pruned = block;
	buffer = ReadBuffer(writer->rel, block);
	heap_page_prune_opt(writer->rel, buffer);
	ReleaseBuffer(buffer);
}

static void
write_group(StateWriter *writer, FoldGroup *group)
{
	IndexUpdate indexes = INDEXES_ALL;

	fill_new(writer, group);
	if (group->stored)
		prune_page(writer, ItemPointerGetBlockNumber(&group->tid));
	if (!group->stored)
	{
		table_tuple_insert(writer->rel, writer->new, GetCurrentCommandId(true), 0, NULL);
		(void) insert_index_tuples(writer->rri, writer->new, writer->estate);
		if (writer->entries)
			index_entries_add(writer->entries, writer->new);
	}
	else if (!update_row(writer->rel, &group->tid, writer->new, GetCurrentCommandId(true), &indexes))
		overtaken(writer);
	else if (indexes != INDEXES_NONE)
		update_index_tuples(writer->rri, writer->new, writer->estate, indexes);
	group->stored = true;
	group->tid = writer->new->tts_tid;
}

static void
write_delete(StateWriter *writer, ItemPointer tid)
{
	TM_FailureData failure;

	if (table_tuple_delete(writer->rel, tid, GetCurrentCommandId(true), writer->snapshot,
						   InvalidSnapshot, true, &failure, false) != TM_Ok)
		overtaken(writer);
}

/* A stored group and where, as a number that sorts like the place */
typedef struct StoredGroup
{
	uint64		place;
	FoldGroup  *group;
} StoredGroup;

#define ST_SORT sort_by_place
#define ST_ELEMENT_TYPE StoredGroup
#define ST_COMPARE(a, b) ((a)->place < (b)->place ? -1 : (a)->place > (b)->place)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

#define AHEAD	8				/* groups that are on their way into the processor's cache */

/* The n-th of many: what they leave in memory is small, and freed now and then. */
static void
write_one(StateWriter *writer, FoldGroup *group, int n)
{
	write_group(writer, group);
	if (n % 64 != 0)
		return;
	CHECK_FOR_INTERRUPTS();
	ResetPerTupleExprContext(writer->estate);
	MemoryContextReset(writer->row_context);
}

/* Page by page: each is read, pruned and found room on once. */
static void
write_updates(StateWriter *writer)
{
	WindowFold *fold = writer->fold;
	StoredGroup *groups = MemoryContextAllocHuge(writer->scan_context, sizeof(StoredGroup) * Max(fold->ndirty, 1));
	int			n = 0;

	for (int i = 0; i < fold->ndirty; i++)
	{
		FoldGroup  *group = fold->dirty[i];

		if (group->stored && !group->gone)
			groups[n++] = (StoredGroup)
		{
			(uint64) ItemPointerGetBlockNumber(&group->tid) << 16 | ItemPointerGetOffsetNumber(&group->tid), group
		};
	}
	sort_by_place(groups, n);
	for (int i = 0; i < n; i++)
	{
		if (i + 2 * AHEAD < n)
			__builtin_prefetch(groups[i + 2 * AHEAD].group);
		if (i + AHEAD < n)
			__builtin_prefetch(groups[i + AHEAD].group->key);
		write_one(writer, groups[i].group, i);
	}
	pfree(groups);
}

/* A rebuild brings nothing back that the retention has let go. */
static bool
is_trimmed(const StateWriter *writer, const FoldGroup *group)
{
	return writer->view->spec.kind != WINDOW_HOP && group->end <= writer->view->trimmed_upto;
}

/* Their index entries wait, and go in in the order of each index. */
static void
write_new(StateWriter *writer)
{
	WindowFold *fold = writer->fold;
	MemoryContext old = MemoryContextSwitchTo(writer->scan_context);

	writer->entries = index_entries_begin(writer->rri);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < fold->ndirty; i++)
		if (!fold->dirty[i]->stored && !fold->dirty[i]->gone && !is_trimmed(writer, fold->dirty[i]))
			write_one(writer, fold->dirty[i], i);
	if (writer->entries)
		index_entries_end(writer->entries, writer->estate);
	writer->entries = NULL;
}

static void
write_all(StateWriter *writer)
{
	WindowFold *fold = writer->fold;

	for (int i = 0; i < fold->nobsolete; i++)
		write_delete(writer, &fold->obsolete[i]);
	write_updates(writer);
	write_new(writer);
}

/* Places that we remember are those of this file; VACUUM FULL makes another. */
static void
check_places(StateWriter *writer)
{
	if (writer->fold->file != 0 && writer->fold->file != relation_file(writer->rel))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the state of window view \"%s\" was written anew", writer->view->name),
				 errdetail("This batch is undone and tried again.")));
	writer->fold->file = relation_file(writer->rel);
}

void
window_state_store_groups(WindowFold *fold, int worker)
{
	StateWriter writer;
	MemoryContext old;

	if (fold->ndirty > 0)
	{
		open_writer(&writer, fold, worker);
		old = MemoryContextSwitchTo(writer.row_context);
		check_places(&writer);
		look_up(&writer);
		write_all(&writer);
		MemoryContextSwitchTo(old);
		close_writer(&writer);
	}
	window_fold_clean(fold);
}

/* ---------------------------------------------------------------- final windows */

#define CLOSED_WORKER	(-1)	/* of rows that are final */

/* The group that a row of the state has gone into. */
static bool
in_group(const FoldGroup *group, const StateRow *row)
{
	return group->key == row->key && row->start >= group->start && row->end <= group->end;
}

static bool
row_is_final(const WindowFold *fold, const StateRow *row, TimestampTz upto)
{
	if (fold->view->spec.kind != WINDOW_SESSION)
		return true;
	for (int s = 0; s < row->key->nsessions; s++)
		if (in_group(row->key->sessions[s], row))
			return row->key->sessions[s]->end <= upto;
	return false;
}

void
window_state_compact(WindowFold *fold, TimestampTz upto)
{
	StateWriter writer;
	MemoryContext old;

	if (fold->nread == 0)
		return;
	open_writer(&writer, fold, CLOSED_WORKER);
	old = MemoryContextSwitchTo(writer.row_context);
	for (int i = 0; i < fold->nread; i++)
		if (row_is_final(fold, &fold->read[i], upto))
			write_delete(&writer, &fold->read[i].tid);
	for (int i = 0; i < fold->ndirty; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!fold->dirty[i]->gone && (writer.view->spec.kind != WINDOW_SESSION || fold->dirty[i]->end <= upto))
			write_group(&writer, fold->dirty[i]);
		ResetPerTupleExprContext(writer.estate);
		MemoryContextReset(writer.row_context);
	}
	MemoryContextSwitchTo(old);
	close_writer(&writer);
}

/* ---------------------------------------------------------------- late rows */

static void
add_late_rows(const WindowView *view, const LateRow *rows, int n)
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

void
window_state_store_late(WindowFold *fold, int least)
{
	if (fold->nlate < least)
		return;
	add_late_rows(fold->view, fold->late, fold->nlate);
	fold->nlate = 0;
}

void
window_state_store(WindowFold *fold, int worker)
{
	window_state_store_late(fold, 1);
	window_state_store_groups(fold, worker);
}
