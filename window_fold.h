/*
 * window_fold.h
 *		Rows of a batch into windows and keys.
 */
#ifndef KAPPA_WINDOW_FOLD_H
#define KAPPA_WINDOW_FOLD_H

#include "postgres.h"

#include "storage/itemptr.h"

#include "window_view.h"

/* Where a row comes from, and what it is judged by. */
typedef struct FoldOrigin
{
	int32		part;			/* -1: no message, never late */
	int64		offset;
	TimestampTz verdict;		/* DT_NOBEGIN: nothing is late */
} FoldOrigin;

/* One window (pane, session) and key */
typedef struct FoldGroup
{
	TimestampTz start;
	TimestampTz end;
	TimestampTz first;			/* WINDOW_HOP: the first window that it counts for; DT_NOBEGIN: all */
	struct FoldKey *key;
	bool		dirty;			/* not as stored */
	bool		stored;			/* all that is stored of it is in here, and stands at tid */
	bool		gone;			/* has gone into another session */
	ItemPointerData tid;
	AggValue   *values;			/* one an aggregate */
} FoldGroup;

/* A key's values, hashed once */
typedef struct FoldKey
{
	uint64		hash[2];
	Datum	   *values;
	bool	   *nulls;
	/* WINDOW_SESSION */
	TimestampTz known_from;		/* stored sessions that end here or later are all here; DT_NOEND: none is */
	TimestampTz wanted_from;	/* of those to be looked up */
	int			nsessions;		/* by start, none touching another */
	int			room;
	FoldGroup **sessions;
} FoldKey;

typedef struct LateRow
{
	TimestampTz start;
	TimestampTz end;
	int32		part;
	int64		offset;
	TimestampTz event_time;
	TimestampTz watermark;
} LateRow;

/* Where a row of the state stood that has gone into a group of its key */
typedef struct StateRow
{
	TimestampTz start;
	TimestampTz end;
	FoldKey    *key;
	ItemPointerData tid;
} StateRow;

/*
 * The groups of a view, in a memory context of their own below the caller's.  It may
 * live on from batch to batch: groups that are stored stay, with their states, so the
 * next rows need no look at the table.
 */
typedef struct WindowFold
{
	WindowView *view;
	MemoryContext context;
	Oid			file;			/* of the table that the groups' places are in; 0: not known */
	AggContext *agg;
	struct fold_hash *table;
	/* since the last window_fold_clean */
	int			ndirty;
	FoldGroup **dirty;
	int			nlate;
	LateRow    *late;
	int			nunknown;		/* keys with sessions to be looked up */
	FoldKey   **unknown;
	int			nobsolete;		/* stored rows that went into others */
	ItemPointerData *obsolete;
	int			nread;			/* by window_fold_partial */
	struct StateRow *read;
	struct FoldCursor *cursor;	/* private to window_fold.c */
} WindowFold;

extern WindowFold *window_fold_begin(WindowView *view);
extern void window_fold_end(WindowFold *fold);

#define FOLD_ROWS	32			/* at most, at once */

/* Rows of layer r, of width columns each; the values are copied where they are kept. */
extern void window_fold_rows(WindowFold *fold, const FoldOrigin *origins,
							 const Datum *values, const bool *nulls, int width, int n);

/* A stored session of the key: the group that it is part of now, states not yet added. */
extern FoldGroup *window_fold_stored(WindowFold *fold, FoldKey *key, TimestampTz start, TimestampTz end,
									 ItemPointer tid);

/*
 * A row of the state table, whoever wrote it (by StateColumn): put together with others
 * of its pane or session.  Its place is kept in read.
 */
extern void window_fold_partial(WindowFold *fold, const Datum *values, const bool *nulls, ItemPointer tid);

/* All is stored. */
extern void window_fold_clean(WindowFold *fold);

/* Bytes in use. */
extern Size window_fold_size(WindowFold *fold);

#endif
