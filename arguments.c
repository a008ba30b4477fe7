/*
 * arguments.c
 *		Arguments of SQL functions, with an ERROR that names the bad one.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "arguments.h"

void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name),
				 errhint("Give it a value, or leave it out if it has a default.")));
}

char *
text_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	require_argument(fcinfo, number, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* Months count 30 days and days 24 hours, as when PostgreSQL compares intervals. */
int64
interval_microseconds(const Interval *interval, const char *argument)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, interval->time, &result) ||
		result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a finite interval that is not negative",
						argument),
				 errhint("Use %s => '5 s', for example.", argument)));
	return result;
}

int64
interval_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	require_argument(fcinfo, number, name);
	return interval_microseconds(PG_GETARG_INTERVAL_P(number), name);
}

/* NULL for '', which stands for none */
char *
text_or_none(text *value)
{
	char	   *result = text_to_cstring(value);

	return result[0] == '\0' ? NULL : result;
}

List *
names_argument(ArrayType *array, const char *name)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not hold a null", name),
					 errhint("Name columns, as in %s => '{id}'.", name)));
		result = lappend(result, TextDatumGetCString(values[i]));
	}
	return result;
}
