/*
 * monotonic.h
 *		The clock that is never set back.  Plain C, on any thread.
 */
#ifndef KAPPA_MONOTONIC_H
#define KAPPA_MONOTONIC_H

#include <stdint.h>
#include <time.h>

/* Milliseconds since some moment in the past. */
extern int64_t monotonic_ms(void);

/* The time in timeout_ms from now, for waits that use this clock. */
extern struct timespec monotonic_after(int timeout_ms);

#endif
