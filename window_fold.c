/*
 * window_fold.c
 *		Rows of a batch into windows and keys: the first of two stages, all in
 *		memory.  window_state.c adds the result to what is stored.
 *
 * A row has come through the view's FROM and WHERE; here it meets its window and
 * its verdict.  A tumbling window is late as a whole; a row of a hopping view may be
 * late for the first of its windows only, then its pane counts from the first one
 * that is open; a session's row is late by its own time.  Late rows are listed and
 * not counted.
 *
 * Groups are found by a hash of window and key.  A session view has one entry a
 * key instead, without a window, which leads to the key's sessions in order: a row
 * extends one, joins two or begins another.
 *
 * The states of all groups live in the fold's context and go with it.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "window_fold.h"

typedef struct FoldEntry
{
	FoldGroup  *group;
	uint32		hash;
	char		status;
} FoldEntry;

static bool fold_same(WindowView *view, const FoldGroup *a, const FoldGroup *b);
static uint32 fold_hash_group(const FoldGroup *group);

#define SH_PREFIX fold
#define SH_ELEMENT_TYPE FoldEntry
#define SH_KEY_TYPE FoldGroup *
#define SH_KEY group
#define SH_HASH_KEY(tb, key) fold_hash_group(key)
#define SH_EQUAL(tb, a, b) fold_same(tb->private_data, a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) a->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define FIRST_GROUPS	256

struct WindowFold
{
	WindowView *view;
	MemoryContext context;
	AggContext *agg;
	fold_hash  *table;
	/* the row in hand, as a group that points to its values */
	FoldKey		row_key;
	FoldGroup	row;
	/* the last window found: rows come in about the order of time */
	TimestampTz last_start;
	TimestampTz last_end;
	int			nlate;
	int			late_room;
	LateRow    *late;
};

/* ---------------------------------------------------------------- keys */

static uint64
key_hash(WindowView *view, const Datum *values, const bool *nulls, uint64 seed)
{
	uint64		hash = seed;

	for (int k = 0; k < view->nkeys; k++)
	{
		uint64		one = 0;

		if (!nulls[k])
			one = DatumGetUInt64(FunctionCall2Coll(&view->keys[k].hash, view->keys[k].collation,
												   values[k], Int64GetDatum((int64) seed)));
		hash = hash_combine64(hash, one);
	}
	return hash;
}

static bool
same_keys(WindowView *view, const FoldKey *a, const FoldKey *b)
{
	if (a->hash[0] != b->hash[0])
		return false;
	for (int k = 0; k < view->nkeys; k++)
	{
		if (a->nulls[k] != b->nulls[k])
			return false;
		if (a->nulls[k] || (view->keys[k].byval && a->values[k] == b->values[k]))
			continue;
		if (!DatumGetBool(FunctionCall2Coll(&view->keys[k].equal, view->keys[k].collation,
											a->values[k], b->values[k])))
			return false;
	}
	return true;
}

static bool
fold_same(WindowView *view, const FoldGroup *a, const FoldGroup *b)
{
	return a->start == b->start && a->first == b->first && same_keys(view, a->key, b->key);
}

static uint32
fold_hash_group(const FoldGroup *group)
{
	return (uint32) hash_combine64(group->key->hash[0], (uint64) (group->start ^ group->first) * UINT64CONST(0x9E3779B97F4A7C15));
}

/* The row's key, to be kept. */
static FoldKey *
keep_key(WindowFold *fold)
{
	WindowView *view = fold->view;
	FoldKey    *key = palloc0(sizeof(FoldKey));

	key->hash[0] = fold->row_key.hash[0];
	key->hash[1] = key_hash(view, fold->row_key.values, fold->row_key.nulls, UINT64CONST(0x9E3779B97F4A7C15));
	key->values = palloc(sizeof(Datum) * Max(view->nkeys, 1));
	key->nulls = palloc(sizeof(bool) * Max(view->nkeys, 1));
	for (int k = 0; k < view->nkeys; k++)
	{
		key->nulls[k] = fold->row_key.nulls[k];
		key->values[k] = key->nulls[k] ? (Datum) 0 :
			datumCopy(fold->row_key.values[k], view->keys[k].byval, view->keys[k].len);
	}
	return key;
}

static FoldGroup *
new_group(WindowFold *fold, FoldKey *key)
{
	WindowView *view = fold->view;
	FoldGroup  *group = palloc(sizeof(FoldGroup) + sizeof(AggValue) * view->naggs);

	group->start = fold->row.start;
	group->end = fold->row.end;
	group->first = fold->row.first;
	group->key = key;
	group->values = (AggValue *) (group + 1);
	for (int a = 0; a < view->naggs; a++)
		agg_value_start(&view->aggs[a].agg, &group->values[a], fold->agg);
	return group;
}

