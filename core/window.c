/*
 * core/window.c
 *		Which window holds a point in time.
 *
 * A grid of tumbling windows is a strictly ascending list of bounds; a point's
 * window lies between the last bound <= the point and the first bound after
 * it.  So windows neither overlap nor leave gaps, whatever the grid.
 *
 * Without a zone the bounds are origin + n * step, or, for months, the origin's
 * day of month n * step months on (the month's last day where it is shorter).
 *
 * With a zone the bounds are drawn on the zone's clock (instant + offset), and
 * the question is what a change of the offset by d does:
 *
 * - Days and months (elastic): a bound stands at the first instant at which the
 *   clock has reached it.  So a local day begins when its date first appears,
 *   has 23 or 25 hours where it has, and a date that the zone leaves out has no
 *   window.  "First instant" is ascending in the bound, hence the bounds are.
 *
 * - Time below a day:
 *   (a) d is a whole number of windows (one hour, 15 minutes for d = 1 hour):
 *       the grid goes on as if nothing had happened; all windows are equally
 *       long and an hour that the clock shows twice is two windows.
 *   (b) the window is longer than d (6 hours for d = 1 hour): the window in
 *       which the change falls is longer or shorter by d, as a day would be.
 *   (c) the window is shorter, but does not divide d (7 minutes): the window
 *       ends at the change, and the grid starts anew on the clock's new time.
 *
 * All additions that can leave int64 are checked; divisions round towards
 * minus infinity.  Zone offsets stay within a week (POSIX allows 167 hours), so
 * instant + offset cannot overflow for any value of the timestamp axis.
 */
#include "core/window.h"

#include <stddef.h>

#define HOUR			INT64_C(3600000000)

/* No offset, and no clock, is further from UTC than this */
#define MAX_OFFSET		(8 * WINDOW_USECS_PER_DAY)

/* How far back a change of offset can matter to windows below a day */
#define LOOK_BACK		(4 * WINDOW_USECS_PER_DAY)

/* 1970-01-01 seen from 2000-01-01, in days */
#define UNIX_EPOCH		INT64_C(-10957)

const WindowAxis window_axis_timestamp = {
	INT64_C(-211813488000000000), INT64_C(9223371331200000000), WINDOW_USECS_PER_DAY
};

const WindowAxis window_axis_date = {
	INT64_C(-2451545), INT64_C(2147483494) - INT64_C(2451545), 1
};

static inline bool
add64(int64_t a, int64_t b, int64_t *sum)
{
	return !__builtin_add_overflow(a, b, sum);
}

static inline bool
sub64(int64_t a, int64_t b, int64_t *difference)
{
	return !__builtin_sub_overflow(a, b, difference);
}

static inline bool
mul64(int64_t a, int64_t b, int64_t *product)
{
	return !__builtin_mul_overflow(a, b, product);
}

static inline int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

static inline int64_t
floor_mod(int64_t a, int64_t b)
{
	int64_t		rest = a % b;

	return rest < 0 ? rest + b : rest;
}

static inline bool
on_axis(const WindowAxis *axis, int64_t point)
{
	return point >= axis->first && point < axis->limit;
}

/*
 * The Gregorian calendar, carried on backwards.  Years are counted from March,
 * so that the leap day is a year's last one: day n of such a year is in its
 * month (5n + 2) / 153, and month m begins at day (153m + 2) / 5.
 */
static int64_t
days_of_march_years(int64_t year)
{
	return 365 * year + floor_div(year, 4) - floor_div(year, 100) + floor_div(year, 400);
}

/* Days since 2000-01-01 of a month's first day; month 0 is 1970-01 */
static int64_t
month_start(int64_t month)
{
	int64_t		from_march = month - 2;
	int64_t		year = 1970 + floor_div(from_march, 12);
	int64_t		days = days_of_march_years(year) + (153 * floor_mod(from_march, 12) + 2) / 5;

	return days - days_of_march_years(2000) + 60;
}

static int64_t
month_of_day(int64_t day)
{
	int64_t		days = day - 60 + days_of_march_years(2000);
	int64_t		year = floor_div(days * 400, 146097);
	int64_t		of_year;

	/* Leap years lag behind the mean by up to a day and a half, never lead by one */
	if (days >= days_of_march_years(year + 1))
		year++;
	of_year = days - days_of_march_years(year);
	return (year - 1970) * 12 + (5 * of_year + 2) / 153 + 2;
}

