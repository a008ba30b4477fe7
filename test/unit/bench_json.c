/*
 * test/unit/bench_json.c
 *		Nanoseconds a document of json_scan: 140 bytes, 7 wanted members.
 *
 * 64 documents of the same shape and different values take turns, so that the
 * branch predictor cannot learn one text by heart.
 */
#include "core/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NDOCS	64
#define NPATHS	7

static const char *const names[NPATHS] = {
	"id", "ts", "user_id", "page", "country", "value", "ok"
};

static int
make_document(char *out, size_t size, int i, const char *format)
{
	static const char *const countries[] = {"DE", "FR", "US", "BR"};
	static const char *const pages[] = {
		"/", "/cart", "/products/12345", "/about-us", "/search?q=kafka"
	};

	return snprintf(out, size, format, 100000 + i * 7919, 1700000000000LL + i * 12345,
					i * 104729 % 100000, pages[i % 5], countries[i % 4],
					(i * 31 % 1000) / 10.0, i % 3 ? "true" : "false");
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static void
bench(const char *what, const char *format)
{
	JsonStep	steps[NPATHS];
	JsonPath	paths[NPATHS];
	JsonSpan	spans[NPATHS];
	char		docs[NDOCS][512];
	size_t		lens[NDOCS];
	size_t		bytes = 0;
	size_t		error_at;
	JsonKind	top;
	JsonPlan   *plan;
	double		best = 1e18;
	uint64_t	found = 0;
	void	   *memory;
	int			i;
	int			round;

	for (i = 0; i < NPATHS; i++)
	{
		steps[i] = (JsonStep) {names[i], strlen(names[i]), 0};
		paths[i] = (JsonPath) {&steps[i], 1};
	}
	memory = malloc(json_plan_size(paths, NPATHS));
	plan = json_plan_build(memory, paths, NPATHS);
	for (i = 0; i < NDOCS; i++)
		bytes += lens[i] = (size_t) make_document(docs[i], sizeof(docs[i]), i, format);

	for (round = 0; round < 400; round++)
	{
		double		start = now();
		double		took;

		for (i = 0; i < NDOCS * 50; i++)
		{
			if (json_scan(plan, docs[i % NDOCS], lens[i % NDOCS], spans, &top,
						  &error_at) != JSON_OK)
				abort();
			found += spans[6].kind == JSON_TRUE;
		}
		took = (now() - start) / (NDOCS * 50);
		if (took < best)
			best = took;
	}
	printf("%-28s %5.1f bytes %6.1f ns a document, %4.2f GB/s (%d)\n", what,
		   (double) bytes / NDOCS, best, (double) bytes / NDOCS / best,
		   (int) (found % 10));
	free(memory);
}

int
main(void)
{
	bench("in the order of the plan",
		  "{\"id\":%d,\"ts\":%lld,\"user_id\":\"u-%05d\",\"page\":\"%s\","
		  "\"country\":\"%s\",\"value\":%.1f,\"ok\":%s,\"agent\":\"Mozilla/5.0 (X11)\"}");
	bench("with spaces",
		  "{\"id\": %d, \"ts\": %lld, \"user_id\": \"u-%05d\", \"page\": \"%s\", "
		  "\"country\": \"%s\", \"value\": %.1f, \"ok\": %s, \"agent\": \"Mozilla/5.0\"}");
	bench("unwanted members between",
		  "{\"a\":1,\"id\":%d,\"b\":2,\"ts\":%lld,\"c\":3,\"user_id\":\"u-%05d\",\"d\":{\"e\":[1,2]},"
		  "\"page\":\"%s\",\"country\":\"%s\",\"f\":null,\"value\":%.1f,\"ok\":%s}");
	bench("UTF-8 and escapes",
		  "{\"id\":%d,\"ts\":%lld,\"user_id\":\"u-%05d\",\"page\":\"%s\",\"country\":\"%s\","
		  "\"value\":%.1f,\"ok\":%s,\"name\":\"J\xC3\xBCrgen \\\"B\\\" \xD0\x9C\xD0\xBE\xD1\x81\"}");
	return 0;
}
