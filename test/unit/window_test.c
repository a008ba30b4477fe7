/*
 * test/unit/window_test.c
 *		core/window.c without a server: vectors, and windows found by brute force
 *		along made-up zones.
 *
 * Run without arguments, or with the names of the tests wanted.
 */
#include "core/window.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEC		INT64_C(1000000)
#define MINUTE	(60 * SEC)
#define HOUR	(60 * MINUTE)
#define DAY		(24 * HOUR)
#define UNIX0	(-10957 * DAY)	/* 1970-01-01 */

#define CHECK(cond) \
	do { \
		if (!(cond)) \
		{ \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #cond); \
			return false; \
		} \
	} while (0)

static const WindowAxis *const TS = &window_axis_timestamp;
static const WindowAxis *const DATE = &window_axis_date;

/* Zones: changes ascending; before the first one the offset is "base" */
typedef struct Change
{
	int64_t		at;
	int64_t		offset;
} Change;

typedef struct TestZone
{
	int64_t		base;
	int			nchanges;
	Change		changes[8];
} TestZone;

static bool
test_lookup(void *arg, int64_t instant, ZoneSpan *span)
{
	const TestZone *zone = arg;
	int			i;

	span->from = INT64_MIN;
	span->until = INT64_MAX;
	span->offset = zone->base;
	for (i = 0; i < zone->nchanges; i++)
	{
		if (instant < zone->changes[i].at)
		{
			span->until = zone->changes[i].at;
			break;
		}
		span->from = zone->changes[i].at;
		span->offset = zone->changes[i].offset;
	}
	return true;
}

/* 02:00 -> 03:00 at day 100, 03:00 -> 02:00 at day 200 */
static TestZone europe = {HOUR, 2, {{100 * DAY + 1 * HOUR, 2 * HOUR}, {200 * DAY + 1 * HOUR, HOUR}}};
/* half an hour at 02:00 */
static TestZone half = {10 * HOUR + 30 * MINUTE, 2,
{{100 * DAY - 8 * HOUR - 30 * MINUTE, 11 * HOUR}, {200 * DAY - 9 * HOUR, 10 * HOUR + 30 * MINUTE}}};
/* leaves day 100 out, as Apia did; repeats day 200, as Alaska did */
static TestZone dateline = {-10 * HOUR, 2, {{100 * DAY + 10 * HOUR, 14 * HOUR}, {201 * DAY - 14 * HOUR, -10 * HOUR}}};
/* 00:01 -> 23:01, as St. John's did, and 23:59 -> 00:59 */
static TestZone midnight = {-2 * HOUR, 2, {{100 * DAY + 2 * HOUR + MINUTE, -3 * HOUR}, {200 * DAY + 3 * HOUR - MINUTE, -2 * HOUR}}};
/* local mean time, odd seconds */
static TestZone mean_time = {53 * MINUTE + 28 * SEC, 2, {{100 * DAY, HOUR}, {200 * DAY + 17 * SEC, 53 * MINUTE + 20 * SEC}}};
static TestZone *const zones[] = {&europe, &half, &dateline, &midnight, &mean_time};

#define NZONES	((int) (sizeof(zones) / sizeof(zones[0])))

static WindowLength
length_of(int32_t months, int32_t days, int64_t micros)
{
	WindowLength length = {micros, days, months};

	return length;
}

static WindowStatus
grid_of(WindowGrid *grid, const WindowAxis *axis, WindowLength size,
		const int64_t *origin, WindowZone *zone)
{
	return window_grid_init(grid, axis, &size, origin, zone);
}

static bool
tumbles_to(const WindowGrid *grid, int64_t point, int64_t start, int64_t end)
{
	int64_t		s = 0;
	int64_t		e = 0;

	if (window_tumble(grid, point, &s, &e) != WINDOW_OK || s != start || e != end)
	{
		printf("# %" PRId64 " gave [%" PRId64 ", %" PRId64 "), not [%" PRId64 ", %" PRId64 ")\n",
			   point, s, e, start, end);
		return false;
	}
	return true;
}

