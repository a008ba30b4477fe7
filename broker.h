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

#include "utils/jsonb.h"

#include "broker_options.h"
#include "kafka_consume.h"
#include "kafka_question.h"

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

/* The same as the current user, for a look at a few messages: little memory. */
extern BrokerSession *broker_connect_small(const char *server, Jsonb *options,
										   const char *group);

/* By settings whose rights are checked; client is NULL where that failed. */
extern BrokerSession *broker_open(const char *server, BrokerSettings *settings,
								  const char *group, KafkaError *error);
extern void broker_disconnect(BrokerSession *session);

#define BROKER_STEP_MS		500		/* longest call into the library */
#define BROKER_ANSWER_MS	30000	/* patience with a silent broker */

/* How long a question has been open. */
typedef struct Patience
{
	int64		start;			/* ms */
	int64		down_since;		/* 0: not known to be down */
	int			answer_ms;
	int			down_ms;
} Patience;

extern void begin_patience(Patience *patience, int answer_ms);

/* Is it worth asking again after this failure?  Waits where it is. */
extern bool worth_asking_again(BrokerSession *session, const KafkaError *error,
							   Patience *patience);

/* The same with an ERROR where it is not. */
extern void ask_again(BrokerSession *session, const KafkaError *error,
					  const char *topic, Patience *patience);

/* All topics, or one; the caller frees it.  Fails only by ERROR. */
extern KafkaMetadata *broker_metadata(BrokerSession *session, const char *topic);

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

#endif
