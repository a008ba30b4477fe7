/*
 * key_table.c
 *		The keys of many rows, to be put in order.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "key_table.h"

#define FIRST_CAPACITY	1024

void
key_table_init(KeyTable *table, int nkeys, int natts)
{
	memset(table, 0, sizeof(KeyTable));
	table->context = CurrentMemoryContext;
	table->nkeys = nkeys;
	table->natts = natts;
	table->sort = palloc0(sizeof(SortSupportData) * Max(nkeys, 1));
	for (int k = 0; k < nkeys; k++)
		table->sort[k].ssup_cxt = CurrentMemoryContext;
}

/* ---------------------------------------------------------------- filling */

static void *
enlarge(const KeyTable *table, void *old, size_t size, int capacity)
{
	return old ? repalloc_huge(old, size * capacity) :
		MemoryContextAllocHuge(table->context, size * capacity);
}

uint32
key_table_next(KeyTable *table)
{
	if (table->nrows == table->capacity)
	{
		table->capacity = table->capacity ? table->capacity * 2 : FIRST_CAPACITY;
		table->order = enlarge(table, table->order, sizeof(KeyEntry), table->capacity);
		table->values = enlarge(table, table->values, sizeof(Datum) * table->natts, table->capacity);
		table->nulls = enlarge(table, table->nulls, sizeof(bool) * table->natts, table->capacity);
	}
	return table->nrows;
}

/* Numbers of 32 bits, which may have anything above them in their Datum */
static inline bool
first_is_int32(const KeyTable *table)
{
	return table->sort[0].comparator == ssup_datum_int32_cmp;
}

void
key_table_add(KeyTable *table)
{
	KeyEntry   *entry = &table->order[table->nrows];

	entry->row = table->nrows;
	entry->first = key_table_values(table, entry->row)[0];
	entry->first_null = key_table_nulls(table, entry->row)[0];
	if (first_is_int32(table))
		entry->first = Int64GetDatum(DatumGetInt32(entry->first));
	table->nrows++;
}

/* ---------------------------------------------------------------- order */

static int
compare_from(const KeyTable *table, uint32 a, uint32 b, int first)
{
	const Datum *x = key_table_values(table, a);
	const Datum *y = key_table_values(table, b);
	const bool *xnull = key_table_nulls(table, a);
	const bool *ynull = key_table_nulls(table, b);

	for (int k = first; k < table->nkeys; k++)
	{
		int			order = ApplySortComparator(x[k], xnull[k], y[k], ynull[k], &table->sort[k]);

		if (order != 0)
			return order;
	}
	return 0;
}

int
key_table_compare(const KeyTable *table, uint32 a, uint32 b)
{
	return compare_from(table, a, b, 0);
}

static inline int
compare_equal_first(const KeyEntry *a, const KeyEntry *b, const KeyTable *table)
{
	int			order = compare_from(table, a->row, b->row, 1);

	return order != 0 ? order : a->row < b->row ? -1 : 1;
}

static inline int
compare_entries(const KeyEntry *a, const KeyEntry *b, const KeyTable *table)
{
	int			order = ApplySortComparator(a->first, a->first_null, b->first, b->first_null,
											&table->sort[0]);

	return order != 0 ? order : compare_equal_first(a, b, table);
}

/* The first column's order is that of its Datum as a number. */
static inline int
compare_numbers(const KeyEntry *a, const KeyEntry *b, const KeyTable *table)
{
	int64		x = DatumGetInt64(a->first);
	int64		y = DatumGetInt64(b->first);

	if (unlikely(a->first_null || b->first_null))
		return compare_entries(a, b, table);
	return x < y ? -1 : x > y ? 1 : compare_equal_first(a, b, table);
}

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE KeyEntry
#define ST_COMPARE_ARG_TYPE const KeyTable
#define ST_COMPARE(a, b, table) compare_entries(a, b, table)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

#define ST_SORT sort_numbers
#define ST_ELEMENT_TYPE KeyEntry
#define ST_COMPARE_ARG_TYPE const KeyTable
#define ST_COMPARE(a, b, table) compare_numbers(a, b, table)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

void
key_table_sort(KeyTable *table)
{
	SortSupport first = &table->sort[0];
	bool		numbers = first_is_int32(table);

#if SIZEOF_DATUM >= 8
	numbers |= first->comparator == ssup_datum_signed_cmp;
#endif
	if (numbers && !first->ssup_reverse && !first->ssup_nulls_first)
		sort_numbers(table->order, table->nrows, table);
	else
		sort_entries(table->order, table->nrows, table);
}
