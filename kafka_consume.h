/*
 * kafka_consume.h
 *		Messages from the partitions that a client was given.  See kafka_client.h.
 */
#ifndef KAPPA_KAFKA_CONSUME_H
#define KAPPA_KAFKA_CONSUME_H

#include "core/batch.h"
#include "kafka_client.h"

/* What else than a message a consumer can be told. */
typedef enum KafkaEventKind
{
	KAFKA_NO_EVENT = 0,
	KAFKA_END_OF_PARTITION,		/* place.offset = the next one to come */
	KAFKA_PARTITION_ERROR,		/* error and place are set */
	KAFKA_CLIENT_ERROR			/* error is set; concerns the whole handle */
} KafkaEventKind;

typedef struct KafkaEvent
{
	KafkaEventKind kind;
	KafkaPlace	place;
	KafkaError	error;
} KafkaEvent;

/* Start fetching.  Once in a client's life. */
extern bool kafka_assign(KafkaClient *client, const char *topic,
						 const KafkaPlace *places, int nplaces,
						 KafkaError *error);

/*
 * Take up to max waiting messages without blocking, in the order they came per
 * partition.  Stops early at anything else, which is then in event (kind
 * KAFKA_NO_EVENT: nothing).  Drained: 0 messages and no event.  Messages must
 * be given back with kafka_release, once each (it clears the handle).
 */
extern int	kafka_fill(KafkaClient *client, KafkaMessage *messages, int max,
					   KafkaEvent *event);
extern void kafka_release(KafkaMessage *message);

/* Header number i of a message: false when there are no more.  value NULL: null. */
extern bool kafka_header(const KafkaMessage *message, int i,
						 const char **name,
						 const char **value, size_t *value_len);

/* High and low watermark as of the last fetch; no broker call.  -1 unknown. */
extern void kafka_cached_offsets(KafkaClient *client, const char *topic, int32_t part,
								 int64_t *low, int64_t *high);

/* Commit to the consumer group, asynchronously; failures are only logged. */
extern void kafka_commit(KafkaClient *client, const char *topic,
						 const KafkaPlace *places, int nplaces);

#endif
