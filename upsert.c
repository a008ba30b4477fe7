/*
 * upsert.c
 *		Rows into a plain table by its key's index, without SQL.
 *
 * One scan of the key's index serves the whole batch: each row sets it to its key
 * and looks, with a dirty snapshot, as a unique index does when it checks.
 *
 *		there					update it, or delete it
 *		not there				insert it speculatively; if somebody was faster, look again;
 *								a delete makes sure of it (is_gone)
 *		in another
 *		transaction's hand		wait for its end, look again
 *
 * So the result is that of INSERT ... ON CONFLICT DO UPDATE (the key's columns stay
 * as they were written, all others are set), and since rows are taken one by one in
 * the order of their keys, two workers never wait for each other in a ring.
 *
 * The index says which keys are equal, by its operator class and its collation, which
 * need not be the column's.  Of several unique indexes on the key's columns one that
 * compares as the column does comes first.  (SQL's ON CONFLICT, given the columns alone,
 * would take all of them, and with them all that any of them calls equal.)
 *
 * Tables with triggers, rules, partitions, generated or identity columns go by SQL,
 * and so does a batch in which an error is being looked for.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "fault.h"
#include "stream_wal.h"
#include "upsert.h"

typedef struct Upsert
{
	TargetTable *target;
	EState	   *estate;
	ResultRelInfo *rri;
	SnapshotData dirty;
	IndexScanDesc scan;
	int			nkeys;
	ScanKeyData keys[INDEX_MAX_KEYS];
	AttrNumber	attnos[INDEX_MAX_KEYS]; /* of the table, by key */
	List	   *arbiters;		/* the key's index, and those that compare as it does */
	TupleTableSlot *old;
	TupleTableSlot *new;
	bool		hinted;			/* hint_changed has been called */
	Oid			only_index;		/* the table's one index; InvalidOid: there are more */
} Upsert;

/* ---------------------------------------------------------------- which tables */

static bool
is_key_of(Relation index, const TargetTable *target)
{
	if (!index->rd_index->indisunique || !index->rd_index->indimmediate ||
		!index->rd_index->indisvalid || index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL) ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) ||
		index->rd_index->indnkeyatts != target->nkeys)
		return false;
	for (int k = 0; k < target->nkeys; k++)
	{
		bool		found = false;

		for (int i = 0; i < target->nkeys; i++)
			found |= index->rd_index->indkey.values[i] == target->keys[k];
		if (!found)
			return false;
	}
	return true;
}

static bool
has_special_columns(TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && (att->attgenerated || att->attidentity))
			return true;
	}
	return false;
}

/* By key column of the target, whose order need not be that of the index. */
static KeyEquality *
read_equality(Relation index, const TargetTable *target)
{
	KeyEquality *result = palloc0(sizeof(KeyEquality) * target->nkeys);
	bool		null;
	Datum		classes = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indclass, &null);

	Assert(!null);
	for (int k = 0; k < target->nkeys; k++)
	{
		int			i = 0;

		while (index->rd_index->indkey.values[i] != target->keys[k])
			i++;
		result[k].opclass = ((oidvector *) DatumGetPointer(classes))->values[i];
		result[k].opfamily = index->rd_opfamily[i];
		result[k].type = index->rd_opcintype[i];
		result[k].collation = index->rd_indcollation[i];
	}
	return result;
}

/* Do the table's columns themselves compare like that? */
static bool
is_equality_of_columns(const KeyEquality *equality, const TargetTable *target)
{
	for (int k = 0; k < target->nkeys; k++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(target->rel), target->keys[k] - 1);
		TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_BTREE_OPFAMILY);

		if (equality[k].collation != att->attcollation || equality[k].opfamily != type->btree_opf)
			return false;
	}
	return true;
}

/*
 * The table's index on its key, closed again; InvalidOid: none.  From the catalog's rows
 * alone: BuildIndexInfo would run functions of the table owner's indexes, and we are not
 * he yet.
 */
