/*
 * kafka_consume.c
 *		Messages: from the library's queue to the caller and back.
 *
 * A message that is handed out is a node of the client's pool.  It holds
 * references into the handle that would keep it from ending: release_all, when
 * the client is closed, gives back whatever was not released, so that an error
 * between kafka_fill and kafka_release costs nothing.
 *
 * Wake-ups.  A queue writes one byte into the pipe, and none again before it is
 * served: so kafka_fill empties the pipe first and then serves both queues until
 * they have nothing left; only then may the caller wait.
 *
 * Invariant.  No pause, seek or second assignment in a client's life: under that
 * rule the batch calls of librdkafka 2.0 neither lose nor repeat.
 */
#include "kafka_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monotonic.h"

#define FETCH_BACKOFF_VERSION 0x020200ff	/* has fetch.queue.backoff.ms */
#define WAKE_EVERY_MS	20

bool
kafka_assign(KafkaClient *client, const char *topic, const KafkaPlace *places,
			 int nplaces, KafkaError *error)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;

	if (client->assigned)
	{
		set_error(error, KAFKA_OTHER, "_STATE", "this client has its partitions already");
		return false;
	}
	list = make_list(topic, places, nplaces);
	err = rd_kafka_assign(client->rk, list);
	if (rd_kafka_version() < FETCH_BACKOFF_VERSION)
		client->to_wake = list;
	else
		rd_kafka_topic_partition_list_destroy(list);
	if (err)
	{
		explain(client, err, error);
		return false;
	}
	client->assigned = true;
	clear_error(error);
	return true;
}

static MessageNode *
take_node(KafkaClient *client)
{
	MessageNode *node = client->free_nodes;

	if (node == NULL)
	{
		PoolBlock  *block = calloc(1, sizeof(PoolBlock));

		if (block == NULL)
			return NULL;
		block->next = client->blocks;
		client->blocks = block;
		for (int i = 0; i < POOL_BLOCK; i++)
		{
			block->nodes[i].client = client;
			block->nodes[i].next_free = client->free_nodes;
			client->free_nodes = &block->nodes[i];
		}
		node = client->free_nodes;
	}
	client->free_nodes = node->next_free;
	return node;
}

static void
hand_out(MessageNode *node, rd_kafka_message_t *from, KafkaMessage *to)
{
	rd_kafka_timestamp_type_t type;

	node->message = from;
	to->part = from->partition;
	to->offset = from->offset;
	to->timestamp = rd_kafka_message_timestamp(from, &type);
	to->key = from->key;
	to->key_len = from->key_len;
	to->value = from->payload;
	to->value_len = from->len;
	to->handle = node;
}

/*
 * Is the error about the consumer group?  No message depends on it: partitions are
 * assigned by us, and what is committed to it is only for Kafka's own tools, so a
 * user needs no right to it.  A question about its offsets has the error in its answer.
 */
bool
concerns_group(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
		err == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
		err == RD_KAFKA_RESP_ERR_NOT_COORDINATOR ||
		err == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
}

