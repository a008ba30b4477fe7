/*
 * window_fold.c
 *		Rows of a batch into windows and keys: the first of two stages, all in
 *		memory.  window_state.c then makes the table say the same.
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
 * Groups that have been stored stay for the next batch, with their states and the
 * place of their row; nobody else writes rows of this worker.  What is not here may be
 * in the table: a group that is not "stored" is looked up before it is written.  Of a
 * key's sessions those are known that end at known_from or later, so a stream in
 * order looks each key up once.
 *
 * Invariant: after an ERROR the fold says more than the table; whoever rolls back
 * must end it.  The states of all groups live in its context and go with it.
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
#define FETCHED_LINES	6		/* of 64 bytes: an entry of sessions, its key, its first session */

typedef struct FoldCursor
{
	/* the row in hand, as a group that points to its values */
	FoldKey		row_key;
	FoldGroup	row;
	/* the last window found: rows come in about the order of time */
	TimestampTz last_start;
	TimestampTz last_end;
	/* room of the fold's arrays */
	int			dirty_room;
	int			late_room;
	int			unknown_room;
	int			obsolete_room;
	int			read_room;
} FoldCursor;

/* One more element for an array of the fold. */
#define ADD(fold, array, n, room, element) \
	do { \
		if ((fold)->n == (fold)->cursor->room) \
			(fold)->array = enlarge((fold), (fold)->array, &(fold)->cursor->room, sizeof(*(fold)->array)); \
		(fold)->array[(fold)->n++] = (element); \
	} while (0)

static void *
enlarge(WindowFold *fold, void *array, int *room, Size size)
{
	*room = Max(*room * 2, 64);
	if (array == NULL)
		return MemoryContextAllocHuge(fold->context, *room * size);
	return repalloc_huge(array, *room * size);
}

/* ---------------------------------------------------------------- keys */

/* Spreads the bits of a number over all of them. */
static inline uint64
mix(uint64 x)
{
	x ^= x >> 33;
	x *= UINT64CONST(0xff51afd7ed558ccd);
	x ^= x >> 33;
	x *= UINT64CONST(0xc4ceb9fe1a85ec53);
	return x ^ (x >> 33);
}

/* As stored, most often: only what is compressed or out of line has to be fetched. */
static inline struct varlena *
plain_bytes(Datum value)
{
	struct varlena *bytes = (struct varlena *) DatumGetPointer(value);

	return VARATT_IS_COMPRESSED(bytes) || VARATT_IS_EXTERNAL(bytes) ? PG_DETOAST_DATUM_PACKED(value) : bytes;
}

static inline uint64
value_hash(ViewKey *key, Datum value, uint64 seed)
{
	struct varlena *bytes;

	if (key->kind == KEY_IMAGE)
		return mix((uint64) value ^ seed);
	if (key->kind == KEY_OTHER)
		return DatumGetUInt64(FunctionCall2Coll(&key->hash, key->collation, value, Int64GetDatum((int64) seed)));
	bytes = plain_bytes(value);
	return hash_bytes_extended((unsigned char *) VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), seed);
}

static inline uint64
key_hash(WindowView *view, const Datum *values, const bool *nulls, uint64 seed)
{
	uint64		hash = seed;

	for (int k = 0; k < view->nkeys; k++)
		hash = hash_combine64(hash, nulls[k] ? 0 : value_hash(&view->keys[k], values[k], seed));
	return hash;
}

