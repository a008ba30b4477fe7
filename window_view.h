/*
 * window_view.h
 *		A window view as the batches of its subscription see it.
 *
 * Loaded with the subscription's definition and good for as long as its
 * generation stands: whoever makes, drops or rebuilds a view raises that.
 */
#ifndef KAPPA_WINDOW_VIEW_H
#define KAPPA_WINDOW_VIEW_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "core/window.h"
#include "partial.h"
#include "subscription.h"
#include "window_query.h"

/* How values of a key are told apart; the first two are what the type's functions do */
typedef enum KeyKind
{
	KEY_IMAGE,					/* by value, equal where the bits are */
	KEY_BYTES,					/* text of a deterministic collation */
	KEY_OTHER					/* by the type's functions */
} KeyKind;

/* A key column: how it is hashed and compared */
typedef struct ViewKey
{
	KeyKind		kind;
	Oid			type;
	Oid			collation;
	bool		byval;
	int16		len;
	FmgrInfo	hash;			/* extended */
	FmgrInfo	equal;
} ViewKey;

/* An aggregate: its arguments' places in a row of layer r, from 0 */
typedef struct ViewAgg
{
	PartialAgg	agg;
	int		   *args;
	Oid		   *argtypes;
	int			filter;			/* -1: none */
} ViewAgg;

typedef struct WindowView
{
	int32		id;
	int32		subscription;
	char	   *name;			/* qualified and quoted */
	Oid			reading;		/* the view that is read */
	Oid			owner;
	Oid			batch;			/* the view that holds the definition */
	Oid			state;			/* table */
	Oid			target;			/* the subscription's */
	Oid			source_owner;	/* the subscription's owner */
	bool		trim_again;		/* more is beyond the retention than could be deleted at once */
	WindowSpec	spec;
	WindowGrid	grid;			/* WINDOW_TUMBLE, or the panes of WINDOW_HOP */
	WindowHop	hop;
	WindowZone	zone;
	bool		may_miss;		/* WINDOW_HOP with slide > size: some times are in no window */
	int64		gap;			/* WINDOW_SESSION, us */
	int64		span;			/* no window ends later than this behind one of its times, us */
	int64		lateness;		/* us */
	int64		retention;		/* us, 0: keep */
	TimestampTz closed_upto;	/* as stored; DT_NOBEGIN: never closed */
	TimestampTz trimmed_upto;	/* windows that end by then are gone; DT_NOBEGIN: none */
	bool		shared;			/* rows of several workers may wait to be put together */
	int			nkeys;
	ViewKey  *keys;
	int			naggs;
	ViewAgg  *aggs;
	Query	   *input;			/* layer r */
	Index		source;			/* the target's number in its range table */
	WindowQuery *query;			/* as create_window_view had it, without what is only of use there */
	struct WindowFold *fold;	/* groups kept from batch to batch; NULL: none (window_batch.c) */
	MemoryContext context;		/* of all this */
} WindowView;

/* Those of a subscription that are not stopped, in the current memory context. */
extern List *load_window_views(int32 subscription);

/* NULL: there is none. */
extern WindowView *load_window_view(int32 id);
extern void free_window_view(WindowView *view);

/* An error that only this view has: it stands still until it is rebuilt. */
extern void stop_window_view(const WindowView *view, const char *reason);

extern bool window_owner_may(const WindowView *view);

/*
 * Is an error while a view is worked on one that passes by itself?  Else it is the
 * view's own, which stops, and the rows go on.
 */
extern bool window_error_passes(int sqlstate);

/* In a subtransaction; false: an error of the view's own has stopped it.  Others are raised. */
extern bool window_attempt(WindowView *view, void (*work) (WindowView *view, void *arg), void *arg);

/* Qualified and quoted name of a relation as it is now. */
extern char *relation_name(Oid relid);

/* The columns of a state table, by attribute number. */
typedef enum StateColumn
{
	STATE_WINDOW_START = 1,
	STATE_WINDOW_END,
	STATE_FIRST_WINDOW,
	STATE_KEY_HASH,
	STATE_WORKER,
	STATE_KEYS					/* k1 .., then a1 .. */
} StateColumn;

#endif
