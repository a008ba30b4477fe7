/*
 * window_fold.h
 *		Rows of a batch into windows and keys.
 */
#ifndef KAPPA_WINDOW_FOLD_H
#define KAPPA_WINDOW_FOLD_H

#include "postgres.h"

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
	AggValue   *values;			/* one an aggregate */
} FoldGroup;

/* A key's values, hashed once */
typedef struct FoldKey
{
	uint64		hash[2];
	Datum	   *values;
	bool	   *nulls;
	int			nsessions;		/* WINDOW_SESSION: its groups, by start, none touching another */
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

typedef struct WindowFold WindowFold;

/* In a memory context of its own below the current one. */
extern WindowFold *window_fold_begin(WindowView *view);
extern void window_fold_end(WindowFold *fold);

/* A row of layer r; the values are copied where they are kept. */
extern void window_fold_row(WindowFold *fold, const FoldOrigin *origin,
							const Datum *values, const bool *nulls);

/* Bytes in use: flush it when that is much. */
extern Size window_fold_size(WindowFold *fold);

/* All groups, in no order; for sessions key by key. */
extern FoldGroup **window_fold_groups(WindowFold *fold, int *n);
extern LateRow *window_fold_late(WindowFold *fold, int *n);
extern AggContext *window_fold_context(WindowFold *fold);

/* The two groups' states put together in the first. */
extern void window_fold_merge(WindowView *view, AggContext *context, FoldGroup *into, const FoldGroup *other);

#endif