static inline bool
same_value(ViewKey *key, Datum a, Datum b)
{
	struct varlena *x;
	struct varlena *y;

	if (key->kind == KEY_IMAGE)
		return a == b;
	if (key->kind == KEY_OTHER)
		return DatumGetBool(FunctionCall2Coll(&key->equal, key->collation, a, b));
	x = plain_bytes(a);
	y = plain_bytes(b);
	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

static inline bool
same_keys(WindowView *view, const FoldKey *a, const FoldKey *b)
{
	if (a->hash[0] != b->hash[0])
		return false;
	for (int k = 0; k < view->nkeys; k++)
	{
		if (a->nulls[k] != b->nulls[k])
			return false;
		if (!a->nulls[k] && !same_value(&view->keys[k], a->values[k], b->values[k]))
			return false;
	}
	return true;
}

static bool
fold_same(WindowView *view, const FoldGroup *a, const FoldGroup *b)
{
	return a->start == b->start && a->first == b->first && same_keys(view, a->key, b->key);
}

static inline uint32
group_hash(uint64 key, TimestampTz start, TimestampTz first)
{
	return (uint32) hash_combine64(key, (uint64) (start ^ first) * UINT64CONST(0x9E3779B97F4A7C15));
}

static uint32
fold_hash_group(const FoldGroup *group)
{
	return group_hash(group->key->hash[0], group->start, group->first);
}

/* The row's key, to be kept. */
static FoldKey *
keep_key(WindowFold *fold)
{
	WindowView *view = fold->view;
	FoldKey    *key = palloc0(sizeof(FoldKey) + (sizeof(Datum) + sizeof(bool)) * view->nkeys);

	key->known_from = key->wanted_from = DT_NOEND;
	key->hash[0] = fold->cursor->row_key.hash[0];
	key->hash[1] = key_hash(view, fold->cursor->row_key.values, fold->cursor->row_key.nulls, UINT64CONST(0x9E3779B97F4A7C15));
	key->values = (Datum *) (key + 1);
	key->nulls = (bool *) (key->values + view->nkeys);
	for (int k = 0; k < view->nkeys; k++)
	{
		key->nulls[k] = fold->cursor->row_key.nulls[k];
		key->values[k] = key->nulls[k] ? (Datum) 0 :
			datumCopy(fold->cursor->row_key.values[k], view->keys[k].byval, view->keys[k].len);
	}
	return key;
}

static FoldGroup *
new_group(WindowFold *fold, FoldKey *key)
{
	WindowView *view = fold->view;
	FoldGroup  *group = palloc(sizeof(FoldGroup) + sizeof(AggValue) * view->naggs);

	group->start = fold->cursor->row.start;
	group->end = fold->cursor->row.end;
	group->first = fold->cursor->row.first;
	group->key = key;
	group->dirty = group->stored = group->gone = false;
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

	entry = fold_insert(fold->table, &fold->cursor->row, &found);
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
	LateRow		row = {start, end, origin->part, origin->offset, ts, origin->verdict};

	ADD(fold, late, nlate, late_room, row);
}

/* Has the watermark that this row is judged by passed the end, lateness included? */
static inline bool
is_late(const WindowFold *fold, const FoldOrigin *origin, TimestampTz end)
{
	return origin->verdict != DT_NOBEGIN && end <= origin->verdict - fold->view->lateness;
}

/* ---------------------------------------------------------------- tumbling, hopping */

static inline void
mark_dirty(WindowFold *fold, FoldGroup *group)
{
	if (group->dirty)
		return;
	group->dirty = true;
	ADD(fold, dirty, ndirty, dirty_room, group);
}

static inline void
advance(WindowFold *fold, FoldGroup *group, const Datum *values, const bool *nulls)
{
	WindowView *view = fold->view;

	mark_dirty(fold, group);
	for (int a = 0; a < view->naggs; a++)
	{
		ViewAgg    *agg = &view->aggs[a];
		AggValue   *value = &group->values[a];
		Datum		args[FUNC_MAX_ARGS];
		bool		argnulls[FUNC_MAX_ARGS];

		if (agg->filter >= 0 && (nulls[agg->filter] || !DatumGetBool(values[agg->filter])))
			continue;
		if (agg->agg.counts)
		{
			if (agg->agg.nargs == 0 || !nulls[agg->args[0]])
				value->value = Int64GetDatum(DatumGetInt64(value->value) + 1);
			continue;
		}
		if (agg->agg.nargs == 1)
		{
			agg_value_advance(&agg->agg, value, fold->agg, &values[agg->args[0]], &nulls[agg->args[0]]);
			continue;
		}
		for (int i = 0; i < agg->agg.nargs; i++)
		{
			args[i] = values[agg->args[i]];
			argnulls[i] = nulls[agg->args[i]];
		}
		agg_value_advance(&agg->agg, value, fold->agg, args, argnulls);
	}
}

/* Finds the grid's window; false: the time has none (its bounds are beyond the type). */
static inline bool
find_window(WindowFold *fold, TimestampTz ts)
{
	if (ts < fold->cursor->last_start || ts >= fold->cursor->last_end)
	{
		int64_t		start;
		int64_t		end;

		if (window_tumble(&fold->view->grid, ts, &start, &end) != WINDOW_OK)
			return false;
		fold->cursor->last_start = start;
		fold->cursor->last_end = end;
	}
	fold->cursor->row.start = fold->cursor->last_start;
	fold->cursor->row.end = fold->cursor->last_end;
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
			fold->cursor->row.first = any_late ? start : DT_NOBEGIN;
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
	fold->cursor->row.first = DT_NOBEGIN;
	if (!hop && is_late(fold, origin, fold->cursor->row.end))
	{
		add_late(fold, origin, ts, fold->cursor->row.start, fold->cursor->row.end);
		return;
	}
	if (hop && (fold->view->may_miss || is_late(fold, origin, fold->cursor->row.end)) &&
		!find_first_window(fold, origin, ts))
		return;
	advance(fold, find_group(fold), values, nulls);
}

/* ---------------------------------------------------------------- sessions */

/* The second goes into the first, with its place in the table where that has none. */
static void
merge_sessions(WindowFold *fold, FoldGroup *into, FoldGroup *other)
{
	WindowView *view = fold->view;

	into->start = Min(into->start, other->start);
	into->end = Max(into->end, other->end);
	for (int a = 0; a < view->naggs; a++)
		agg_value_merge(&view->aggs[a].agg, &into->values[a], fold->agg, &other->values[a]);
	if (other->stored && into->stored)
		ADD(fold, obsolete, nobsolete, obsolete_room, other->tid);
	else if (other->stored)
		into->tid = other->tid;
	into->stored |= other->stored;
	other->gone = true;
	mark_dirty(fold, into);
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
		fold->cursor->row.start = start;
		fold->cursor->row.end = end;
		return insert_session(fold, key, at);
	}
	session = key->sessions[at];
	session->start = Min(session->start, start);
	session->end = Max(session->end, end);
	while (at + 1 < key->nsessions && key->sessions[at + 1]->start <= session->end)
	{
		merge_sessions(fold, session, key->sessions[at + 1]);
		key->nsessions--;
		memmove(key->sessions + at + 1, key->sessions + at + 2,
				sizeof(FoldGroup *) * (key->nsessions - at - 1));
	}
	return session;
}