static Oid
find_key_index(TargetTable *target)
{
	List	   *indexes = RelationGetIndexList(target->rel);
	Oid			best = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		bool		found = is_key_of(index, target);
		KeyEquality *equality = found ? read_equality(index, target) : NULL;

		index_close(index, NoLock);
		if (!found || (OidIsValid(best) && !is_equality_of_columns(equality, target)))
			continue;
		best = lfirst_oid(lc);
		target->equality = equality;
		if (is_equality_of_columns(equality, target))
			break;
	}
	return best;
}

void
upsert_open(TargetTable *target)
{
	Relation	rel = target->rel;

	target->key_index = find_key_index(target);
	target->by_index = OidIsValid(target->key_index) &&
		rel->rd_rel->relkind == RELKIND_RELATION && !rel->rd_rel->relispartition &&
		rel->trigdesc == NULL && rel->rd_rules == NULL && !has_special_columns(RelationGetDescr(rel));
}

/* ---------------------------------------------------------------- begin and end */

static void
make_keys(Upsert *upsert, Relation index)
{
	for (int k = 0; k < upsert->nkeys; k++)
	{
		Oid			type = index->rd_opcintype[k];
		Oid			equal = get_opfamily_member(index->rd_opfamily[k], type, type, BTEqualStrategyNumber);

		if (!OidIsValid(equal))
			elog(ERROR, "missing operator of equality for type %u", type);
		upsert->attnos[k] = index->rd_index->indkey.values[k];
		ScanKeyInit(&upsert->keys[k], k + 1, BTEqualStrategyNumber, get_opcode(equal), (Datum) 0);
		upsert->keys[k].sk_collation = index->rd_indcollation[k];
	}
}

/* What SQL's ON CONFLICT would find by the key's columns, collations and classes */
static bool
is_arbiter(Relation index, const TargetTable *target)
{
	KeyEquality *equality;

	if (!is_key_of(index, target))
		return false;
	equality = read_equality(index, target);
	for (int k = 0; k < target->nkeys; k++)
		if (equality[k].opfamily != target->equality[k].opfamily ||
			equality[k].type != target->equality[k].type ||
			equality[k].collation != target->equality[k].collation)
			return false;
	return true;
}

static void
upsert_begin(Upsert *upsert, TargetTable *target)
{
	memset(upsert, 0, sizeof(Upsert));
	upsert->target = target;
	upsert->estate = CreateExecutorState();
	init_range_table(upsert->estate, target->rel);
	upsert->estate->es_output_cid = GetCurrentCommandId(true);
	upsert->rri = makeNode(ResultRelInfo);
	ExecInitResultRelation(upsert->estate, upsert->rri, 1);
	ExecOpenIndices(upsert->rri, true);
	upsert->old = table_slot_create(target->rel, &upsert->estate->es_tupleTable);
	upsert->new = table_slot_create(target->rel, &upsert->estate->es_tupleTable);
	upsert->nkeys = target->nkeys;
	InitDirtySnapshot(upsert->dirty);
	for (int i = 0; i < upsert->rri->ri_NumIndices; i++)
	{
		Relation	index = upsert->rri->ri_IndexRelationDescs[i];

		if (is_arbiter(index, target))
			upsert->arbiters = lappend_oid(upsert->arbiters, RelationGetRelid(index));
		if (RelationGetRelid(index) != target->key_index)
			continue;
		make_keys(upsert, index);
		upsert->scan = index_begin(target->rel, index, &upsert->dirty, upsert->nkeys);
	}
	if (upsert->rri->ri_NumIndices == 1)
		upsert->only_index = target->key_index;
	if (upsert->scan == NULL)
		elog(ERROR, "index %u of relation \"%s\" is not among its indexes any more",
			 target->key_index, RelationGetRelationName(target->rel));
}

static void
upsert_end(Upsert *upsert)
{
	index_endscan(upsert->scan);
	ExecResetTupleTable(upsert->estate->es_tupleTable, false);
	ExecCloseResultRelations(upsert->estate);
	ExecCloseRangeTableRelations(upsert->estate);
	FreeExecutorState(upsert->estate);
	CommandCounterIncrement();
}