/* Bound n of a calendar grid */
static bool
calendar_bound(const WindowGrid *grid, int64_t n, int64_t *bound)
{
	int64_t		month;
	int64_t		first;
	int64_t		length;

	if (!mul64(n, grid->step, &month) || !add64(month, grid->origin_month, &month))
		return false;

	/* Far outside any axis; keeps the arithmetic on days small */
	if (month < -INT64_C(1000000000) || month > INT64_C(1000000000))
		return false;

	first = month_start(month);
	length = month_start(month + 1) - first;
	first += (grid->origin_day < length ? grid->origin_day : length) - 1;
	return mul64(first, grid->axis->day, bound) && add64(*bound, grid->origin_time, bound);
}

static bool
calendar_cell(const WindowGrid *grid, int64_t point, int64_t *start, int64_t *end)
{
	int64_t		month = month_of_day(floor_div(point, grid->axis->day));
	int64_t		n = floor_div(month - grid->origin_month, grid->step);

	if (!calendar_bound(grid, n, start))
		return false;
	if (*start > point)
	{
		/* the month is right, but the origin's day is yet to come */
		*end = *start;
		return calendar_bound(grid, n - 1, start);
	}
	return calendar_bound(grid, n + 1, end);
}

/* The cell of the grid around a point, as if there were no zone */
static inline bool
plain_cell(const WindowGrid *grid, int64_t point, int64_t *start, int64_t *end)
{
	int64_t		into;

	if (grid->calendar)
		return calendar_cell(grid, point, start, end);

	into = floor_mod(point, grid->step) - grid->phase;
	if (into < 0)
		into += grid->step;
	return sub64(point, into, start) && add64(*start, grid->step, end);
}

/*
 * The same on a zone's clock.  Bounds that no offset could bring back to the
 * axis are refused here, so that the offset can be taken off unchecked.
 */
static inline bool
local_cell(const WindowGrid *grid, int64_t local, int64_t *start, int64_t *end)
{
	return plain_cell(grid, local, start, end) &&
		*start >= grid->axis->first - MAX_OFFSET &&
		*end <= grid->axis->limit + MAX_OFFSET;
}

/* The first instant at which the zone's clock shows local or later */
static bool
clock_reaches(const WindowZone *zone, int64_t local, int64_t *instant)
{
	ZoneSpan	span;
	int64_t		at;

	if (!sub64(local, MAX_OFFSET, &at))
		return false;
	for (;;)
	{
		if (!zone->lookup(zone->arg, at, &span))
			return false;
		*instant = local - span.offset;
		if (*instant < span.until)
			break;
		at = span.until;
	}
	if (*instant < span.from)
		*instant = span.from;
	return true;
}

/* Days and months in a zone: bounds where the clock first reaches them */
static bool
elastic_cell(const WindowGrid *grid, int64_t instant, int64_t local,
			 int64_t *start, int64_t *end)
{
	int64_t		lower;
	int64_t		upper;

	if (!local_cell(grid, local, &lower, &upper) ||
		!clock_reaches(grid->zone, lower, start) ||
		!clock_reaches(grid->zone, upper, end))
		return false;

	/*
	 * A clock that was put back over a bound shows the old cell again, which is
	 * over: the instant belongs to a later one.
	 */
	while (instant >= *end)
	{
		*start = *end;
		lower = upper;
		if (!local_cell(grid, lower, &lower, &upper) ||
			!clock_reaches(grid->zone, upper, end))
			return false;
	}
	return true;
}

/*
 * Time below a day in a zone: follow the clock from some days before the
 * instant, span by span.  "cell" is where the window that is open began on the
 * clock, *start when it began.
 */
static bool
clock_cell(const WindowGrid *grid, int64_t instant, int64_t *start, int64_t *end)
{
	ZoneSpan	span;
	int64_t		offset;
	int64_t		change;
	int64_t		cell;
	int64_t		unused;
	int64_t		last;

	if (!grid->zone->lookup(grid->zone->arg, instant - LOOK_BACK, &span))
		return false;
	offset = span.offset;
	if (!local_cell(grid, instant - LOOK_BACK + offset, &cell, &unused))
		return false;
	*start = cell - offset;

	for (;;)
	{
		*end = cell + grid->step - offset;
		if (*end < span.until)
		{
			if (instant < *end)
				return true;
			/* on to the last bound in this span that is not after the instant */
			last = instant < span.until ? instant : span.until - 1;
			if (!local_cell(grid, last + offset, &cell, &unused))
				return false;
			*start = cell - offset;
			continue;
		}

		/* the window is open when the span ends */
		last = span.until;
		change = -span.offset;
		if (!grid->zone->lookup(grid->zone->arg, last, &span))
			return false;
		change += span.offset;
		if (change % grid->step == 0)
			continue;			/* (a); also where nothing changed */

		offset += change;
		if ((change < 0 ? -change : change) < grid->step &&
			last + offset < cell + grid->step)
			continue;			/* (b); it did not pass the next bound */

		if (instant < last)
		{
			*end = last;
			return true;
		}
		*start = last;
		if (!local_cell(grid, last + offset, &cell, &unused))
			return false;
	}
}

