/*
 * core/watermark.h
 *		How far event time has come, over all partitions of a stream.
 *
 * Times are microseconds on one axis; the caller says what time it is.
 */
#ifndef KAPPA_CORE_WATERMARK_H
#define KAPPA_CORE_WATERMARK_H

#include <stdbool.h>
#include <stdint.h>

#define WATERMARK_NONE	INT64_MIN

typedef struct WatermarkInput
{
	bool		idle;			/* proven: nothing has come for the idle timeout, and nothing stands at the broker */
	int64_t		newest;			/* largest event time, WATERMARK_NONE */
	int64_t		last_arrival;	/* by the clock; only of idle ones */
} WatermarkInput;

/*
 * The least newest event time less the delay, over partitions that are not idle;
 * WATERMARK_NONE while one of them has had no event.  Where all are idle, event time
 * runs on with the clock from the newest of all.
 */
extern int64_t stream_watermark(const WatermarkInput *inputs, int n, int64_t delay, int64_t now);

#endif
