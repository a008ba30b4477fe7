/*
 * test/unit/test_small.c
 *		backoff_delay and message_fingerprint.
 */
#include "core/backoff.h"
#include "core/batch.h"
#include "unit.h"

#include <inttypes.h>
#include <limits.h>

static void
test_backoff_bounds(void)
{
	uint64_t	seed;
	int			attempt;

	for (seed = 0; seed < 500; seed++)
	{
		int64_t		full = 100;

		for (attempt = 1; attempt < 40; attempt++)
		{
			int64_t		delay = backoff_delay(attempt, 100, 60000, seed);

			CHECK(delay <= full && delay >= full - full / 4, "attempt %d: %" PRId64, attempt, delay);
			full = full * 2 < 60000 ? full * 2 : 60000;
		}
	}
}

static void
test_backoff_edges(void)
{
	int64_t		delay;

	CHECK(backoff_delay(0, 100, 1000, 1) == 0, "no failure yet");
	CHECK(backoff_delay(-5, 100, 1000, 1) == 0, "negative attempt");
	CHECK(backoff_delay(3, 0, 1000, 1) == 0, "no base");
	CHECK(backoff_delay(3, -1, 1000, 1) == 0, "negative base");
	CHECK(backoff_delay(3, 100, 0, 1) == 0, "no maximum");
	CHECK(backoff_delay(1, 1, 1, 7) == 1, "one millisecond");
	delay = backoff_delay(1, 5000, 1000, 7);
	CHECK(delay <= 1000 && delay >= 750, "base above the maximum: %" PRId64, delay);
	delay = backoff_delay(INT_MAX, 1, INT64_MAX, UINT64_MAX);
	CHECK(delay <= INT64_MAX && delay >= INT64_MAX - INT64_MAX / 4 - 1, "no overflow: %" PRId64, delay);
	delay = backoff_delay(INT_MAX, INT64_MAX, INT64_MAX, 0);
	CHECK(delay >= INT64_MAX / 4 * 3 - 1, "no overflow: %" PRId64, delay);
}

/* Many workers that fail together must not come back together. */
static void
test_backoff_spread(void)
{
	int			buckets[10] = {0};
	uint64_t	seed;
	int			i;

	for (seed = 0; seed < 10000; seed++)
		buckets[(8000 - backoff_delay(4, 1000, 60000, seed)) * 10 / 2001]++;
	for (i = 0; i < 10; i++)
		CHECK(buckets[i] > 700 && buckets[i] < 1300, "bucket %d: %d of 10000", i, buckets[i]);
	CHECK(backoff_delay(4, 1000, 60000, 42) == backoff_delay(4, 1000, 60000, 42), "pure");
}

static uint64_t
fingerprint(const char *key, size_t key_len, const char *value, size_t value_len)
{
	KafkaMessage message = {0};

	message.key = key;
	message.key_len = key_len;
	message.value = value;
	message.value_len = value_len;
	return message_fingerprint(&message);
}

/* Stored values are compared with these: they may never change. */
static void
test_fingerprint_stable(void)
{
	static const struct
	{
		const char *key;
		size_t		key_len;
		const char *value;
		size_t		value_len;
		uint64_t	expected;
	}			cases[] = {
		{NULL, 0, NULL, 0, UINT64_C(0xD6607508F5A1E855)},
		{"", 0, "", 0, UINT64_C(0x88201FB960FF6465)},
		{NULL, 0, "value", 5, UINT64_C(0xC942022D2DFEC129)},
		{"key", 3, "value", 5, UINT64_C(0x9B55EC4BC9A57629)},
		{"key", 3, NULL, 0, UINT64_C(0xDF532106244BEF55)},
		{"\377\000", 2, "{\042a\042:1}", 7, UINT64_C(0xD128C5FA903FC26F)},
	};
	size_t		i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		uint64_t	f = fingerprint(cases[i].key, cases[i].key_len, cases[i].value, cases[i].value_len);

		CHECK(f == cases[i].expected, "case %zu: %016" PRIX64, i, f);
	}
}

static void
test_fingerprint_differs(void)
{
	KafkaMessage a = {0};
	KafkaMessage b = {0};

	CHECK(fingerprint("ab", 2, "c", 1) != fingerprint("a", 1, "bc", 2), "the border counts");
	CHECK(fingerprint(NULL, 0, "c", 1) != fingerprint("", 0, "c", 1), "no key is not an empty key");
	CHECK(fingerprint("k", 1, NULL, 0) != fingerprint("k", 1, "", 0), "nor a tombstone an empty value");
	CHECK(fingerprint("k", 1, NULL, 0) != fingerprint(NULL, 0, "k", 1), "key and value are not alike");
	a.value = b.value = "x";
	a.value_len = b.value_len = 1;
	a.offset = 1;
	a.timestamp = 5;
	CHECK(message_fingerprint(&a) == message_fingerprint(&b), "only key and value count");
}

const UnitTest small_tests[] = {
	{"backoff.bounds", test_backoff_bounds},
	{"backoff.edges", test_backoff_edges},
	{"backoff.spread", test_backoff_spread},
	{"fingerprint.stable", test_fingerprint_stable},
	{"fingerprint.differs", test_fingerprint_differs},
	{NULL, NULL}
};
