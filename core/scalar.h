/*
 * core/scalar.h
 *		Text to numbers and times, as PostgreSQL's own input functions read it.
 *
 * Each function accepts a subset of what PostgreSQL accepts, and gives the same
 * value where it accepts.  SCALAR_UNSURE means: ask the type's input function
 * (it may accept the text or refuse it).  SCALAR_SYNTAX and SCALAR_RANGE are
 * given only where PostgreSQL surely refuses, with 22P02 or 22003 (22007, 22008
 * for times).  Nothing allocates; the text need not end in NUL.
 */
#ifndef KAPPA_CORE_SCALAR_H
#define KAPPA_CORE_SCALAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ScalarResult
{
	SCALAR_OK = 0,
	SCALAR_UNSURE,
	SCALAR_SYNTAX,
	SCALAR_RANGE
} ScalarResult;

extern ScalarResult scalar_int64(const char *text, size_t len, int64_t *value);
extern ScalarResult scalar_int32(const char *text, size_t len, int32_t *value);
extern ScalarResult scalar_int16(const char *text, size_t len, int16_t *value);

/* At most 15 digits and |exponent| <= 22 are exact; the rest is UNSURE. */
extern ScalarResult scalar_double(const char *text, size_t len, double *value);

extern ScalarResult scalar_bool(const char *text, size_t len, bool *value);

/* 32 hex digits in the usual groups, or without hyphens. */
extern ScalarResult scalar_uuid(const char *text, size_t len, uint8_t value[16]);

/* yyyy-mm-dd: days since 2000-01-01. */
extern ScalarResult scalar_date(const char *text, size_t len, int32_t *days);

/*
 * yyyy-mm-dd[T ]hh:mm:ss[.ffffff][Z|+hh[:mm]|+hhmm]: microseconds since
 * 2000-01-01 00:00 UTC.  *zoned tells whether the text named a zone; without one
 * the value is as if UTC.  More than six digits of fraction are UNSURE.
 */
extern ScalarResult scalar_timestamp(const char *text, size_t len,
									 int64_t *micros, bool *zoned);

/*
 * A count of 10^-digits seconds since 1970-01-01 (digits 0, 3, 6 or 9; a JSON
 * number, possibly with fraction or exponent) to microseconds since 2000-01-01,
 * rounded towards minus infinity.  SCALAR_RANGE outside timestamptz's range.
 */
extern ScalarResult scalar_epoch(const char *text, size_t len, int digits,
								 int64_t *micros);

/* PostgreSQL's range of timestamp: true where micros is inside. */
extern bool scalar_timestamp_in_range(int64_t micros);

#endif