/* Days since 2000-01-01, counted year by year and month by month */
static int64_t
slow_days(int year, int month, int day)
{
	static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int64_t		days = day - 1;
	int			y;
	int			m;

#define LEAP(y)	(((y) % 4 == 0 && (y) % 100 != 0) || (y) % 400 == 0)
	for (y = 2000; y < year; y++)
		days += LEAP(y) ? 366 : 365;
	for (y = year; y < 2000; y++)
		days -= LEAP(y) ? 366 : 365;
	for (m = 1; m < month; m++)
		days += lengths[m - 1] + (m == 2 && LEAP(year));
	return days;
}

static bool
test_tumble(void)
{
	WindowGrid	grid;
	int64_t		origin = 30 * SEC;

	CHECK(grid_of(&grid, TS, length_of(0, 0, MINUTE), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, 0, 0, MINUTE));
	CHECK(tumbles_to(&grid, MINUTE - 1, 0, MINUTE));
	CHECK(tumbles_to(&grid, MINUTE, MINUTE, 2 * MINUTE));
	CHECK(tumbles_to(&grid, -1, -MINUTE, 0));
	CHECK(tumbles_to(&grid, -MINUTE, -MINUTE, 0));
	CHECK(grid_of(&grid, TS, length_of(0, 0, MINUTE), &origin, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, 0, -30 * SEC, 30 * SEC));
	CHECK(tumbles_to(&grid, 30 * SEC, 30 * SEC, 90 * SEC));
	/* aligned to 1970, which was a Thursday */
	CHECK(grid_of(&grid, TS, length_of(0, 7, 0), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, UNIX0 - 1, UNIX0 - 7 * DAY, UNIX0));
	CHECK(tumbles_to(&grid, UNIX0, UNIX0, UNIX0 + 7 * DAY));
	/* without a zone, days and time add up */
	CHECK(grid_of(&grid, TS, length_of(0, 1, -HOUR), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, UNIX0, UNIX0, UNIX0 + 23 * HOUR));
	return true;
}

static bool
test_calendar(void)
{
	WindowGrid	grid;
	int64_t		origin;
	int			year;
	int			month;

	CHECK(grid_of(&grid, DATE, length_of(1, 0, 0), NULL, NULL) == WINDOW_OK);
	for (year = 1595; year < 2410; year++)
		for (month = 1; month <= 12; month++)
		{
			int64_t		first = slow_days(year, month, 1);
			int64_t		next = month == 12 ? slow_days(year + 1, 1, 1) : slow_days(year, month + 1, 1);

			CHECK(tumbles_to(&grid, first, first, next));
			CHECK(tumbles_to(&grid, next - 1, first, next));
		}
	CHECK(grid_of(&grid, TS, length_of(12, 0, 0), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, -1, slow_days(1999, 1, 1) * DAY, 0));
	CHECK(grid_of(&grid, TS, length_of(5, 0, 0), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, UNIX0 - 1, slow_days(1969, 8, 1) * DAY, UNIX0));

	/* from the 31st, 06:00: the last day of shorter months */
	origin = slow_days(2023, 1, 31) * DAY + 6 * HOUR;
	CHECK(grid_of(&grid, TS, length_of(1, 0, 0), &origin, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, slow_days(2024, 2, 29) * DAY + 6 * HOUR - 1,
					 slow_days(2024, 1, 31) * DAY + 6 * HOUR, slow_days(2024, 2, 29) * DAY + 6 * HOUR));
	CHECK(tumbles_to(&grid, slow_days(2024, 2, 29) * DAY + 6 * HOUR,
					 slow_days(2024, 2, 29) * DAY + 6 * HOUR, slow_days(2024, 3, 31) * DAY + 6 * HOUR));
	CHECK(tumbles_to(&grid, slow_days(1900, 2, 28) * DAY,
					 slow_days(1900, 1, 31) * DAY + 6 * HOUR, slow_days(1900, 2, 28) * DAY + 6 * HOUR));
	return true;
}

