/*
 * core/backoff.c
 *		How long to wait before the next try: doubling, bounded, jittered.
 *
 * A pure function: the caller keeps the attempt count and the clock.
 */
#include "core/backoff.h"

/* Spread the bits of x, so that neighbouring seeds give unrelated delays. */
static uint64_t
mix(uint64_t x)
{
	x ^= x >> 33;
	x *= UINT64_C(0xFF51AFD7ED558CCD);
	x ^= x >> 33;
	x *= UINT64_C(0xC4CEB9FE1A85EC53);
	return x ^ x >> 33;
}

int64_t
backoff_delay(int attempt, int64_t base, int64_t max, uint64_t seed)
{
	int64_t		delay = base < max ? base : max;
	uint64_t	range;
	int			i;

	if (attempt < 1 || delay <= 0)
		return 0;
	for (i = 1; i < attempt && delay < max; i++)
		delay = delay > max / 2 ? max : delay * 2;

	/* Another jitter at each attempt, or two equal seeds would always meet. */
	range = (uint64_t) (delay / 4) + 1;
	return delay - (int64_t) (mix(seed + (uint64_t) attempt) % range);
}
