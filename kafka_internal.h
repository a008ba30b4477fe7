/*
 * kafka_internal.h
 *		What the files that use librdkafka share; for no other file.
 *
 *	kafka_client.c		open and close, log lines
 *	kafka_error.c		what the library's errors mean
 *	kafka_question.c	what brokers are asked
 *	kafka_consume.c		messages
 */
#ifndef KAPPA_KAFKA_INTERNAL_H
#define KAPPA_KAFKA_INTERNAL_H

/* newer releases of the header have a harmless "const int" result */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <librdkafka/rdkafka.h>
#pragma GCC diagnostic pop

#include "kafka_consume.h"
#include "kafka_question.h"

#define CARRY_MAX		4096	/* messages taken from the library at once */
#define POOL_BLOCK		1024	/* nodes in a block of the pool */
#define PENDING_MAX		8		/* errors kept for kafka_fill */

/* A message that is handed out, or a free place for one. */
typedef struct MessageNode
{
	rd_kafka_message_t *message;	/* NULL: free */
	KafkaClient *client;
	struct MessageNode *next_free;
} MessageNode;

typedef struct PoolBlock
{
	struct PoolBlock *next;
	MessageNode nodes[POOL_BLOCK];
} PoolBlock;

struct KafkaClient
{
	rd_kafka_t *rk;
	rd_kafka_queue_t *consumer_queue;
	rd_kafka_queue_t *main_queue;
	rd_kafka_queue_t *log_queue;
	int			pipe[2];		/* read end, write end */
	bool		assigned;
	char	   *allowed;		/* NULL: any address */
	int			refused;		/* atomic: an address was not allowed */

	bool		debugging;		/* the caller wants the library's debug lines */
	bool		fetch_failed;	/* a fetch was answered with an error */

	/* only for a library that waits a second once its queue is full */
	rd_kafka_topic_partition_list_t *to_wake;	/* NULL: not needed */
	bool		was_busy;		/* the last refill was a full one */
	int64_t		next_wake;		/* ms, monotonic */

	rd_kafka_message_t *carry[CARRY_MAX];
	int			carry_at;
	int			carry_count;

	PoolBlock  *blocks;
	MessageNode *free_nodes;

	KafkaError	pending[PENDING_MAX];
	int			npending;
	KafkaError	trouble;		/* most telling error since the last answer */
};

/* short names, for these files alone */
#pragma GCC visibility push(hidden)

/* kafka_error.c */
extern void set_error(KafkaError *error, KafkaErrorClass class, const char *name,
					  const char *text);
extern void clear_error(KafkaError *error);
extern KafkaErrorClass classify(rd_kafka_resp_err_t err);

/* said: the library's own sentence, NULL where there is none */
extern void map_error(KafkaError *error, rd_kafka_resp_err_t err, const char *said);

/* Take what waits on the main queue. */
extern void serve_main_queue(KafkaClient *client);

/* Why a question was not answered; and that it was (true). */
extern void explain(KafkaClient *client, rd_kafka_resp_err_t err, KafkaError *error);
extern bool answered(KafkaClient *client, KafkaError *error);

/* kafka_question.c: the places as the library's list, for the caller to destroy */
extern rd_kafka_topic_partition_list_t *make_list(const char *topic,
												  const KafkaPlace *places, int nplaces);

/* kafka_consume.c: give back every message, handed out or not */
extern void release_all(KafkaClient *client);

/* kafka_consume.c: is the error about the consumer group, which no message depends on? */
extern bool concerns_group(rd_kafka_resp_err_t err);

#pragma GCC visibility pop

#endif