static bool
test_limits(void)
{
	WindowGrid	grid;
	int64_t		s;
	int64_t		e;
	int64_t		origin;

	CHECK(grid_of(&grid, TS, length_of(0, 1, 0), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, TS->first, TS->first, TS->first + DAY));
	CHECK(window_tumble(&grid, TS->first - 1, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(tumbles_to(&grid, TS->limit - DAY - 1, TS->limit - 2 * DAY, TS->limit - DAY));
	CHECK(window_tumble(&grid, TS->limit - 1, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, INT64_MAX, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, INT64_MIN, &s, &e) == WINDOW_OUT_OF_RANGE);

	/* no overflow between the ends of time */
	origin = TS->first;
	CHECK(grid_of(&grid, TS, length_of(0, 0, HOUR), &origin, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, TS->limit - HOUR - 1, TS->limit - 2 * HOUR, TS->limit - HOUR));
	origin = TS->limit - 1;
	CHECK(grid_of(&grid, TS, length_of(0, 0, SEC), &origin, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, TS->first + 2 * SEC, TS->first + 2 * SEC - 1, TS->first + 3 * SEC - 1));

	/* lengths at the ends of int64 */
	CHECK(grid_of(&grid, TS, length_of(0, 0, INT64_MAX), NULL, NULL) == WINDOW_OK);
	CHECK(tumbles_to(&grid, 0, UNIX0, UNIX0 + INT64_MAX));
	CHECK(window_tumble(&grid, UNIX0 - 1, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(grid_of(&grid, TS, length_of(0, INT32_MAX, 0), NULL, NULL) == WINDOW_OUT_OF_RANGE);
	CHECK(grid_of(&grid, TS, length_of(0, 1, INT64_MAX), NULL, NULL) == WINDOW_OUT_OF_RANGE);
	CHECK(grid_of(&grid, TS, length_of(INT32_MAX, 0, 0), NULL, NULL) == WINDOW_OK);
	CHECK(window_tumble(&grid, 0, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, TS->limit - 1, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, TS->first, &s, &e) == WINDOW_OUT_OF_RANGE);
	origin = INT64_MAX;
	CHECK(grid_of(&grid, TS, length_of(0, 0, SEC), &origin, NULL) == WINDOW_OUT_OF_RANGE);

	CHECK(grid_of(&grid, DATE, length_of(1, 0, 0), NULL, NULL) == WINDOW_OK);
	CHECK(window_tumble(&grid, DATE->limit - 1, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, DATE->first, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_tumble(&grid, DATE->first + 31, &s, &e) == WINDOW_OK);
	return true;
}

static bool
test_zone_limits(void)
{
	WindowGrid	grid;
	WindowLength sizes[] = {{0, 1, 0}, {HOUR, 0, 0}, {0, 0, 1}, {0, 100000000, 0}, {0, 106751991, 0},
	{0, 0, INT32_MAX}, {24 * HOUR - 1, 0, 0}};
	TestZone	far_zone = {167 * HOUR, 1, {{0, -167 * HOUR}}};
	WindowZone	zone = {test_lookup, NULL};
	int64_t		points[] = {window_axis_timestamp.first, window_axis_timestamp.first + DAY, 0,
	window_axis_timestamp.limit - DAY, window_axis_timestamp.limit - 1};
	int64_t		s;
	int64_t		e;
	int			i;
	int			j;
	int			k;

	/* the sanitizers look for overflow; a result is a window or an error */
	for (k = 0; k < 2; k++)
		for (i = 0; i < (int) (sizeof(sizes) / sizeof(sizes[0])); i++)
			for (j = 0; j < (int) (sizeof(points) / sizeof(points[0])); j++)
			{
				zone.arg = k ? &far_zone : &europe;
				CHECK(window_grid_init(&grid, TS, &sizes[i], &points[j], &zone) == WINDOW_OK);
				if (window_tumble(&grid, points[j], &s, &e) == WINDOW_OK)
					CHECK(s <= points[j] && points[j] < e);
				CHECK(window_grid_init(&grid, TS, &sizes[i], NULL, &zone) == WINDOW_OK);
				if (window_tumble(&grid, points[j], &s, &e) == WINDOW_OK)
					CHECK(s <= points[j] && points[j] < e);
			}
	return true;
}

static bool
test_zone_vectors(void)
{
	WindowZone	zone = {test_lookup, &europe};
	WindowGrid	grid;
	int64_t		spring = 100 * DAY + HOUR;	/* 02:00 becomes 03:00 */
	int64_t		autumn = 200 * DAY + HOUR;	/* 03:00 becomes 02:00 */

	/* days of 23 and 25 hours */
	CHECK(grid_of(&grid, TS, length_of(0, 1, 0), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, spring, 100 * DAY - HOUR, 101 * DAY - 2 * HOUR));
	CHECK(tumbles_to(&grid, autumn, 200 * DAY - 2 * HOUR, 201 * DAY - HOUR));
	/* an hour shown twice is two windows */
	CHECK(grid_of(&grid, TS, length_of(0, 0, HOUR), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, spring - 1, spring - HOUR, spring));
	CHECK(tumbles_to(&grid, spring, spring, spring + HOUR));
	CHECK(tumbles_to(&grid, autumn - 1, autumn - HOUR, autumn));
	CHECK(tumbles_to(&grid, autumn, autumn, autumn + HOUR));
	/* six hours: five, and seven */
	CHECK(grid_of(&grid, TS, length_of(0, 0, 6 * HOUR), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, spring, 100 * DAY - HOUR, 100 * DAY + 4 * HOUR));
	CHECK(tumbles_to(&grid, autumn, 200 * DAY - 2 * HOUR, 200 * DAY + 5 * HOUR));
	CHECK(tumbles_to(&grid, autumn + 4 * HOUR, 200 * DAY + 5 * HOUR, 200 * DAY + 11 * HOUR));
	/* three hours: the bound at 03:00 is reached an hour later than it seemed */
	CHECK(grid_of(&grid, TS, length_of(0, 0, 3 * HOUR), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, autumn - 1, 200 * DAY - 2 * HOUR, 200 * DAY + 2 * HOUR));
	CHECK(tumbles_to(&grid, autumn, 200 * DAY - 2 * HOUR, 200 * DAY + 2 * HOUR));
	CHECK(tumbles_to(&grid, autumn + HOUR, 200 * DAY + 2 * HOUR, 200 * DAY + 5 * HOUR));
	/* seven minutes do not divide an hour: cut at the change */
	CHECK(grid_of(&grid, TS, length_of(0, 0, 7 * MINUTE), &spring, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, spring, spring, spring + 7 * MINUTE));
	CHECK(tumbles_to(&grid, spring - 1, spring - 3 * MINUTE, spring));

	CHECK(grid_of(&grid, TS, length_of(0, 0, 7 * MINUTE), &autumn, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, autumn - 1, autumn - 4 * MINUTE, autumn));
	CHECK(tumbles_to(&grid, autumn, autumn, autumn + 7 * MINUTE));

	/* the half hour of Lord Howe, by whole hours: 90 and 30 minutes */
	zone.arg = &half;
	CHECK(grid_of(&grid, TS, length_of(0, 0, HOUR), NULL, &zone) == WINDOW_OK);
	autumn = half.changes[1].at;
	CHECK(tumbles_to(&grid, autumn, autumn - HOUR, autumn + 30 * MINUTE));
	spring = half.changes[0].at;
	CHECK(tumbles_to(&grid, spring, spring, spring + 30 * MINUTE));

	/* a date left out has no window, one that comes twice has 48 hours */
	zone.arg = &dateline;
	CHECK(grid_of(&grid, TS, length_of(0, 1, 0), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, 100 * DAY + 10 * HOUR - 1, 99 * DAY + 10 * HOUR, 100 * DAY + 10 * HOUR));
	CHECK(tumbles_to(&grid, 100 * DAY + 10 * HOUR, 100 * DAY + 10 * HOUR, 101 * DAY + 10 * HOUR));
	CHECK(tumbles_to(&grid, 201 * DAY, 200 * DAY - 14 * HOUR, 201 * DAY + 10 * HOUR));

	/* the clock goes back over midnight: the new day had begun */
	zone.arg = &midnight;
	CHECK(tumbles_to(&grid, 100 * DAY + 2 * HOUR + 2 * MINUTE, 100 * DAY + 2 * HOUR, 101 * DAY + 3 * HOUR));
	/* hours are not cut there, as the clock goes back a whole one */
	CHECK(grid_of(&grid, TS, length_of(0, 0, HOUR), NULL, &zone) == WINDOW_OK);
	CHECK(tumbles_to(&grid, 100 * DAY + 2 * HOUR + 2 * MINUTE, 100 * DAY + 2 * HOUR, 100 * DAY + 3 * HOUR));
	CHECK(grid_of(&grid, TS, length_of(0, 1, 0), NULL, &zone) == WINDOW_OK);
	/* the clock jumps over midnight: the day begins with the jump */
	CHECK(tumbles_to(&grid, 200 * DAY + 3 * HOUR, 200 * DAY + 3 * HOUR - MINUTE, 201 * DAY + 2 * HOUR));
	return true;
}

/* Walk from window to window over both changes; ask for points inside as well */
static bool
tiles(const WindowGrid *grid, int64_t from, int64_t until)
{
	int64_t		s;
	int64_t		e;
	int64_t		next;

	CHECK(window_tumble(grid, from, &s, &e) == WINDOW_OK);
	while (e < until)
	{
		CHECK(s < e);
		CHECK(tumbles_to(grid, s, s, e));
		CHECK(tumbles_to(grid, s + (e - s) / 3, s, e));
		CHECK(tumbles_to(grid, s + (e - s) / 2, s, e));
		CHECK(tumbles_to(grid, e - 1, s, e));
		next = e;
		CHECK(window_tumble(grid, next, &s, &e) == WINDOW_OK);
		CHECK(s == next);
	}
	return true;
}

static bool
test_zones_tile(void)
{
	WindowLength sizes[] = {
		{7 * MINUTE, 0, 0}, {15 * MINUTE, 0, 0}, {20 * MINUTE, 0, 0}, {45 * MINUTE, 0, 0},
		{HOUR, 0, 0}, {90 * MINUTE, 0, 0}, {5 * HOUR, 0, 0}, {6 * HOUR, 0, 0}, {23 * HOUR, 0, 0},
		{0, 1, 0}, {0, 3, 0}, {0, 0, 1}, {0, 0, 7}
	};
	int64_t		origin = 3 * DAY + 17 * MINUTE;
	WindowGrid	grid;
	int			z;
	int			i;

	for (z = 0; z < NZONES; z++)
		for (i = 0; i < (int) (sizeof(sizes) / sizeof(sizes[0])); i++)
		{
			WindowZone	zone = {test_lookup, zones[z]};

			CHECK(window_grid_init(&grid, TS, &sizes[i], NULL, &zone) == WINDOW_OK);
			CHECK(tiles(&grid, 90 * DAY, 210 * DAY));
			CHECK(window_grid_init(&grid, TS, &sizes[i], &origin, &zone) == WINDOW_OK);
			CHECK(tiles(&grid, 90 * DAY, 210 * DAY));
		}
	return true;
}

/* Every window that a hop may give, tried one by one */
static bool
test_hop_plain(void)
{
	int64_t		sizes[] = {1, 2, 5, 6, 7, 12, 13};
	int64_t		slides[] = {1, 2, 3, 5, 6, 20};
	int64_t		origins[] = {-3, 0, 4};
	WindowHop	hop;
	WindowHopScan scan;
	int64_t		s;
	int64_t		e;
	int64_t		at;
	int64_t		w;
	int			i;
	int			j;
	int			k;

	for (i = 0; i < 7; i++)
		for (j = 0; j < 6; j++)
			for (k = 0; k < 3; k++)
			{
				WindowLength size = length_of(0, 0, sizes[i]);
				WindowLength slide = length_of(0, 0, slides[j]);

				CHECK(window_hop_init(&hop, TS, &size, &slide, &origins[k], NULL) == WINDOW_OK);
				for (at = -25; at < 25; at++)
				{
					CHECK(window_hop_begin(&hop, at, &scan) == WINDOW_OK);
					for (w = -50; w < 50; w++)
					{
						int64_t		start = origins[k] + w * slides[j];

						if (at < start || at >= start + sizes[i])
							continue;
						CHECK(scan.left > 0);
						CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
						CHECK(s == start && e == start + sizes[i]);
					}
					CHECK(scan.left == 0);
				}
			}
	return true;
}

static bool
test_hop_panes(void)
{
	WindowZone	zone = {test_lookup, &europe};
	WindowHop	hop;
	WindowHopScan scan;
	WindowLength size = length_of(0, 7, 0);
	WindowLength slide = length_of(0, 1, 0);
	int64_t		s;
	int64_t		e;
	int64_t		last = INT64_MIN;
	int			n = 0;

	CHECK(window_hop_init(&hop, TS, &size, &slide, NULL, &zone) == WINDOW_OK);
	CHECK(window_hop_begin(&hop, 100 * DAY + HOUR, &scan) == WINDOW_OK);
	while (scan.left > 0)
	{
		CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
		CHECK(s > last && s <= 100 * DAY + HOUR && e > 100 * DAY + HOUR);
		CHECK(e - s == 7 * DAY - HOUR);	/* all of them hold the short day */
		last = s;
		n++;
	}
	CHECK(n == 7 && last == 100 * DAY - HOUR);

	size = length_of(3, 0, 0);
	slide = length_of(1, 0, 0);
	CHECK(window_hop_init(&hop, DATE, &size, &slide, NULL, NULL) == WINDOW_OK);
	CHECK(window_hop_begin(&hop, slow_days(2024, 2, 29), &scan) == WINDOW_OK);
	CHECK(scan.left == 3);
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
	CHECK(s == slow_days(2023, 12, 1) && e == slow_days(2024, 3, 1));
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
	CHECK(s == slow_days(2024, 1, 1) && e == slow_days(2024, 4, 1));
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
	CHECK(s == slow_days(2024, 2, 1) && e == slow_days(2024, 5, 1));
	CHECK(scan.left == 0);
	return true;
}

static int64_t
divisor(int64_t a, int64_t b)
{
	return b == 0 ? a : divisor(b, a % b);
}

/*
 * What a hopping window view rests on: each window is whole panes, all points of a pane are
 * in the same windows, and of such grids it is the coarsest.
 */
static bool
test_pane_grid(void)
{
	static const int64_t lengths[][2] = {{60, 10}, {25, 10}, {10, 25}, {7, 7}, {1, 1}, {9, 4}, {3600, 60}, {45, 20}, {6, 9}};
	size_t		i;
	int64_t		origin;

	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		for (origin = -3; origin <= 30; origin += 11)
		{
			int64_t		size = lengths[i][0];
			int64_t		slide = lengths[i][1];
			WindowLength size_of = length_of(0, 0, size);
			WindowLength slide_of = length_of(0, 0, slide);
			WindowHop	hop;
			WindowGrid	panes;
			int64_t		point;

			CHECK(window_hop_init(&hop, TS, &size_of, &slide_of, &origin, NULL) == WINDOW_OK);
			window_hop_panes(&hop, &panes);
			for (point = -200; point < 200; point++)
			{
				int64_t		start;
				int64_t		end;
				WindowHopScan of_point;
				WindowHopScan of_pane;

				CHECK(window_tumble(&panes, point, &start, &end) == WINDOW_OK);
				CHECK(start <= point && point < end && end - start == divisor(size, slide));
				CHECK(window_hop_begin(&hop, point, &of_point) == WINDOW_OK);
				CHECK(window_hop_begin(&hop, start, &of_pane) == WINDOW_OK);
				CHECK(of_point.left == of_pane.left);
				while (of_point.left > 0)
				{
					int64_t		s;
					int64_t		e;
					int64_t		pane_s;
					int64_t		pane_e;

					CHECK(window_hop_next(&hop, &of_point, &s, &e) == WINDOW_OK);
					CHECK(window_hop_next(&hop, &of_pane, &pane_s, &pane_e) == WINDOW_OK);
					CHECK(s == pane_s && e == pane_e && e - s == size);
					CHECK(s <= start && end <= e && (s - origin) % slide == 0);
				}
			}
		}
	return true;
}

static bool
test_hop_limits(void)
{
	WindowHop	hop;
	WindowHopScan scan;
	WindowLength size = length_of(0, 0, INT64_MAX);
	WindowLength slide = length_of(0, 0, 1);
	int64_t		s;
	int64_t		e;

	CHECK(window_hop_init(&hop, TS, &size, &slide, NULL, NULL) == WINDOW_OK);
	CHECK(window_hop_begin(&hop, TS->limit - 1, &scan) == WINDOW_OK);
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_hop_begin(&hop, TS->first, &scan) == WINDOW_OUT_OF_RANGE ||
		  window_hop_next(&hop, &scan, &s, &e) == WINDOW_OUT_OF_RANGE);
	size = length_of(0, 0, 2 * HOUR);
	slide = length_of(0, 0, HOUR);
	CHECK(window_hop_init(&hop, TS, &size, &slide, NULL, NULL) == WINDOW_OK);
	CHECK(window_hop_begin(&hop, TS->first, &scan) == WINDOW_OK);
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_hop_begin(&hop, TS->limit - HOUR - 1, &scan) == WINDOW_OK);
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OK);
	CHECK(window_hop_next(&hop, &scan, &s, &e) == WINDOW_OUT_OF_RANGE);
	CHECK(window_hop_begin(&hop, INT64_MIN, &scan) == WINDOW_OUT_OF_RANGE);
	return true;
}

static WindowStatus
hop_status(const WindowAxis *axis, WindowLength size, WindowLength slide, WindowZone *zone)
{
	WindowHop	hop;

	return window_hop_init(&hop, axis, &size, &slide, NULL, zone);
}

static bool
test_refusals(void)
{
	WindowZone	zone = {test_lookup, &europe};
	WindowGrid	g;

	CHECK(grid_of(&g, TS, length_of(0, 0, 0), NULL, NULL) == WINDOW_NOT_POSITIVE);
	CHECK(grid_of(&g, TS, length_of(0, 0, -1), NULL, NULL) == WINDOW_NOT_POSITIVE);
	CHECK(grid_of(&g, TS, length_of(-1, 0, 0), NULL, NULL) == WINDOW_NOT_POSITIVE);
	CHECK(grid_of(&g, TS, length_of(0, 1, -24 * HOUR), NULL, NULL) == WINDOW_NOT_POSITIVE);
	CHECK(grid_of(&g, TS, length_of(1, 1, 0), NULL, NULL) == WINDOW_MIXED_MONTHS);
	CHECK(grid_of(&g, TS, length_of(1, 0, 1), NULL, NULL) == WINDOW_MIXED_MONTHS);
	CHECK(grid_of(&g, TS, length_of(0, 1, HOUR), NULL, NULL) == WINDOW_OK);
	CHECK(grid_of(&g, TS, length_of(0, 1, HOUR), NULL, &zone) == WINDOW_MIXED_DAYS);
	CHECK(grid_of(&g, TS, length_of(0, 0, 24 * HOUR), NULL, &zone) == WINDOW_LONG_TIME);
	CHECK(grid_of(&g, DATE, length_of(0, 1, HOUR), NULL, NULL) == WINDOW_PART_OF_DAY);

	CHECK(hop_status(TS, length_of(0, 0, 5), length_of(0, 0, 3), NULL) == WINDOW_OK);
	CHECK(hop_status(TS, length_of(0, 0, 5), length_of(0, 0, 3), &zone) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(0, 1, 0), length_of(0, 0, 7 * HOUR), NULL) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(0, 1, 0), length_of(0, 0, 6 * HOUR), NULL) == WINDOW_OK);
	CHECK(hop_status(TS, length_of(0, 1, 0), length_of(0, 0, 6 * HOUR), &zone) == WINDOW_MIXED_KINDS);
	CHECK(hop_status(TS, length_of(0, 0, 24 * HOUR), length_of(0, 0, HOUR), &zone) == WINDOW_OK);
	CHECK(hop_status(TS, length_of(0, 1, 0), length_of(0, 2, 0), NULL) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(1, 0, 0), length_of(0, 1, 0), NULL) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(0, 30, 0), length_of(1, 0, 0), NULL) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(12, 0, 0), length_of(5, 0, 0), NULL) == WINDOW_NOT_MULTIPLE);
	CHECK(hop_status(TS, length_of(12, 0, 0), length_of(3, 0, 0), &zone) == WINDOW_OK);
	CHECK(hop_status(TS, length_of(0, 0, 5), length_of(0, 0, 0), NULL) == WINDOW_NOT_POSITIVE);
	return true;
}

