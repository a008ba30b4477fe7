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
 * Everything is in the memory context that was current at begin; an ERROR between
 * begin and end leaves it to the abort of the subtransaction, as the indexes are.
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
#include "utils/sortsupport.h"

#include "index_entries.h"

#define FIRST_CAPACITY	1024

/* The first column stands in the entry itself: most comparisons need no more. */
typedef struct IndexEntry
{
	Datum		first;
	bool		first_null;
	uint32		row;
} IndexEntry;

typedef struct EntriesOfIndex
{
	int			number;			/* in ri_IndexRelationDescs */
	Relation	rel;
	IndexInfo  *info;
	int			natts;			/* with included columns */
	int			nkeys;
	SortSupportData *sort;		/* by key column */
	bool		by_number;		/* the first column is compared as int64, ascending */
	IndexEntry *entries;
	Datum	   *values;			/* natts a row */
	bool	   *nulls;
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

/* ---------------------------------------------------------------- order */

/* Types whose B-tree order is that of the Datum as a number. */
static bool
ordered_by_number(const EntriesOfIndex *index)
{
	SortSupport sort = &index->sort[0];

	return !sort->ssup_reverse && !sort->ssup_nulls_first &&
		(sort->comparator == ssup_datum_int32_cmp
#if SIZEOF_DATUM >= 8
		 || sort->comparator == ssup_datum_signed_cmp
#endif
		);
}

static int
compare_rest(const IndexEntry *a, const IndexEntry *b, EntriesOfIndex *index)
{
	const Datum *x = index->values + (size_t) a->row * index->natts;
	const Datum *y = index->values + (size_t) b->row * index->natts;
	const bool *xnull = index->nulls + (size_t) a->row * index->natts;
	const bool *ynull = index->nulls + (size_t) b->row * index->natts;

	for (int k = 1; k < index->nkeys; k++)
	{
		int			order = ApplySortComparator(x[k], xnull[k], y[k], ynull[k], &index->sort[k]);

		if (order != 0)
			return order;
	}
	/* equal keys stand in the order of their rows */
	return a->row < b->row ? -1 : 1;
}

static inline int
compare_entries(const IndexEntry *a, const IndexEntry *b, EntriesOfIndex *index)
{
	int			order;

	if (index->by_number && !a->first_null && !b->first_null)
		order = DatumGetInt64(a->first) < DatumGetInt64(b->first) ? -1 :
			DatumGetInt64(a->first) > DatumGetInt64(b->first);
	else
		order = ApplySortComparator(a->first, a->first_null, b->first, b->first_null,
									&index->sort[0]);
	return order != 0 ? order : compare_rest(a, b, index);
}

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE IndexEntry
#define ST_COMPARE_ARG_TYPE EntriesOfIndex
#define ST_COMPARE(a, b, index) compare_entries(a, b, index)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* ---------------------------------------------------------------- begin */

static bool
qualifies(Relation rel, const IndexInfo *info)
{
	return rel->rd_rel->relam == BTREE_AM_OID && info->ii_ReadyForInserts &&
		info->ii_Expressions == NIL && info->ii_Predicate == NIL &&
		info->ii_ExclusionOps == NULL && rel->rd_index->indimmediate;
}

static void
prepare_sort(EntriesOfIndex *index)
{
	index->sort = palloc0(sizeof(SortSupportData) * index->nkeys);
	for (int k = 0; k < index->nkeys; k++)
	{
		SortSupport sort = &index->sort[k];
		int16		options = index->rel->rd_indoption[k];
		int16		strategy = options & INDOPTION_DESC ? BTGreaterStrategyNumber : BTLessStrategyNumber;

		sort->ssup_cxt = CurrentMemoryContext;
		sort->ssup_collation = index->rel->rd_indcollation[k];
		sort->ssup_nulls_first = (options & INDOPTION_NULLS_FIRST) != 0;
		sort->ssup_attno = k + 1;
		PrepareSortSupportFromIndexRel(index->rel, strategy, sort);
	}
	index->by_number = ordered_by_number(index);
}

IndexEntries *
index_entries_begin(ResultRelInfo *rri)
{
	IndexEntries *entries;

	if (rri->ri_NumIndices == 0)
		return NULL;
	entries = palloc0(offsetof(IndexEntries, indexes) + sizeof(EntriesOfIndex) * rri->ri_NumIndices);
	entries->rri = rri;
	entries->context = CurrentMemoryContext;
	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		EntriesOfIndex *index = &entries->indexes[entries->nindexes];
		Relation	rel = rri->ri_IndexRelationDescs[i];

		if (rel == NULL || !qualifies(rel, rri->ri_IndexRelationInfo[i]))
			continue;
		index->number = i;
		index->rel = rel;
		index->info = rri->ri_IndexRelationInfo[i];
		index->natts = IndexRelationGetNumberOfAttributes(rel);
		index->nkeys = IndexRelationGetNumberOfKeyAttributes(rel);
		prepare_sort(index);
		rri->ri_IndexRelationDescs[i] = NULL;
		entries->nindexes++;
	}
	if (entries->nindexes > 0)
		return entries;
	pfree(entries);
	return NULL;
}