/* Stored sessions that this row may touch and that are not here are looked up later. */
static inline void
want_from(WindowFold *fold, FoldKey *key, TimestampTz ts)
{
	if (ts >= key->known_from)
		return;
	if (key->wanted_from == DT_NOEND)
		ADD(fold, unknown, nunknown, unknown_room, key);
	key->wanted_from = Min(key->wanted_from, ts);
}

FoldGroup *
window_fold_stored(WindowFold *fold, FoldKey *key, TimestampTz start, TimestampTz end, ItemPointer tid)
{
	int			at = first_session(key, start);
	bool		alone = at == key->nsessions || key->sessions[at]->start > end;
	FoldGroup  *session = find_session(fold, key, start, end);

	if (alone)
	{
		session->stored = true;
		session->tid = *tid;
		return session;
	}
	/* as merge_sessions: the group takes the row over */
	if (session->stored)
		ADD(fold, obsolete, nobsolete, obsolete_room, *tid);
	else
		session->tid = *tid;
	session->stored = true;
	mark_dirty(fold, session);
	return session;
}

static void
fold_into_session(WindowFold *fold, const FoldOrigin *origin, const Datum *values, const bool *nulls)
{
	TimestampTz ts = DatumGetTimestampTz(values[0]);
	FoldKey    *key;
	int64_t		end;

	if (window_session_end(&window_axis_timestamp, ts, fold->view->gap, &end) != WINDOW_OK)
		return;
	if (is_late(fold, origin, ts))
	{
		add_late(fold, origin, ts, ts, end);
		return;
	}
	fold->cursor->row.start = fold->cursor->row.end = 0;
	fold->cursor->row.first = DT_NOBEGIN;
	key = find_group(fold)->key;
	want_from(fold, key, ts);
	advance(fold, find_session(fold, key, ts, end), values, nulls);
}

/* ---------------------------------------------------------------- rows of the state */

void
window_fold_partial(WindowFold *fold, const Datum *values, const bool *nulls, ItemPointer tid)
{
	WindowView *view = fold->view;
	TimestampTz start = DatumGetTimestampTz(values[STATE_WINDOW_START - 1]);
	TimestampTz end = DatumGetTimestampTz(values[STATE_WINDOW_END - 1]);
	bool		session = view->spec.kind == WINDOW_SESSION;
	FoldGroup  *group;
	StateRow	row;

	fold->cursor->row_key.values = (Datum *) values + STATE_KEYS - 1;
	fold->cursor->row_key.nulls = (bool *) nulls + STATE_KEYS - 1;
	fold->cursor->row_key.hash[0] = key_hash(view, values + STATE_KEYS - 1, nulls + STATE_KEYS - 1, 0);
	fold->cursor->row.start = session ? 0 : start;
	fold->cursor->row.end = session ? 0 : end;
	fold->cursor->row.first = session ? DT_NOBEGIN : DatumGetTimestampTz(values[STATE_FIRST_WINDOW - 1]);
	group = find_group(fold);
	if (session)
		group = find_session(fold, group->key, start, end);
	for (int a = 0; a < view->naggs; a++)
		agg_value_combine(&view->aggs[a].agg, &group->values[a], fold->agg,
						  values[STATE_KEYS - 1 + view->nkeys + a], nulls[STATE_KEYS - 1 + view->nkeys + a]);
	mark_dirty(fold, group);
	row.end = end;
	row.start = start;
	row.key = group->key;
	row.tid = *tid;
	ADD(fold, read, nread, read_room, row);
}