/* What is no message becomes an event; false where it means nothing to us. */
static bool
make_event(rd_kafka_message_t *from, KafkaEvent *event)
{
	bool		meant = !concerns_group(from->err);

	event->place.part = from->partition;
	event->place.offset = from->offset;
	if (from->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		event->kind = KAFKA_END_OF_PARTITION;
	else if (meant)
	{
		event->kind = from->rkt ? KAFKA_PARTITION_ERROR : KAFKA_CLIENT_ERROR;
		map_error(&event->error, from->err, from->payload);
	}
	rd_kafka_message_destroy(from);
	return meant;
}

static void
empty_pipe(KafkaClient *client)
{
	char		bytes[64];

	while (read(client->pipe[0], bytes, sizeof(bytes)) == sizeof(bytes))
		;
}

/*
 * A library older than 2.2 that has found its queue full looks at it again only
 * after a second, or when one of its broker threads has something else to do.
 * So give them something: a question of each partition's leader whose answer
 * nobody waits for.  At most 50 a second at full speed, none when caught up.
 */
static void
wake_fetchers(KafkaClient *client)
{
	int64_t		now;

	if (client->to_wake == NULL)
		return;
	now = monotonic_ms();
	if (now < client->next_wake)
		return;
	client->next_wake = now + WAKE_EVERY_MS;
	for (int i = 0; i < client->to_wake->cnt; i++)
		client->to_wake->elems[i].offset = RD_KAFKA_OFFSET_END;
	(void) rd_kafka_offsets_for_times(client->rk, client->to_wake, 0);
}

/* Take the next messages from the library; false where there are none. */
static bool
refill_carry(KafkaClient *client)
{
	ssize_t		n;
	bool		busy;

	n = rd_kafka_consume_batch_queue(client->consumer_queue, 0,
									 client->carry, CARRY_MAX);
	client->carry_at = 0;
	client->carry_count = n > 0 ? (int) n : 0;
	busy = n == CARRY_MAX;
	if (busy || client->was_busy)
		wake_fetchers(client);
	client->was_busy = busy;
	return n > 0;
}

/* Errors of the handle come before messages: they may say why none come. */
static bool
next_client_error(KafkaClient *client, KafkaEvent *event)
{
	char		unused[256];

	empty_pipe(client);
	serve_main_queue(client);
	if (client->npending == 0)
		return false;
	event->kind = KAFKA_CLIENT_ERROR;
	event->error = client->pending[0];
	client->npending--;
	memmove(client->pending, client->pending + 1,
			sizeof(KafkaError) * client->npending);
	if (rd_kafka_fatal_error(client->rk, unused, sizeof(unused)))
		event->error.class = KAFKA_FATAL;
	return true;
}

int
kafka_fill(KafkaClient *client, KafkaMessage *messages, int max, KafkaEvent *event)
{
	int			n = 0;

	memset(event, 0, sizeof(*event));
	if (next_client_error(client, event))
		return 0;
	while (n < max)
	{
		rd_kafka_message_t *next;

		if (client->carry_at == client->carry_count && !refill_carry(client))
			break;
		next = client->carry[client->carry_at];
		if (next->err)
		{
			client->carry_at++;
			if (make_event(next, event))
				break;
		}
		else
		{
			MessageNode *node = take_node(client);

			if (node == NULL)
			{
				event->kind = KAFKA_CLIENT_ERROR;
				set_error(&event->error, KAFKA_FATAL, "_CRIT_SYS_RESOURCE",
						  "out of memory");
				break;
			}
			client->carry_at++;
			hand_out(node, next, &messages[n++]);
		}
	}
	return n;
}

void
kafka_release(KafkaMessage *message)
{
	MessageNode *node = message->handle;

	message->handle = NULL;
	message->key = NULL;
	message->value = NULL;
	if (node == NULL || node->message == NULL)
		return;
	rd_kafka_message_destroy(node->message);
	node->message = NULL;
	node->next_free = node->client->free_nodes;
	node->client->free_nodes = node;
}

bool
kafka_header(const KafkaMessage *message, int i, const char **name,
			 const char **value, size_t *value_len)
{
	MessageNode *node = message->handle;
	rd_kafka_headers_t *headers;
	const void *bytes;

	if (node == NULL || node->message == NULL)
		return false;
	if (rd_kafka_message_headers(node->message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	if (rd_kafka_header_get_all(headers, i, name, &bytes, value_len)
		!= RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	*value = bytes;
	return true;
}

void
kafka_cached_offsets(KafkaClient *client, const char *topic, int32_t part,
					 int64_t *low, int64_t *high)
{
	*low = *high = -1;
	if (rd_kafka_get_watermark_offsets(client->rk, topic, part, low, high)
		!= RD_KAFKA_RESP_ERR_NO_ERROR)
		*low = *high = -1;
	if (*low < 0)
		*low = -1;
	if (*high < 0)
		*high = -1;
}

void
kafka_commit(KafkaClient *client, const char *topic, const KafkaPlace *places,
			 int nplaces)
{
	rd_kafka_topic_partition_list_t *list;

	if (nplaces == 0)
		return;
	list = make_list(topic, places, nplaces);
	rd_kafka_commit(client->rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Give back every message, handed out or not: each holds the handle. */
void
release_all(KafkaClient *client)
{
	while (client->carry_at < client->carry_count)
		rd_kafka_message_destroy(client->carry[client->carry_at++]);
	for (PoolBlock *block = client->blocks; block; block = block->next)
	{
		for (int i = 0; i < POOL_BLOCK; i++)
		{
			if (block->nodes[i].message)
				rd_kafka_message_destroy(block->nodes[i].message);
			block->nodes[i].message = NULL;
		}
	}
}