/* Changes and deletes that are published need an identity of the row, each its own. */
static void
check_replica_identity(Relation rel, const Row *rows, int n)
{
	bool		seen[2] = {false, false};

	for (int i = 0; i < n; i++)
	{
		if (seen[rows[i].delete])
			continue;
		CheckCmdReplicaIdentity(rel, rows[i].delete ? CMD_DELETE : CMD_UPDATE);
		seen[rows[i].delete] = true;
	}
}

/* ---------------------------------------------------------------- rows */

/* Set old to the next row that the scan finds. */
static bool
next_row(Upsert *upsert)
{
	while (index_getnext_tid(upsert->scan, ForwardScanDirection) != NULL)
	{
		FAULT_POINT("before_heap");
		if (index_fetch_heap(upsert->scan, upsert->old))
			return true;
	}
	return false;
}

/* Set old to what stands under the row's key; false: nothing does. */
static bool
look(Upsert *upsert, const Row *row)
{
	for (int k = 0; k < upsert->nkeys; k++)
		upsert->keys[k].sk_argument = row->values[upsert->attnos[k] - 1];
	for (;;)
	{
		TransactionId other;

		index_rescan(upsert->scan, upsert->keys, upsert->nkeys, NULL, 0);
		/* the scan sets these where somebody else has the row in hand */
		upsert->dirty.xmin = upsert->dirty.xmax = InvalidTransactionId;
		if (!next_row(upsert))
			return false;
		other = TransactionIdIsValid(upsert->dirty.xmin) ? upsert->dirty.xmin : upsert->dirty.xmax;
		if (!TransactionIdIsValid(other))
			return true;
		ExecMaterializeSlot(upsert->old);	/* no page stays pinned while we wait */
		XactLockTableWait(other, upsert->target->rel, &upsert->old->tts_tid, XLTW_InsertIndex);
	}
}

/*
 * Is there really nothing under the key that we have looked for?  A scan takes the
 * entries of a leaf and visits their rows afterwards.  Where another transaction updates
 * a row and commits between the two, its old version is dead and the entry of its new
 * one not among those that were taken.  (An insert is told so by the index.)  A snapshot
 * taken now sees one version of it, whatever is done to it from now on.
 */
static bool
is_gone(Upsert *upsert)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	IndexScanDesc scan = index_begin(upsert->target->rel, upsert->scan->indexRelation, snapshot, upsert->nkeys);
	bool		found;

	index_rescan(scan, upsert->keys, upsert->nkeys, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, upsert->old);
	ExecClearTuple(upsert->old);
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
	return !found;
}

/* The row as it will stand: what the message says, under the key as it was written. */
static void
fill_new(Upsert *upsert, const Row *row, bool there)
{
	TupleTableSlot *new = upsert->new;
	int			natts = new->tts_tupleDescriptor->natts;

	ExecClearTuple(new);
	memcpy(new->tts_values, row->values, sizeof(Datum) * natts);
	memcpy(new->tts_isnull, row->nulls, sizeof(bool) * natts);
	for (int k = 0; there && k < upsert->nkeys; k++)
	{
		int			att = upsert->attnos[k] - 1;

		new->tts_values[att] = slot_getattr(upsert->old, att + 1, &new->tts_isnull[att]);
	}
	ExecStoreVirtualTuple(new);
	new->tts_tableOid = RelationGetRelid(upsert->target->rel);
	if (new->tts_tupleDescriptor->constr)
		ExecConstraints(upsert->rri, new, upsert->estate);
}

/*
 * A new version of a row needs entries in all indexes, also in those whose columns it
 * does not change.  A B-tree that is told so clears away entries of old versions before
 * it splits a page, which is a waste of time in the others.  It is told once a batch:
 * the first row stands for all.
 */