/* The group of the row's window and key. */
static FoldGroup *
find_group(WindowFold *fold)
{
	FoldEntry  *entry;
	bool		found;

	entry = fold_insert(fold->table, &fold->row, &found);
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(fold->context);

		entry->group = new_group(fold, keep_key(fold));
		MemoryContextSwitchTo(old);
	}
	return entry->group;
}

/* ---------------------------------------------------------------- late rows */

static void
add_late(WindowFold *fold, const FoldOrigin *origin, TimestampTz ts, TimestampTz start, TimestampTz end)
{
	if (fold->nlate == fold->late_room)
	{
		fold->late_room = Max(fold->late_room * 2, 64);
		fold->late = fold->late ? repalloc_huge(fold->late, sizeof(LateRow) * fold->late_room) :
			MemoryContextAlloc(fold->context, sizeof(LateRow) * fold->late_room);
	}
	fold->late[fold->nlate++] = (LateRow)
	{
		start, end, origin->part, origin->offset, ts, origin->verdict
	};
}

/* Has the watermark that this row is judged by passed the end, lateness included? */
static inline bool
is_late(const WindowFold *fold, const FoldOrigin *origin, TimestampTz end)
{
	return origin->verdict != DT_NOBEGIN && end <= origin->verdict - fold->view->lateness;
}

/* ---------------------------------------------------------------- tumbling, hopping */

static inline void
advance(WindowFold *fold, FoldGroup *group, const Datum *values, const bool *nulls)
{
	WindowView *view = fold->view;

	for (int a = 0; a < view->naggs; a++)
	{
		ViewAgg  *agg = &view->aggs[a];
		Datum		args[FUNC_MAX_ARGS];
		bool		argnulls[FUNC_MAX_ARGS];

		if (agg->filter >= 0 && (nulls[agg->filter] || !DatumGetBool(values[agg->filter])))
			continue;
		for (int i = 0; i < agg->agg.nargs; i++)
		{
			args[i] = values[agg->args[i]];
			argnulls[i] = nulls[agg->args[i]];
		}
		agg_value_advance(&agg->agg, &group->values[a], fold->agg, args, argnulls);
	}
}

/* Finds the grid's window; false: the time has none (its bounds are beyond the type). */
static inline bool
find_window(WindowFold *fold, TimestampTz ts)
{
	if (ts < fold->last_start || ts >= fold->last_end)
	{
		int64_t		start;
		int64_t		end;

		if (window_tumble(&fold->view->grid, ts, &start, &end) != WINDOW_OK)
			return false;
		fold->last_start = start;
		fold->last_end = end;
	}
	fold->row.start = fold->last_start;
	fold->row.end = fold->last_end;
	return true;
}

/*
 * The first of the row's windows that is not late, the late ones listed before it;
 * false: all are late, or the time is in no window.
 */
static bool
find_first_window(WindowFold *fold, const FoldOrigin *origin, TimestampTz ts)
{
	WindowHopScan scan;
	bool		any_late = false;

	if (window_hop_begin(&fold->view->hop, ts, &scan) != WINDOW_OK || scan.left == 0)
		return false;
	while (scan.left > 0)
	{
		int64_t		start;
		int64_t		end;

		if (window_hop_next(&fold->view->hop, &scan, &start, &end) != WINDOW_OK)
			return false;
		if (!is_late(fold, origin, end))
		{
			fold->row.first = any_late ? start : DT_NOBEGIN;
			return true;
		}
		any_late = true;
		add_late(fold, origin, ts, start, end);
	}
	return false;
}

static void
fold_into_pane(WindowFold *fold, const FoldOrigin *origin, const Datum *values, const bool *nulls)
{
	TimestampTz ts = DatumGetTimestampTz(values[0]);
	bool		hop = fold->view->spec.kind == WINDOW_HOP;

	if (!find_window(fold, ts))
		return;
	fold->row.first = DT_NOBEGIN;
	if (!hop && is_late(fold, origin, fold->row.end))
	{
		add_late(fold, origin, ts, fold->row.start, fold->row.end);
		return;
	}
	if (hop && (fold->view->may_miss || is_late(fold, origin, fold->row.end)) &&
		!find_first_window(fold, origin, ts))
		return;
	advance(fold, find_group(fold), values, nulls);
}

/* ---------------------------------------------------------------- sessions */

void
window_fold_merge(WindowView *view, AggContext *context, FoldGroup *into, const FoldGroup *other)
{
	into->start = Min(into->start, other->start);
	into->end = Max(into->end, other->end);
	for (int a = 0; a < view->naggs; a++)
		agg_value_merge(&view->aggs[a].agg, &into->values[a], context, &other->values[a]);
}

