/*
 * core/watermark.c
 *		How far event time has come, over all partitions of a stream.
 */
#include "core/watermark.h"

static int64_t
running_on(const WatermarkInput *inputs, int n, int64_t delay, int64_t now)
{
	int64_t		newest = WATERMARK_NONE;
	int64_t		arrival = WATERMARK_NONE;

	for (int i = 0; i < n; i++)
	{
		if (inputs[i].newest > newest)
			newest = inputs[i].newest;
		if (inputs[i].last_arrival > arrival)
			arrival = inputs[i].last_arrival;
	}
	if (newest == WATERMARK_NONE)
		return WATERMARK_NONE;
	if (arrival < now)
		newest += now - arrival;
	return newest - delay;
}

int64_t
stream_watermark(const WatermarkInput *inputs, int n, int64_t delay, int64_t now)
{
	int64_t		least = INT64_MAX;
	bool		all_idle = true;

	for (int i = 0; i < n; i++)
	{
		if (inputs[i].idle)
			continue;
		all_idle = false;
		if (inputs[i].newest < least)
			least = inputs[i].newest;
	}
	if (all_idle)
		return running_on(inputs, n, delay, now);
	return least == WATERMARK_NONE ? WATERMARK_NONE : least - delay;
}