static void
hint_changed(Upsert *upsert)
{
	TupleDesc	desc = upsert->new->tts_tupleDescriptor;
	Bitmapset  *changed = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		null[2];
		Datum		old;
		Datum		new;

		if (att->attisdropped)
			continue;
		old = slot_getattr(upsert->old, att->attnum, &null[0]);
		new = slot_getattr(upsert->new, att->attnum, &null[1]);
		if (null[0] != null[1] || (!null[0] && !datum_image_eq(old, new, att->attbyval, att->attlen)))
			changed = bms_add_member(changed, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	set_updated_columns(upsert->estate, changed);
	upsert->hinted = true;
}

/* false: it is not there any more as we have seen it. */
static bool
update(Upsert *upsert, const Row *row)
{
	IndexUpdate indexes;
	int64		since;

	fill_new(upsert, row, true);
	if (!update_row(upsert->target->rel, &upsert->old->tts_tid, upsert->new, upsert->estate->es_output_cid,
					&indexes))
		return false;
	upsert->target->row_bytes += stream_row_bytes(upsert->new);
	if (indexes == INDEXES_NONE)
		return true;
	if (!upsert->hinted)
		hint_changed(upsert);
	since = stream_wal_now();
	update_index_tuples(upsert->rri, upsert->new, upsert->estate, indexes);
	stream_wal_of_index(upsert->only_index, since);
	return true;
}

/*
 * This command has written it: two of its rows have one key, which can only be when
 * code of the table's owner (a constraint's) wrote one of them.
 */
static void
refuse_own(Upsert *upsert)
{
	HeapTuple	tuple;

	if (!TTS_IS_BUFFERTUPLE(upsert->old))
		return;
	tuple = ((BufferHeapTupleTableSlot *) upsert->old)->base.tuple;
	if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
		HeapTupleHeaderGetCmin(tuple->t_data) >= upsert->estate->es_output_cid)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("upsert into relation \"%s\" cannot affect a row a second time",
						RelationGetRelationName(upsert->target->rel)),
				 errdetail("Code of a constraint has written this key while the batch was written.")));
}

static bool
delete(Upsert *upsert)
{
	TM_FailureData failure;

	return table_tuple_delete(upsert->target->rel, &upsert->old->tts_tid, upsert->estate->es_output_cid,
							  GetActiveSnapshot(), InvalidSnapshot, true, &failure, false) == TM_Ok;
}

/* false: another transaction has the key since we looked. */
static bool
insert(Upsert *upsert, const Row *row)
{
	TransactionId xid = GetCurrentTransactionId();
	uint32		token;
	bool		conflict = false;
	int64		since;

	fill_new(upsert, row, false);
	token = SpeculativeInsertionLockAcquire(xid);
	table_tuple_insert_speculative(upsert->target->rel, upsert->new, upsert->estate->es_output_cid,
								   0, NULL, token);
	since = stream_wal_now();
	insert_index_tuples_if_new(upsert->rri, upsert->new, upsert->estate, &conflict, upsert->arbiters);
	stream_wal_of_index(upsert->only_index, since);
	table_tuple_complete_speculative(upsert->target->rel, upsert->new, token, !conflict);
	SpeculativeInsertionLockRelease(xid);
	if (!conflict)
		upsert->target->row_bytes += stream_row_bytes(upsert->new);
	return !conflict;
}

static void
write_row(Upsert *upsert, const Row *row)
{
	bool		done = false;

	while (!done)
	{
		CHECK_FOR_INTERRUPTS();
		if (look(upsert, row))
		{
			refuse_own(upsert);
			done = row->delete ? delete(upsert) : update(upsert, row);
		}
		else
			done = row->delete ? is_gone(upsert) : insert(upsert, row);
		ExecClearTuple(upsert->new);
		ExecClearTuple(upsert->old);
		ResetPerTupleExprContext(upsert->estate);
	}
}

void
upsert_by_index(TargetTable *target, Row *rows, int n)
{
	Upsert		upsert;

	check_replica_identity(target->rel, rows, n);
	upsert_begin(&upsert, target);
	for (int i = 0; i < n; i++)
		write_row(&upsert, &rows[i]);
	upsert_end(&upsert);
	FAULT_POINT("mid_insert");
}
