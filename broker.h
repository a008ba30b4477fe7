/*
 * broker.h
 *		A client that lives for one call in a session: open, ask, close.
 *
 * Waits in steps of at most 500 ms with CHECK_FOR_INTERRUPTS between them; the
 * client is closed by a memory context callback, so an ERROR cannot leak it.
 */
#ifndef KAPPA_BROKER_H
#define KAPPA_BROKER_H

#include "postgres.h"

#include "kafka_client.h"
#include "utils/jsonb.h"

typedef struct BrokerSession
{
	KafkaClient *client;
	char	   *server;
	int			log_lines;		/* of the library, passed on so far */
	MemoryContextCallback callback;
} BrokerSession;

/* Checks rights, opens.  group NULL: none.  Lives in the current memory context. */
extern BrokerSession *broker_connect(const char *server, Oid userid,
									 Jsonb *options, const char *group);
extern void broker_disconnect(BrokerSession *session);

/* Number of partitions; unknown topic: ERROR 42704 that names near ones. */
extern int	broker_partitions(BrokerSession *session, const char *topic);

/* low and high (next offset to be readable) of each partition, arrays of n */
extern void broker_offsets(BrokerSession *session, const char *topic, int n,
						   int64 *low, int64 *high);

/* first offset at or after ms since the epoch, the partition's end where none */
extern void broker_offsets_for_time(BrokerSession *session, const char *topic,
									int n, int64 ms, int64 *offsets);

/* what the session's group has committed, -1 where nothing */
extern void broker_group_offsets(BrokerSession *session, const char *topic,
								 int n, int64 *offsets);

/* the topic's id, palloc'd; NULL where the library cannot tell */
extern char *broker_topic_id(BrokerSession *session, const char *topic);

/* Next events, waiting at most timeout_ms; see kafka_fill. */
extern int	broker_fill(BrokerSession *session, KafkaMessage *messages, int max,
						KafkaEvent *event, int timeout_ms);

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

/* Headers as the documented jsonb object; NULL where the message has none. */
extern Jsonb *message_headers(const KafkaMessage *message);

#endif
