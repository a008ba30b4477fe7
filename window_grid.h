/*
 * window_grid.h
 *		Intervals and time zones of PostgreSQL as core/window.c wants them.
 */
#ifndef KAPPA_WINDOW_GRID_H
#define KAPPA_WINDOW_GRID_H

#include "postgres.h"

#include "pgtime.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "core/window.h"

/* ERROR 22023 where it is infinite; what names the argument */
extern WindowLength window_length(const Interval *interval, const char *what);

/* A length that core/window.c refused: ERROR 22023 (22008: out of range). */
pg_noreturn extern void window_length_error(WindowStatus status, const char *what);

#define ZONE_SPANS		8

/* What has been learnt of a time zone; must not move, zone.arg points to it */
typedef struct ZoneCache
{
	WindowZone	zone;
	pg_tz	   *tz;
	ZoneSpan	spans[ZONE_SPANS];	/* the last ones looked up */
	int			nspans;
	int			oldest;
} ZoneCache;

/* ERROR 22023 where there is no such zone */
extern void zone_cache_open(ZoneCache *cache, const char *name);

#endif
