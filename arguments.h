/*
 * arguments.h
 *		Arguments of SQL functions, by number and name; ERROR 22004 or 22023
 *		names the bad one.
 */
#ifndef KAPPA_ARGUMENTS_H
#define KAPPA_ARGUMENTS_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/timestamp.h"

extern void require_argument(FunctionCallInfo fcinfo, int number, const char *name);
extern char *text_argument(FunctionCallInfo fcinfo, int number, const char *name);

/* microseconds of an interval that must be >= 0 */
extern int64 interval_argument(FunctionCallInfo fcinfo, int number, const char *name);
extern int64 interval_microseconds(const Interval *interval, const char *name);

/* NULL for '', which stands for none */
extern char *text_or_none(text *value);

/* The array's elements as a list of char *; none of them may be null. */
extern List *names_argument(ArrayType *array, const char *name);

#endif
