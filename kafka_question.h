/*
 * kafka_question.h
 *		What a client can ask its brokers.  See kafka_client.h.
 */
#ifndef KAPPA_KAFKA_QUESTION_H
#define KAPPA_KAFKA_QUESTION_H

#include "kafka_client.h"

typedef struct KafkaTopic
{
	char	   *name;
	int			partitions;		/* -1: the broker gave an error for it */
	KafkaErrorClass error;
} KafkaTopic;

typedef struct KafkaBroker
{
	int32_t		id;
	char	   *host;
	int			port;
} KafkaBroker;

typedef struct KafkaMetadata
{
	int			ntopics;
	KafkaTopic *topics;			/* sorted by name */
	int			nbrokers;
	KafkaBroker *brokers;
	char	   *cluster_id;		/* NULL if the broker is too old */
} KafkaMetadata;

/* topic NULL: all topics.  Free with kafka_free_metadata. */
extern KafkaMetadata *kafka_metadata(KafkaClient *client, const char *topic,
									 int timeout_ms, KafkaError *error);
extern void kafka_free_metadata(KafkaMetadata *metadata);

/* First offset held, and the next one to be readable (read_committed). */
extern bool kafka_offsets(KafkaClient *client, const char *topic, int32_t part,
						  int64_t *low, int64_t *high,
						  int timeout_ms, KafkaError *error);

/* The same for partitions 0 to n - 1 in two questions. */
extern bool kafka_all_offsets(KafkaClient *client, const char *topic, int n,
							  int64_t *low, int64_t *high,
							  int timeout_ms, KafkaError *error);

/* In: offset = ms since the epoch.  Out: first offset at or after it, -1 none. */
extern bool kafka_offsets_for_time(KafkaClient *client, const char *topic,
								   KafkaPlace *places, int nplaces,
								   int timeout_ms, KafkaError *error);

/* Positions committed by the group that the client was opened with; -1 none. */
extern bool kafka_group_offsets(KafkaClient *client, const char *topic,
								KafkaPlace *places, int nplaces,
								int timeout_ms, KafkaError *error);

/*
 * The topic's id as text (base64), by the broker.  false with KAFKA_OK: this
 * library cannot tell (older than 2.3).
 */
extern bool kafka_topic_id(KafkaClient *client, const char *topic,
						   char *id, size_t id_size,
						   int timeout_ms, KafkaError *error);

/*
 * Read the message at place, or the first one behind it, and give its offset,
 * timestamp and fingerprint; offset -1: there is none up to the end.  Through a
 * client that has no partitions of its own: this assigns one, and takes it back.
 */
typedef struct KafkaRecord
{
	int64_t		offset;
	int64_t		timestamp;
	uint64_t	fingerprint;
} KafkaRecord;

extern bool kafka_reread(KafkaClient *client, const char *topic, const KafkaPlace *place,
						 KafkaRecord *record, int timeout_ms, KafkaError *error);

#endif
