/*
 * core/window.h
 *		Which window holds a point in time.
 *
 * Points are 64-bit counts on an axis: microseconds or days since 2000-01-01,
 * as PostgreSQL counts them.  Windows are [start, end).  Nothing allocates,
 * nothing knows the clock; what a time zone does comes in as a callback.
 */
#ifndef KAPPA_CORE_WINDOW_H
#define KAPPA_CORE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define WINDOW_USECS_PER_DAY	INT64_C(86400000000)

typedef enum WindowStatus
{
	WINDOW_OK = 0,
	WINDOW_OUT_OF_RANGE,		/* a bound is no value of the axis */
	WINDOW_NOT_POSITIVE,		/* size, slide or gap is zero or less */
	WINDOW_MIXED_MONTHS,		/* months together with days or time */
	WINDOW_MIXED_DAYS,			/* in a zone: days together with time */
	WINDOW_LONG_TIME,			/* in a zone: 24 hours or more, not as days */
	WINDOW_PART_OF_DAY,			/* axis of days: time in the length */
	WINDOW_MIXED_KINDS,			/* in a zone: size and slide in other units */
	WINDOW_NOT_MULTIPLE,		/* size must be a whole multiple of slide */
	WINDOW_MONTHS_IN_GAP		/* a session's gap cannot hold months */
} WindowStatus;

/* A length of time in PostgreSQL's three parts */
typedef struct WindowLength
{
	int64_t		micros;
	int32_t		days;
	int32_t		months;
} WindowLength;

/* The values of a type: first <= value < limit, day units in a day */
typedef struct WindowAxis
{
	int64_t		first;
	int64_t		limit;
	int64_t		day;
} WindowAxis;

/* PostgreSQL's timestamp and timestamptz; its date */
extern const WindowAxis window_axis_timestamp;
extern const WindowAxis window_axis_date;

/* The clock shows instant + offset from "from" on, until just before "until" */
typedef struct ZoneSpan
{
	int64_t		from;
	int64_t		until;
	int64_t		offset;
} ZoneSpan;

/*
 * A time zone: lookup fills a span that holds the instant.  A span may be
 * shorter than the real one (its neighbour then has the same offset).
 */
typedef struct WindowZone
{
	bool		(*lookup) (void *arg, int64_t instant, ZoneSpan *span);
	void	   *arg;
} WindowZone;

/*
 * Tumbling windows: the axis cut at origin + n * step.  Made by
 * window_grid_init; treat the fields as private.
 */
typedef struct WindowGrid
{
	const WindowAxis *axis;
	const WindowZone *zone;		/* NULL: the axis needs none */
	bool		calendar;		/* step counts months, else units of the axis */
	bool		elastic;		/* in a zone: days or months, as long as they are */
	int64_t		step;
	int64_t		phase;			/* origin mod step, where not calendar */
	int64_t		origin_month;	/* months since 1970-01, where calendar */
	int			origin_day;		/* 1 .. 31 */
	int64_t		origin_time;	/* units since that day's start */
} WindowGrid;

/*
 * origin is a point of the axis where a window begins (an instant, where there
 * is a zone); NULL: 1970-01-01, on the zone's clock where there is one.
 */
extern WindowStatus window_grid_init(WindowGrid *grid, const WindowAxis *axis,
									 const WindowLength *size,
									 const int64_t *origin,
									 const WindowZone *zone);

/* The window that holds the point */
extern WindowStatus window_tumble(const WindowGrid *grid, int64_t point,
								  int64_t *start, int64_t *end);

/* Hopping windows: as long as size, one begins at each bound of a grid of slide */
typedef struct WindowHop
{
	WindowGrid	slide;
	bool		panes;			/* window = npanes windows of the grid in a row */
	int64_t		npanes;
	int64_t		size;			/* where not panes: its length */
} WindowHop;

extern WindowStatus window_hop_init(WindowHop *hop, const WindowAxis *axis,
									const WindowLength *size,
									const WindowLength *slide,
									const int64_t *origin,
									const WindowZone *zone);

/*
 * The grid of panes: each window is a whole number of them.  slide, or where size is no
 * multiple of it, their greatest common divisor.
 */
extern void window_hop_panes(const WindowHop *hop, WindowGrid *panes);

/* Steps through the windows that hold a point, ascending by start */
typedef struct WindowHopScan
{
	int64_t		left;			/* windows still to come */
	int64_t		start;			/* bounds of the next one */
	int64_t		end;
} WindowHopScan;

extern WindowStatus window_hop_begin(const WindowHop *hop, int64_t point,
									 WindowHopScan *scan);

/* Needs scan->left > 0 */
extern WindowStatus window_hop_next(const WindowHop *hop, WindowHopScan *scan,
									int64_t *start, int64_t *end);

/*
 * Sessions: a row at t makes [t, t + gap); windows that intersect or touch are
 * one, so a distance equal to the gap still joins.
 */
extern WindowStatus window_gap(const WindowLength *gap, int64_t *micros);
extern bool window_session_joins(int64_t last, int64_t next, int64_t gap);
extern WindowStatus window_session_end(const WindowAxis *axis, int64_t last,
									   int64_t gap, int64_t *end);

#endif