static bool
zone_cell(const WindowGrid *grid, int64_t instant, int64_t *start, int64_t *end)
{
	ZoneSpan	span;
	int64_t		margin = grid->elastic ? 2 * MAX_OFFSET : LOOK_BACK;
	int64_t		settled;

	if (!grid->zone->lookup(grid->zone->arg, instant, &span) ||
		!local_cell(grid, instant + span.offset, start, end))
		return false;
	*start -= span.offset;
	*end -= span.offset;

	/* Nearly always: no change of the offset is anywhere near */
	if (add64(span.from, margin, &settled) && *start >= settled && *end < span.until)
		return true;
	if (grid->elastic)
		return elastic_cell(grid, instant, instant + span.offset, start, end);
	return clock_cell(grid, instant, start, end);
}

WindowStatus
window_tumble(const WindowGrid *grid, int64_t point, int64_t *start, int64_t *end)
{
	bool		done;

	if (!on_axis(grid->axis, point))
		return WINDOW_OUT_OF_RANGE;
	if (grid->zone)
		done = zone_cell(grid, point, start, end);
	else
		done = plain_cell(grid, point, start, end);
	if (!done || *start < grid->axis->first || *end >= grid->axis->limit)
		return WINDOW_OUT_OF_RANGE;
	return WINDOW_OK;
}

/* A length without months, in units of the axis */
static bool
length_units(const WindowAxis *axis, const WindowLength *length, int64_t *units)
{
	return mul64(length->days, axis->day, units) && add64(*units, length->micros, units);
}

static WindowStatus
check_length(const WindowAxis *axis, const WindowLength *length, bool zoned)
{
	int64_t		units;

	if (length->months != 0)
	{
		if (length->days != 0 || length->micros != 0)
			return WINDOW_MIXED_MONTHS;
		return length->months > 0 ? WINDOW_OK : WINDOW_NOT_POSITIVE;
	}
	if (axis->day == 1 && length->micros != 0)
		return WINDOW_PART_OF_DAY;
	if (zoned && length->days != 0 && length->micros != 0)
		return WINDOW_MIXED_DAYS;
	if (!length_units(axis, length, &units))
		return WINDOW_OUT_OF_RANGE;
	return units > 0 ? WINDOW_OK : WINDOW_NOT_POSITIVE;
}

WindowStatus
window_grid_init(WindowGrid *grid, const WindowAxis *axis, const WindowLength *size,
				 const int64_t *origin, const WindowZone *zone)
{
	WindowStatus status = check_length(axis, size, zone != NULL);
	ZoneSpan	span;
	int64_t		local = origin ? *origin : UNIX_EPOCH * axis->day;
	int64_t		day;

	if (status != WINDOW_OK)
		return status;
	if (!on_axis(axis, local))
		return WINDOW_OUT_OF_RANGE;
	if (zone && origin)
	{
		if (!zone->lookup(zone->arg, local, &span))
			return WINDOW_OUT_OF_RANGE;
		local += span.offset;
	}

	grid->axis = axis;
	grid->zone = zone;
	grid->calendar = size->months != 0;
	grid->elastic = size->months != 0 || size->days != 0;
	if (grid->calendar)
	{
		day = floor_div(local, axis->day);
		grid->step = size->months;
		grid->origin_month = month_of_day(day);
		grid->origin_day = (int) (day - month_start(grid->origin_month)) + 1;
		grid->origin_time = local - day * axis->day;
		return WINDOW_OK;
	}
	if (!length_units(axis, size, &grid->step))
		return WINDOW_OUT_OF_RANGE;
	if (zone && !grid->elastic && grid->step >= 24 * HOUR)
		return WINDOW_LONG_TIME;
	grid->phase = floor_mod(local, grid->step);
	return WINDOW_OK;
}