static bool
test_session(void)
{
	WindowLength gap = length_of(0, 0, 5);
	int64_t		micros;
	int64_t		end;

	CHECK(window_gap(&gap, &micros) == WINDOW_OK && micros == 5);
	CHECK(window_session_joins(10, 12, 5));
	CHECK(!window_session_joins(12, 20, 5));
	CHECK(window_session_joins(12, 16, 5) && window_session_joins(16, 20, 5));
	CHECK(window_session_joins(10, 15, 5));	/* touching */
	CHECK(!window_session_joins(10, 16, 5));
	CHECK(!window_session_joins(INT64_MIN, INT64_MAX, INT64_MAX));
	CHECK(window_session_end(TS, 12, 5, &end) == WINDOW_OK && end == 17);
	CHECK(window_session_end(TS, TS->limit - 1, 5, &end) == WINDOW_OUT_OF_RANGE);
	CHECK(window_session_end(TS, TS->limit - 1, INT64_MAX, &end) == WINDOW_OUT_OF_RANGE);
	gap = length_of(0, 1, 1);
	CHECK(window_gap(&gap, &micros) == WINDOW_OK && micros == DAY + 1);
	gap = length_of(1, 0, 0);
	CHECK(window_gap(&gap, &micros) == WINDOW_MONTHS_IN_GAP);
	gap = length_of(0, 0, 0);
	CHECK(window_gap(&gap, &micros) == WINDOW_NOT_POSITIVE);
	gap = length_of(0, INT32_MAX, 0);
	CHECK(window_gap(&gap, &micros) == WINDOW_OUT_OF_RANGE);
	return true;
}

static const struct
{
	const char *name;
	bool		(*run) (void);
}			tests[] =
{
	{"tumble", test_tumble},
	{"calendar", test_calendar},
	{"limits", test_limits},
	{"zone_limits", test_zone_limits},
	{"zone_vectors", test_zone_vectors},
	{"zones_tile", test_zones_tile},
	{"hop_plain", test_hop_plain},
	{"hop_panes", test_hop_panes},
	{"pane_grid", test_pane_grid},
	{"hop_limits", test_hop_limits},
	{"refusals", test_refusals},
	{"session", test_session},
};

static bool
wanted(const char *name, int argc, char **argv)
{
	int			i;

	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return true;
	return argc < 2;
}

int
main(int argc, char **argv)
{
	int			passed = 0;
	int			failed = 0;
	size_t		i;

	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
	{
		if (!wanted(tests[i].name, argc, argv))
			continue;
		if (tests[i].run())
		{
			printf("ok %s\n", tests[i].name);
			passed++;
		}
		else
		{
			printf("not ok %s\n", tests[i].name);
			failed++;
		}
	}
	printf("%d passed, %d failed\n", passed, failed);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