/* Number of the first session that ends at the time or later. */
static int
first_session(const FoldKey *key, TimestampTz ts)
{
	int			low = 0;
	int			high = key->nsessions;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (key->sessions[middle]->end < ts)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static FoldGroup *
insert_session(WindowFold *fold, FoldKey *key, int at)
{
	MemoryContext old = MemoryContextSwitchTo(fold->context);

	if (key->nsessions == key->room)
	{
		key->room = Max(key->room * 2, 2);
		key->sessions = key->sessions ? repalloc(key->sessions, sizeof(FoldGroup *) * key->room) :
			palloc(sizeof(FoldGroup *) * key->room);
	}
	memmove(key->sessions + at + 1, key->sessions + at, sizeof(FoldGroup *) * (key->nsessions - at));
	key->sessions[at] = new_group(fold, key);
	key->nsessions++;
	MemoryContextSwitchTo(old);
	return key->sessions[at];
}

/* The session that [start, end) of the row belongs to; those that it bridges become one. */
static FoldGroup *
find_session(WindowFold *fold, FoldKey *key, TimestampTz start, TimestampTz end)
{
	int			at = first_session(key, start);
	FoldGroup  *session;

	if (at == key->nsessions || key->sessions[at]->start > end)
	{
		fold->row.start = start;
		fold->row.end = end;
		return insert_session(fold, key, at);
	}
	session = key->sessions[at];
	session->start = Min(session->start, start);
	session->end = Max(session->end, end);
	while (at + 1 < key->nsessions && key->sessions[at + 1]->start <= session->end)
	{
		window_fold_merge(fold->view, fold->agg, session, key->sessions[at + 1]);
		key->nsessions--;
		memmove(key->sessions + at + 1, key->sessions + at + 2,
				sizeof(FoldGroup *) * (key->nsessions - at - 1));
	}
	return session;
}

static void
fold_into_session(WindowFold *fold, const FoldOrigin *origin, const Datum *values, const bool *nulls)
{
	TimestampTz ts = DatumGetTimestampTz(values[0]);
	int64_t		end;

	if (window_session_end(&window_axis_timestamp, ts, fold->view->gap, &end) != WINDOW_OK)
		return;
	if (is_late(fold, origin, ts))
	{
		add_late(fold, origin, ts, ts, end);
		return;
	}
	fold->row.start = fold->row.end = 0;
	fold->row.first = DT_NOBEGIN;
	advance(fold, find_session(fold, find_group(fold)->key, ts, end), values, nulls);
}

/* ---------------------------------------------------------------- the fold */

WindowFold *
window_fold_begin(WindowView *view)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "window fold", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	WindowFold *fold = palloc0(sizeof(WindowFold));

	fold->view = view;
	fold->context = context;
	fold->agg = agg_context_create(context);
	fold->table = fold_create(context, FIRST_GROUPS, view);
	fold->row.key = &fold->row_key;
	fold->last_start = fold->last_end = DT_NOBEGIN;
	MemoryContextSwitchTo(old);
	return fold;
}

void
window_fold_end(WindowFold *fold)
{
	MemoryContextDelete(fold->context);
}

void
window_fold_row(WindowFold *fold, const FoldOrigin *origin, const Datum *values, const bool *nulls)
{
	WindowView *view = fold->view;

	/* a row without a time, or with an infinite one, is in no window */
	if (nulls[0] || TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(values[0])))
		return;
	fold->row_key.values = (Datum *) values + 1;
	fold->row_key.nulls = (bool *) nulls + 1;
	fold->row_key.hash[0] = key_hash(view, values + 1, nulls + 1, 0);
	if (view->spec.kind == WINDOW_SESSION)
		fold_into_session(fold, origin, values, nulls);
	else
		fold_into_pane(fold, origin, values, nulls);
}

Size
window_fold_size(WindowFold *fold)
{
	return MemoryContextMemAllocated(fold->context, true);
}

FoldGroup **
window_fold_groups(WindowFold *fold, int *n)
{
	bool		sessions = fold->view->spec.kind == WINDOW_SESSION;
	FoldGroup **groups;
	fold_iterator iterator;
	FoldEntry  *entry;
	int			room = 0;

	fold_start_iterate(fold->table, &iterator);
	while ((entry = fold_iterate(fold->table, &iterator)) != NULL)
		room += sessions ? entry->group->key->nsessions : 1;
	groups = MemoryContextAllocHuge(fold->context, sizeof(FoldGroup *) * Max(room, 1));
	*n = 0;
	fold_start_iterate(fold->table, &iterator);
	while ((entry = fold_iterate(fold->table, &iterator)) != NULL)
	{
		if (!sessions)
			groups[(*n)++] = entry->group;
		for (int i = 0; sessions && i < entry->group->key->nsessions; i++)
			groups[(*n)++] = entry->group->key->sessions[i];
	}
	return groups;
}

LateRow *
window_fold_late(WindowFold *fold, int *n)
{
	*n = fold->nlate;
	return fold->late;
}

AggContext *
window_fold_context(WindowFold *fold)
{
	return fold->agg;
}