WindowStatus
window_hop_init(WindowHop *hop, const WindowAxis *axis, const WindowLength *size,
				const WindowLength *slide, const int64_t *origin,
				const WindowZone *zone)
{
	WindowStatus status = check_length(axis, size, zone != NULL);
	int64_t		length;

	if (status == WINDOW_OK)
		status = window_grid_init(&hop->slide, axis, slide, origin, zone);
	if (status != WINDOW_OK)
		return status;

	if (size->months != 0 || slide->months != 0)
	{
		if (size->months == 0 || slide->months == 0 || size->months % slide->months != 0)
			return WINDOW_NOT_MULTIPLE;
		hop->panes = true;
		hop->npanes = size->months / slide->months;
		return WINDOW_OK;
	}
	if (zone && (size->days != 0) != (slide->days != 0))
		return WINDOW_MIXED_KINDS;
	if (!length_units(axis, size, &length))
		return WINDOW_OUT_OF_RANGE;
	if ((zone || size->days != 0 || slide->days != 0) && length % hop->slide.step != 0)
		return WINDOW_NOT_MULTIPLE;
	hop->panes = zone != NULL;
	hop->npanes = length / hop->slide.step;
	hop->size = length;
	return WINDOW_OK;
}

static int64_t
greatest_common_divisor(int64_t a, int64_t b)
{
	while (b != 0)
	{
		int64_t		rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

void
window_hop_panes(const WindowHop *hop, WindowGrid *panes)
{
	*panes = hop->slide;
	if (hop->panes)
		return;
	panes->step = greatest_common_divisor(hop->size, hop->slide.step);
	panes->phase = hop->slide.phase % panes->step;
}

/*
 * Where a window is a row of panes, scan->start and scan->end go along the
 * bounds of the grid, npanes apart; else the windows are size long.
 */
WindowStatus
window_hop_begin(const WindowHop *hop, int64_t point, WindowHopScan *scan)
{
	int64_t		step = hop->slide.step;
	int64_t		into;
	int64_t		unused;
	int64_t		n;
	WindowStatus status;

	if (!on_axis(hop->slide.axis, point))
		return WINDOW_OUT_OF_RANGE;
	if (hop->panes)
	{
		status = window_tumble(&hop->slide, point, &scan->start, &scan->end);
		for (n = 1; n < hop->npanes && status == WINDOW_OK; n++)
			status = window_tumble(&hop->slide, scan->start - 1, &scan->start, &unused);
		scan->left = hop->npanes;
		return status;
	}

	into = floor_mod(point, step) - hop->slide.phase;
	if (into < 0)
		into += step;
	/* windows that began at most size - 1 ago */
	scan->left = hop->size > into ? (hop->size - into - 1) / step + 1 : 0;
	if (scan->left == 0)
		return WINDOW_OK;
	if (!sub64(point, into, &scan->start) ||
		!sub64(scan->start, (scan->left - 1) * step, &scan->start) ||
		!add64(scan->start, hop->size, &scan->end))
		return WINDOW_OUT_OF_RANGE;
	return WINDOW_OK;
}

WindowStatus
window_hop_next(const WindowHop *hop, WindowHopScan *scan, int64_t *start, int64_t *end)
{
	WindowStatus status = WINDOW_OK;
	int64_t		unused;

	*start = scan->start;
	*end = scan->end;
	if (*start < hop->slide.axis->first || *end >= hop->slide.axis->limit)
		return WINDOW_OUT_OF_RANGE;
	if (--scan->left == 0)
		return WINDOW_OK;
	if (!hop->panes)
	{
		if (!add64(scan->start, hop->slide.step, &scan->start) ||
			!add64(scan->end, hop->slide.step, &scan->end))
			return WINDOW_OUT_OF_RANGE;
		return WINDOW_OK;
	}
	status = window_tumble(&hop->slide, *start, &unused, &scan->start);
	if (status == WINDOW_OK)
		status = window_tumble(&hop->slide, *end, &unused, &scan->end);
	return status;
}

WindowStatus
window_gap(const WindowLength *gap, int64_t *micros)
{
	if (gap->months != 0)
		return WINDOW_MONTHS_IN_GAP;
	if (!length_units(&window_axis_timestamp, gap, micros))
		return WINDOW_OUT_OF_RANGE;
	return *micros > 0 ? WINDOW_OK : WINDOW_NOT_POSITIVE;
}

bool
window_session_joins(int64_t last, int64_t next, int64_t gap)
{
	int64_t		distance;

	return sub64(next, last, &distance) && distance <= gap;
}

WindowStatus
window_session_end(const WindowAxis *axis, int64_t last, int64_t gap, int64_t *end)
{
	if (!add64(last, gap, end) || !on_axis(axis, *end))
		return WINDOW_OUT_OF_RANGE;
	return WINDOW_OK;
}