/* ---------------------------------------------------------------- add */

/* Twice the room; the first time, the first room. */
static void *
enlarge(void *old, size_t size, int capacity)
{
	return old ? repalloc_huge(old, size * capacity) :
		MemoryContextAllocHuge(CurrentMemoryContext, size * capacity);
}

static void
make_room(IndexEntries *entries)
{
	int			capacity = entries->capacity ? entries->capacity * 2 : FIRST_CAPACITY;
	MemoryContext old = MemoryContextSwitchTo(entries->context);

	entries->tids = enlarge(entries->tids, sizeof(ItemPointerData), capacity);
	for (int i = 0; i < entries->nindexes; i++)
	{
		EntriesOfIndex *index = &entries->indexes[i];

		index->entries = enlarge(index->entries, sizeof(IndexEntry), capacity);
		index->values = enlarge(index->values, sizeof(Datum) * index->natts, capacity);
		index->nulls = enlarge(index->nulls, sizeof(bool) * index->natts, capacity);
	}
	entries->capacity = capacity;
	MemoryContextSwitchTo(old);
}

static void
add_to_index(EntriesOfIndex *index, TupleTableSlot *slot, int row)
{
	Datum	   *values = index->values + (size_t) row * index->natts;
	bool	   *nulls = index->nulls + (size_t) row * index->natts;
	IndexEntry *entry = &index->entries[row];

	for (int k = 0; k < index->natts; k++)
	{
		AttrNumber	attno = index->info->ii_IndexAttrNumbers[k];
		Form_pg_attribute att = TupleDescAttr(slot->tts_tupleDescriptor, attno - 1);

		values[k] = slot_getattr(slot, attno, &nulls[k]);
		/* the slot's tuple goes away */
		if (!nulls[k] && !att->attbyval)
			values[k] = datumCopy(values[k], false, att->attlen);
	}
	entry->first_null = nulls[0];
	entry->first = values[0];
	/* a number of 32 bits may have anything above them */
	if (index->by_number && index->sort[0].comparator == ssup_datum_int32_cmp)
		entry->first = Int64GetDatum(DatumGetInt32(values[0]));
	entry->row = row;
}

void
index_entries_add(IndexEntries *entries, TupleTableSlot *slot)
{
	MemoryContext old;

	if (entries->nrows == entries->capacity)
		make_room(entries);
	old = MemoryContextSwitchTo(entries->context);
	entries->tids[entries->nrows] = slot->tts_tid;
	for (int i = 0; i < entries->nindexes; i++)
		add_to_index(&entries->indexes[i], slot, entries->nrows);
	entries->nrows++;
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- end */

static void
insert_sorted(IndexEntries *entries, EntriesOfIndex *index, EState *estate)
{
	IndexUniqueCheck unique = index->rel->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
	MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));

	sort_entries(index->entries, entries->nrows, index);
	for (int i = 0; i < entries->nrows; i++)
	{
		uint32		row = index->entries[i].row;

		CHECK_FOR_INTERRUPTS();
		(void) index_insert(index->rel, index->values + (size_t) row * index->natts,
							index->nulls + (size_t) row * index->natts, &entries->tids[row],
							entries->rri->ri_RelationDesc, unique, false, index->info);
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

		insert_sorted(entries, index, estate);
		entries->rri->ri_IndexRelationDescs[index->number] = index->rel;
	}
}
