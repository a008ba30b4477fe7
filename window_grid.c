/*
 * window_grid.c
 *		Intervals and time zones of PostgreSQL as core/window.c wants them.
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "window_grid.h"

#define UNIX_TO_PG_SECS	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* Lengths --------------------------------------------------------------- */

void
window_length_error(WindowStatus status, const char *what)
{
	const char *message = NULL;
	const char *hint = NULL;

	switch (status)
	{
		case WINDOW_NOT_POSITIVE:
			message = "must be greater than zero";
			hint = "Give a length such as '1 minute'.";
			break;
		case WINDOW_MIXED_MONTHS:
			message = "cannot hold months together with days or time";
			hint = "Give months and years ('1 month'), or weeks, days and time ('30 days') alone.";
			break;
		case WINDOW_MIXED_DAYS:
			message = "cannot hold days together with time when time_zone is given";
			hint = "Give whole days ('2 days') or time ('6 hours') alone, or leave time_zone out.";
			break;
		case WINDOW_LONG_TIME:
			message = "cannot be a time of 24 hours or more when time_zone is given";
			hint = "Give local days ('1 day'), or leave time_zone out and set origin.";
			break;
		case WINDOW_PART_OF_DAY:
			message = "must be whole days, months or years for type date";
			hint = "Cast the date to timestamp for shorter windows.";
			break;
		case WINDOW_MIXED_KINDS:
			message = "must both be time or both be days when time_zone is given";
			hint = "Give for example '24 hours' by '1 hour', or '7 days' by '1 day'.";
			break;
		case WINDOW_NOT_MULTIPLE:
			message = "do not fit: size must be a whole multiple of slide";
			hint = "Only sizes in hours or less, without time_zone, may be another length.";
			break;
		case WINDOW_MONTHS_IN_GAP:
			message = "cannot hold months or years";
			hint = "Give days or time, such as '30 days'.";
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("%s out of range", what)));
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s %s", what, message),
			 errhint("%s", hint)));
}

WindowLength
window_length(const Interval *interval, const char *what)
{
	WindowLength length = {interval->time, interval->day, interval->month};

	if (interval_is_infinite(interval))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be finite", what),
				 errhint("Give a length such as '1 minute'.")));
	return length;
}

/* Time zones ------------------------------------------------------------ */

/*
 * The first change of the zone after a second.  The library says "none" for the
 * very second of the last change that it has in its table, though it knows how
 * to go on: ask again one second later.
 */
static int
next_change(pg_tz *tz, pg_time_t after, long int *offset, pg_time_t *change)
{
	long int	new_offset;
	int			isdst;
	int			new_isdst;
	int			result;

	result = pg_next_dst_boundary(&after, offset, &isdst, change,
								  &new_offset, &new_isdst, tz);
	if (result == 0)
	{
		after++;
		result = pg_next_dst_boundary(&after, offset, &isdst, change,
									  &new_offset, &new_isdst, tz);
	}
	return result;
}

/* Changes beyond the last timestamps (the rules go on for ever) are at the end */
static inline int64
pg_time_to_micros(pg_time_t seconds)
{
	int64		micros;

	if (pg_mul_s64_overflow(seconds - UNIX_TO_PG_SECS, USECS_PER_SEC, &micros))
		return PG_INT64_MAX;
	return micros;
}

/*
 * There is no way to ask for the last change before a time, so start some way
 * back and step forward.  Where no change lies in between, the span begins at
 * that start: shorter than it could be, which WindowZone allows.
 */
static bool
find_span(pg_tz *tz, int64 instant, ZoneSpan *span)
{
	int64		seconds = instant / USECS_PER_SEC - (instant % USECS_PER_SEC < 0);
	pg_time_t	at = seconds + UNIX_TO_PG_SECS;
	pg_time_t	from = at - 400 * SECS_PER_DAY;
	pg_time_t	change = 0;
	long int	offset = 0;
	int			found;

	for (;;)
	{
		found = next_change(tz, from, &offset, &change);
		if (found <= 0 || change > at)
			break;
		from = change;
	}
	if (found < 0)
		return false;
	span->from = pg_time_to_micros(from);
	span->until = found > 0 ? pg_time_to_micros(change) : PG_INT64_MAX;
	span->offset = (int64) offset * USECS_PER_SEC;
	return true;
}

static bool
zone_lookup(void *arg, int64_t instant, ZoneSpan *span)
{
	ZoneCache  *cache = arg;
	int			i;

	/* long walks through a zone's history end here */
	CHECK_FOR_INTERRUPTS();
	for (i = 0; i < cache->nspans; i++)
	{
		if (instant >= cache->spans[i].from && instant < cache->spans[i].until)
		{
			*span = cache->spans[i];
			return true;
		}
	}
	if (!find_span(cache->tz, instant, span))
		return false;
	if (cache->nspans < ZONE_SPANS)
		cache->spans[cache->nspans++] = *span;
	else
	{
		cache->spans[cache->oldest] = *span;
		cache->oldest = (cache->oldest + 1) % ZONE_SPANS;
	}
	return true;
}

void
zone_cache_open(ZoneCache *cache, const char *name)
{
	cache->tz = zone_by_name(name);
	cache->nspans = 0;
	cache->oldest = 0;
	cache->zone.lookup = zone_lookup;
	cache->zone.arg = cache;
}
