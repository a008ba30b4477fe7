/*
 * test/unit/unit.h
 *		A table of named tests, and what they check with.
 *
 * A check that fails prints where and what, marks the running test as failed
 * and goes on.  Inputs go through unit_exact, so that the address sanitizer
 * sees a read of a single byte too much.
 */
#ifndef KAPPA_UNIT_H
#define KAPPA_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct UnitTest
{
	const char *name;			/* NULL ends a table */
	void		(*run) (void);
} UnitTest;

extern const UnitTest json_tests[];
extern const UnitTest json_random_tests[];
extern const UnitTest scalar_tests[];
extern const UnitTest csv_tests[];
extern const UnitTest small_tests[];
extern const UnitTest watermark_tests[];

/* Seed of the random tests: the second argument, else from the clock. */
extern uint64_t unit_seed;

/* printf-like; counts a failure of the running test. */
extern void unit_fail(const char *file, int line, const char *format, ...)
			__attribute__((format(printf, 3, 4)));

#define CHECK(condition, ...) \
	((condition) ? (void) 0 : unit_fail(__FILE__, __LINE__, __VA_ARGS__))

/* A copy in a block of exactly len bytes; free() it. */
extern char *unit_exact(const char *data, size_t len);

/* Next number of a small generator. */
extern uint64_t unit_random(uint64_t *state);

/* Bytes as printable text, cut at 80, for messages (one static buffer). */
extern const char *unit_show(const char *data, size_t len);

#endif
