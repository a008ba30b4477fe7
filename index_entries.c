/*
 * index_entries.c
 *		Index entries of many rows, inserted in the order of each index.
 *
 * A B-tree of more pages than fit into the processor's cache costs a walk through
 * cold memory for each entry when they come in the order of the messages.  In the
 * order of the keys neighbours share the walk: the upper pages stay in the cache,
 * entries for one leaf come one after the other, and ever-growing keys (times) take
 * the short cut to the last leaf.
 *
 * Qualified are valid B-trees over plain columns whose uniqueness, if any, is
 * checked at once.  The others keep the executor's way, row by row.  Of two equal
 * keys of a unique index in one batch either may be the one that fails: the caller's
 * halving puts the earlier row first.
 *
 * Everything is in a memory context of its own, under the one that was current at
 * begin; after an ERROR between begin and end it goes with that one, and the indexes
 * with the abort of the subtransaction.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "index_entries.h"
#include "key_table.h"
#include "stream_wal.h"

#define FIRST_CAPACITY	1024

typedef struct EntriesOfIndex
{
	int			number;			/* in ri_IndexRelationDescs */
	Relation	rel;
	IndexInfo  *info;
	KeyTable	keys;			/* and included columns */
} EntriesOfIndex;

struct IndexEntries
{
	ResultRelInfo *rri;
	MemoryContext context;
	int			nrows;
	int			capacity;
	ItemPointerData *tids;		/* by row */
	int			nindexes;
	EntriesOfIndex indexes[FLEXIBLE_ARRAY_MEMBER];
};

/* ---------------------------------------------------------------- begin */

static bool
qualifies(Relation rel, const IndexInfo *info)
{
	return rel->rd_rel->relam == BTREE_AM_OID && info->ii_ReadyForInserts &&
		info->ii_Expressions == NIL && info->ii_Predicate == NIL &&
		info->ii_ExclusionOps == NULL && rel->rd_index->indimmediate;
}

static void
init_keys(EntriesOfIndex *index)
{
	key_table_init(&index->keys, IndexRelationGetNumberOfKeyAttributes(index->rel),
				   IndexRelationGetNumberOfAttributes(index->rel));
	for (int k = 0; k < index->keys.nkeys; k++)
	{
		SortSupport sort = &index->keys.sort[k];
		int16		options = index->rel->rd_indoption[k];

		sort->ssup_collation = index->rel->rd_indcollation[k];
		sort->ssup_nulls_first = (options & INDOPTION_NULLS_FIRST) != 0;
		sort->ssup_attno = k + 1;
		prepare_index_sort(index->rel, (options & INDOPTION_DESC) != 0, sort);
	}
}

IndexEntries *
index_entries_begin(ResultRelInfo *rri)
{
	IndexEntries *entries;
	MemoryContext context;
	MemoryContext old;

	if (rri->ri_NumIndices == 0)
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "index entries", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	entries = palloc0(offsetof(IndexEntries, indexes) + sizeof(EntriesOfIndex) * rri->ri_NumIndices);
	entries->rri = rri;
	entries->context = context;
	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		EntriesOfIndex *index = &entries->indexes[entries->nindexes];
		Relation	rel = rri->ri_IndexRelationDescs[i];

		if (rel == NULL || !qualifies(rel, rri->ri_IndexRelationInfo[i]))
			continue;
		index->number = i;
		index->rel = rel;
		index->info = rri->ri_IndexRelationInfo[i];
		init_keys(index);
		rri->ri_IndexRelationDescs[i] = NULL;
		entries->nindexes++;
	}
	MemoryContextSwitchTo(old);
	if (entries->nindexes == 0)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	entries->capacity = FIRST_CAPACITY;
	entries->tids = MemoryContextAlloc(context, sizeof(ItemPointerData) * FIRST_CAPACITY);
	return entries;
}

/* ---------------------------------------------------------------- add */

static void
add_to_index(EntriesOfIndex *index, TupleTableSlot *slot)
{
	uint32		row = key_table_next(&index->keys);
	Datum	   *values = key_table_values(&index->keys, row);
	bool	   *nulls = key_table_nulls(&index->keys, row);

	for (int k = 0; k < index->keys.natts; k++)
	{
		AttrNumber	attno = index->info->ii_IndexAttrNumbers[k];
		Form_pg_attribute att = TupleDescAttr(slot->tts_tupleDescriptor, attno - 1);

		values[k] = slot_getattr(slot, attno, &nulls[k]);
		/* the slot's tuple goes away */
		if (!nulls[k] && !att->attbyval)
			values[k] = datumCopy(values[k], false, att->attlen);
	}
	key_table_add(&index->keys);
}

void
index_entries_add(IndexEntries *entries, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(entries->context);

	if (entries->nrows == entries->capacity)
	{
		entries->capacity *= 2;
		entries->tids = repalloc_huge(entries->tids, sizeof(ItemPointerData) * entries->capacity);
	}
	entries->tids[entries->nrows++] = slot->tts_tid;
	for (int i = 0; i < entries->nindexes; i++)
		add_to_index(&entries->indexes[i], slot);
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- end */

static void
insert_sorted(IndexEntries *entries, EntriesOfIndex *index, EState *estate)
{
	KeyTable   *keys = &index->keys;
	IndexUniqueCheck unique = index->rel->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));

	key_table_sort(keys);
	for (int i = 0; i < keys->nrows; i++)
	{
		uint32		row = keys->order[i].row;

		CHECK_FOR_INTERRUPTS();
		(void) index_insert(index->rel, key_table_values(keys, row), key_table_nulls(keys, row),
							&entries->tids[row], entries->rri->ri_RelationDesc, unique, false,
							index->info);
		MemoryContextReset(CurrentMemoryContext);
	}
	MemoryContextSwitchTo(old);
}

void
index_entries_end(IndexEntries *entries, EState *estate)
{
	for (int i = 0; i < entries->nindexes; i++)
	{
		EntriesOfIndex *index = &entries->indexes[i];

		int64		since = stream_wal_now();

		insert_sorted(entries, index, estate);
		stream_wal_of_index(RelationGetRelid(index->rel), since);
		entries->rri->ri_IndexRelationDescs[index->number] = index->rel;
	}
	MemoryContextDelete(entries->context);
}