/* ---------------------------------------------------------------- the fold */

WindowFold *
window_fold_begin(WindowView *view)
{
	/* groups and keys go all at once; only states are freed one by one */
	MemoryContext context = GenerationContextCreate(CurrentMemoryContext, "window fold", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	WindowFold *fold = palloc0(sizeof(WindowFold));

	fold->view = view;
	fold->context = context;
	fold->agg = agg_context_create(AllocSetContextCreate(context, "window states", ALLOCSET_DEFAULT_SIZES));
	fold->table = fold_create(context, FIRST_GROUPS, view);
	fold->cursor = palloc0(sizeof(FoldCursor));
	fold->cursor->row.key = &fold->cursor->row_key;
	fold->cursor->last_start = fold->cursor->last_end = DT_NOBEGIN;
	MemoryContextSwitchTo(old);
	return fold;
}

void
window_fold_end(WindowFold *fold)
{
	MemoryContextDelete(fold->context);
}

static void
fold_row(WindowFold *fold, const FoldOrigin *origin, uint64 hash, const Datum *values, const bool *nulls)
{
	/* a row without a time, or of one that no calendar needs, is in no window */
	if (nulls[0] || DatumGetTimestampTz(values[0]) < WINDOW_FIRST_TIME || DatumGetTimestampTz(values[0]) >= WINDOW_TIMES_END)
		return;
	fold->cursor->row_key.values = (Datum *) values + 1;
	fold->cursor->row_key.nulls = (bool *) nulls + 1;
	fold->cursor->row_key.hash[0] = hash;
	if (fold->view->spec.kind == WINDOW_SESSION)
		fold_into_session(fold, origin, values, nulls);
	else
		fold_into_pane(fold, origin, values, nulls);
}

/*
 * Groups are many, and each row is another's: the memory that the rows will touch is
 * asked for before the first of them is folded.  A key and its first session are
 * neighbours, since they are made one after the other.  Always inline: gcc takes a
 * function that only prefetches for one without effect, and leaves the call out.
 */
static pg_attribute_always_inline void
fetch_ahead(WindowFold *fold, const uint64 *hashes, const Datum *values, const bool *nulls, int width, int n)
{
	bool		session = fold->view->spec.kind == WINDOW_SESSION;
	int			lines = session ? FETCHED_LINES : FETCHED_LINES / 2;
	FoldEntry  *entries[FOLD_ROWS];

	for (int i = 0; i < n; i++)
	{
		TimestampTz start = 0;

		if (!session && !nulls[i * width] && find_window(fold, DatumGetTimestampTz(values[i * width])))
			start = fold->cursor->row.start;
		entries[i] = &fold->table->data[group_hash(hashes[i], start, DT_NOBEGIN) & fold->table->sizemask];
		__builtin_prefetch(entries[i]);
	}
	for (int i = 0; i < n; i++)
		for (int line = 0; line < lines; line++)
			__builtin_prefetch((char *) entries[i]->group + line * PG_CACHE_LINE_SIZE / 2);
}

void
window_fold_rows(WindowFold *fold, const FoldOrigin *origins, const Datum *values, const bool *nulls, int width, int n)
{
	uint64		hashes[FOLD_ROWS];

	Assert(n <= FOLD_ROWS);
	for (int i = 0; i < n; i++)
		hashes[i] = key_hash(fold->view, values + i * width + 1, nulls + i * width + 1, 0);
	if (n > 1)
		fetch_ahead(fold, hashes, values, nulls, width, n);
	for (int i = 0; i < n; i++)
		fold_row(fold, &origins[i], hashes[i], values + i * width, nulls + i * width);
}

Size
window_fold_size(WindowFold *fold)
{
	return MemoryContextMemAllocated(fold->context, true);
}

void
window_fold_clean(WindowFold *fold)
{
	for (int i = 0; i < fold->ndirty; i++)
		fold->dirty[i]->dirty = false;
	for (int i = 0; i < fold->nunknown; i++)
	{
		FoldKey    *key = fold->unknown[i];

		key->known_from = Min(key->known_from, key->wanted_from);
		key->wanted_from = DT_NOEND;
	}
	fold->ndirty = fold->nlate = fold->nunknown = fold->nobsolete = 0;
}
