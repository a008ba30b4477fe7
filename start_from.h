/*
 * start_from.h
 *		What a start_from text means.
 */
#ifndef KAPPA_START_FROM_H
#define KAPPA_START_FROM_H

#include "postgres.h"

#include "broker.h"
#include "subscription.h"

/*
 * Offsets that a start_from text means, one a partition (palloc'd): 'earliest',
 * 'latest', a timestamptz, '{"0":120}' or 'group:<id>' (then the session must
 * be open with that group).  -1 for a partition that the JSON form does not name;
 * named (may be NULL) tells which it does.  A group's partition without a
 * position is the earliest.  Bad texts and offsets that the partition does not
 * hold: ERROR 22023.
 */
extern int64 *broker_start_offsets(BrokerSession *session, const char *topic, int n,
								   const char *start_from, bool *named);

/* The id in 'group:<id>', palloc'd; NULL for the other forms. */
extern char *start_from_group(const char *start_from);

/* Where a subscription starts, as the broker says. */
typedef struct SubscriptionStart
{
	int			nparts;
	int64	   *offsets;
	int64	   *high;			/* where the partitions end now */
	bool	   *named;			/* by a JSON start_from; others are all true */
	char	   *topic_id;
} SubscriptionStart;

/*
 * Ask the broker where start_from is, with the rights of the subscription's
 * owner.  A partition that the JSON form does not name is at its first offset.
 */
extern SubscriptionStart find_start(const Subscription *sub, const char *start_from);

#endif
