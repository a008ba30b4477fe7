/*
 * index_entries.h
 *		Index entries of many rows, inserted in the order of each index.
 *
 * Between index_entries_begin and index_entries_end the B-trees that qualify belong
 * to the entries: ExecInsertIndexTuples sees only the others.
 */
#ifndef KAPPA_INDEX_ENTRIES_H
#define KAPPA_INDEX_ENTRIES_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "nodes/execnodes.h"

typedef struct IndexEntries IndexEntries;

/* Of a relation whose indexes are open; NULL where none of them qualifies. */
extern IndexEntries *index_entries_begin(ResultRelInfo *rri);

/* Keep the entries of a row that has been stored (slot->tts_tid is its place). */
extern void index_entries_add(IndexEntries *entries, TupleTableSlot *slot);

/*
 * Insert what has been kept, and give the indexes back.  23505 where a unique one
 * has such a key already.
 */
extern void index_entries_end(IndexEntries *entries, EState *estate);

#endif
