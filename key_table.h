/*
 * key_table.h
 *		The keys of many rows, to be put in order.
 *
 * Fill: values and nulls of the row that key_table_next gives (natts of each, the
 * first nkeys of them ordered), then key_table_add.  After key_table_sort the rows
 * stand in order[], equal keys in the order in which they were added.
 */
#ifndef KAPPA_KEY_TABLE_H
#define KAPPA_KEY_TABLE_H

#include "postgres.h"

#include "utils/sortsupport.h"

/* The first column stands in the entry itself: most comparisons need no more. */
typedef struct KeyEntry
{
	Datum		first;
	bool		first_null;
	uint32		row;
} KeyEntry;

typedef struct KeyTable
{
	MemoryContext context;
	int			nkeys;
	int			natts;
	SortSupportData *sort;		/* by key column; the caller's to set up */
	int			nrows;
	int			capacity;
	KeyEntry   *order;
	Datum	   *values;			/* natts a row */
	bool	   *nulls;
} KeyTable;

/* In the current memory context, which all of it lives in. */
extern void key_table_init(KeyTable *table, int nkeys, int natts);

static inline Datum *
key_table_values(const KeyTable *table, uint32 row)
{
	return table->values + (size_t) row * table->natts;
}

static inline bool *
key_table_nulls(const KeyTable *table, uint32 row)
{
	return table->nulls + (size_t) row * table->natts;
}

/* Number of the row to be filled now. */
extern uint32 key_table_next(KeyTable *table);
extern void key_table_add(KeyTable *table);

extern void key_table_sort(KeyTable *table);

/* Of two rows; 0: equal keys. */
extern int	key_table_compare(const KeyTable *table, uint32 a, uint32 b);

#endif
