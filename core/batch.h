/*
 * core/batch.h
 *		One message as it came from Kafka, without any library's types.
 *
 * The bytes belong to whoever filled the message: the Kafka library (handle
 * is set, kafka_release gives them back) or the caller's own memory (handle is
 * NULL).  Nothing here allocates.
 */
#ifndef KAPPA_CORE_BATCH_H
#define KAPPA_CORE_BATCH_H

#include <stddef.h>
#include <stdint.h>

typedef struct KafkaMessage
{
	int32_t		part;
	int64_t		offset;
	int64_t		timestamp;		/* ms since the Unix epoch, -1 if unknown */
	const char *key;			/* NULL: no key */
	size_t		key_len;
	const char *value;			/* NULL: a tombstone */
	size_t		value_len;
	void	   *handle;			/* the library's message, NULL if not its */
	const void *headers;		/* where handle is NULL: the caller's own form of them */
} KafkaMessage;

/*
 * A 64-bit fingerprint of one message's key and value (FNV-1a over length and
 * bytes), stored with a position to recognise the topic again.
 */
extern uint64_t message_fingerprint(const KafkaMessage *message);

#endif
