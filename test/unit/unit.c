/*
 * test/unit/unit.c
 *		Runs the unit tests: unit [part-of-a-name [seed]].
 */
#include "unit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t	unit_seed;

static int	failures_of_test;

void
unit_fail(const char *file, int line, const char *format, ...)
{
	va_list		args;

	/* A broken loop would otherwise print a line a turn. */
	if (++failures_of_test > 20)
		return;
	printf("# %s:%d: ", file, line);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

char *
unit_exact(const char *data, size_t len)
{
	char	   *copy = malloc(len);

	if (len > 0)
		memcpy(copy, data, len);
	return copy;
}

uint64_t
unit_random(uint64_t *state)
{
	uint64_t	x = *state += UINT64_C(0x9E3779B97F4A7C15);

	x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
	return x ^ x >> 31;
}

const char *
unit_show(const char *data, size_t len)
{
	static char buffer[400];
	size_t		n = 0;
	size_t		i;

	for (i = 0; i < len && i < 80; i++)
	{
		unsigned char c = (unsigned char) data[i];

		n += (size_t) snprintf(buffer + n, sizeof(buffer) - n,
							   c >= 0x20 && c < 0x7F ? "%c" : "\\x%02X", c);
	}
	snprintf(buffer + n, sizeof(buffer) - n, "%s", i < len ? "..." : "");
	return buffer;
}

int
main(int argc, char **argv)
{
	const UnitTest *tables[] = {
		json_tests, json_random_tests, scalar_tests, csv_tests, small_tests, watermark_tests
	};
	const char *filter = argc > 1 ? argv[1] : "";
	int			passed = 0;
	int			failed = 0;
	size_t		i;
	const UnitTest *test;

	setvbuf(stdout, NULL, _IOLBF, 0);
	unit_seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t) time(NULL);
	for (i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
	{
		for (test = tables[i]; test->name != NULL; test++)
		{
			if (strstr(test->name, filter) == NULL)
				continue;
			failures_of_test = 0;
			test->run();
			printf("%s %s\n", failures_of_test == 0 ? "ok" : "not ok", test->name);
			if (failures_of_test == 0)
				passed++;
			else
				failed++;
		}
	}
	printf("%d passed, %d failed\n", passed, failed);
	/* A filter that fits nothing is a mistake, not a success. */
	return failed > 0 || passed == 0;
}
