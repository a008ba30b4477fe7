/*
 * core/backoff.h
 *		How long to wait before the next try.
 */
#ifndef KAPPA_CORE_BACKOFF_H
#define KAPPA_CORE_BACKOFF_H

#include <stdint.h>

/*
 * Delay in ms before try number attempt (1 = after the first failure): base
 * doubled for each failure, at most max, less up to a quarter by seed so that
 * many workers do not come back together.
 */
extern int64_t backoff_delay(int attempt, int64_t base, int64_t max, uint64_t seed);

#endif
