/*
 * test/unit/test_watermark.c
 *		core/watermark.c: the definition by hand, and a random stream.
 */
#include "core/watermark.h"
#include "unit.h"

#include <inttypes.h>

#define NONE	WATERMARK_NONE

static int64_t
of_two(WatermarkInput a, WatermarkInput b, int64_t delay, int64_t now)
{
	WatermarkInput inputs[] = {a, b};

	return stream_watermark(inputs, 2, delay, now);
}

static WatermarkInput
busy(int64_t newest)
{
	WatermarkInput input = {false, newest, 0};

	return input;
}

static WatermarkInput
idle(int64_t newest, int64_t last_arrival)
{
	WatermarkInput input = {true, newest, last_arrival};

	return input;
}

static void
test_least(void)
{
	CHECK(of_two(busy(100), busy(70), 5, 999) == 65, "the least, less the delay");
	CHECK(of_two(busy(100), busy(NONE), 5, 999) == NONE, "one has had no event");
	CHECK(of_two(busy(100), idle(70, 900), 5, 999) == 95, "an idle one does not hold it back");
	CHECK(of_two(busy(60), idle(200, 900), 5, 999) == 55, "nor does it push");
	CHECK(of_two(busy(NONE), idle(200, 900), 5, 999) == NONE, "nor stand for one without events");
	CHECK(of_two(busy(-100), busy(-70), 0, 0) == -100, "times before the epoch");
	CHECK(stream_watermark(NULL, 0, 5, 999) == NONE, "no partition");
}

static void
test_all_idle(void)
{
	CHECK(of_two(idle(100, 500), idle(70, 520), 5, 530) == 105, "on from the newest, with the clock since the last arrival");
	CHECK(of_two(idle(100, 500), idle(NONE, 0), 5, 530) == 125, "an empty one does not matter");
	CHECK(of_two(idle(NONE, 0), idle(NONE, 0), 5, 530) == NONE, "nothing ever came");
	CHECK(of_two(idle(100, 600), idle(70, 520), 5, 530) == 95, "a clock that went back takes nothing away");
	CHECK(of_two(idle(100, 500), idle(70, 520), 5, 530) <= of_two(idle(100, 500), idle(70, 520), 5, 531), "never back with time");
}

/*
 * A stream whose rows are at most "delay" out of order is never late by the watermark
 * that was there when they came, whichever partitions are idle.
 */
static void
test_no_good_row_late(void)
{
	uint64_t	state = unit_seed;
	int			round;

	for (round = 0; round < 200; round++)
	{
		WatermarkInput inputs[4] = {{false, NONE, 0}, {false, NONE, 0}, {false, NONE, 0}, {false, NONE, 0}};
		int64_t		delay = (int64_t) (unit_random(&state) % 50);
		int64_t		before = NONE;
		int64_t		now;

		for (now = 1000; now < 1300; now++)
		{
			int			part = (int) (unit_random(&state) % 4);
			int64_t		time = now - (int64_t) (unit_random(&state) % (uint64_t) (delay + 1));
			int64_t		watermark = stream_watermark(inputs, 4, delay, now);

			/* idle ones may run on with the clock, which events follow here */
			CHECK(watermark == NONE || watermark <= now - delay, "ahead of the clock: %" PRId64, watermark);
			CHECK(watermark == NONE || time >= watermark, "a row at %" PRId64 " is behind %" PRId64, time, watermark);
			CHECK(before == NONE || inputs[part].idle || watermark >= before || watermark == NONE, "went back");
			inputs[part].idle = false;
			if (inputs[part].newest < time)
				inputs[part].newest = time;
			inputs[part].last_arrival = now;
			before = stream_watermark(inputs, 4, delay, now);
			if (unit_random(&state) % 8 == 0)
			{
				inputs[unit_random(&state) % 4].idle = true;
				before = NONE;
			}
		}
	}
}

const UnitTest watermark_tests[] = {
	{"watermark.least", test_least},
	{"watermark.all_idle", test_all_idle},
	{"watermark.no_good_row_late", test_no_good_row_late},
	{NULL, NULL}
};
