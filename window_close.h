/*
 * window_close.h
 *		Windows that no row can change any more.
 */
#ifndef KAPPA_WINDOW_CLOSE_H
#define KAPPA_WINDOW_CLOSE_H

#include "postgres.h"

#include "window_view.h"

/*
 * Has the final watermark passed the end of a window since the last close?  May be
 * called outside of a transaction.
 */
extern bool windows_to_close(const WindowView *view, TimestampTz final);

/*
 * By one of the subscription's workers, in a transaction under its lock: put the rows of
 * several workers for a final window together, trim what is beyond the retention.
 * ERROR 40001 where somebody else was the closer; false: an error of the view's own has
 * stopped it, load the views anew.
 */
extern bool close_windows(WindowView *view, TimestampTz final, int workers);

#endif
