/*
 * kafka_question.c
 *		What a client can ask its brokers.
 *
 * Each question waits for its answer, at most as long as its caller says; one
 * without an answer can be asked again.  All run on the thread that opened the
 * client.
 */
#include "kafka_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monotonic.h"

#define POLL_MS		50

static int
compare_topics(const void *a, const void *b)
{
	return strcmp(((const KafkaTopic *) a)->name, ((const KafkaTopic *) b)->name);
}

static KafkaMetadata *
copy_metadata(const struct rd_kafka_metadata *from, char *cluster_id)
{
	KafkaMetadata *to = calloc(1, sizeof(KafkaMetadata));

	if (to == NULL)
		return NULL;
	to->cluster_id = cluster_id;
	to->topics = calloc(from->topic_cnt + 1, sizeof(KafkaTopic));
	to->brokers = calloc(from->broker_cnt + 1, sizeof(KafkaBroker));
	for (int i = 0; to->topics && i < from->topic_cnt; i++)
	{
		KafkaTopic *topic = &to->topics[to->ntopics++];

		topic->name = strdup(from->topics[i].topic);
		topic->error = classify(from->topics[i].err);
		topic->partitions = from->topics[i].err ? -1 : from->topics[i].partition_cnt;
	}
	for (int i = 0; to->brokers && i < from->broker_cnt; i++)
	{
		KafkaBroker *broker = &to->brokers[to->nbrokers++];

		broker->id = from->brokers[i].id;
		broker->host = strdup(from->brokers[i].host);
		broker->port = from->brokers[i].port;
	}
	if (to->ntopics > 0)
		qsort(to->topics, to->ntopics, sizeof(KafkaTopic), compare_topics);
	return to;
}

KafkaMetadata *
kafka_metadata(KafkaClient *client, const char *topic, int timeout_ms,
			   KafkaError *error)
{
	const struct rd_kafka_metadata *from = NULL;
	rd_kafka_topic_t *handle = NULL;
	rd_kafka_resp_err_t err;
	KafkaMetadata *metadata;

	if (topic)
	{
		handle = rd_kafka_topic_new(client->rk, topic, NULL);
		if (handle == NULL)
		{
			map_error(error, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, NULL);
			return NULL;
		}
	}
	err = rd_kafka_metadata(client->rk, topic == NULL, handle, &from, timeout_ms);
	if (handle)
		rd_kafka_topic_destroy(handle);
	if (err)
	{
		explain(client, err, error);
		return NULL;
	}
	metadata = copy_metadata(from, rd_kafka_clusterid(client->rk, 0));
	rd_kafka_metadata_destroy(from);
	answered(client, error);
	if (metadata == NULL)
		set_error(error, KAFKA_FATAL, "_CRIT_SYS_RESOURCE", "out of memory");
	return metadata;
}

void
kafka_free_metadata(KafkaMetadata *metadata)
{
	if (metadata == NULL)
		return;
	for (int i = 0; i < metadata->ntopics; i++)
		free(metadata->topics[i].name);
	for (int i = 0; i < metadata->nbrokers; i++)
		free(metadata->brokers[i].host);
	free(metadata->topics);
	free(metadata->brokers);
	free(metadata->cluster_id);
	free(metadata);
}

rd_kafka_topic_partition_list_t *
make_list(const char *topic, const KafkaPlace *places, int nplaces)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(nplaces);

	for (int i = 0; i < nplaces; i++)
		rd_kafka_topic_partition_list_add(list, topic, places[i].part)->offset =
			places[i].offset;
	return list;
}

/* Copy the answers back; false at the first partition with an error. */
static bool
take_list(KafkaClient *client, const char *topic,
		  rd_kafka_topic_partition_list_t *list,
		  KafkaPlace *places, int nplaces, KafkaError *error)
{
	for (int i = 0; i < nplaces; i++)
	{
		rd_kafka_topic_partition_t *found;

		found = rd_kafka_topic_partition_list_find(list, topic, places[i].part);
		if (found == NULL || found->err)
		{
			explain(client, found ? found->err : RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
					error);
			return false;
		}
		places[i].offset = found->offset >= 0 ? found->offset : -1;
	}
	return answered(client, error);
}

/* A question of the library about a list of partitions, whose offsets are the answer */
typedef rd_kafka_resp_err_t (*ListQuestion) (rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, int timeout_ms);

static bool
ask_offsets(KafkaClient *client, ListQuestion question, const char *topic,
			KafkaPlace *places, int nplaces, int timeout_ms, KafkaError *error)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	bool		ok = false;

	if (nplaces == 0)
		return answered(client, error);
	list = make_list(topic, places, nplaces);
	err = question(client->rk, list, timeout_ms);
	if (err)
		explain(client, err, error);
	else
		ok = take_list(client, topic, list, places, nplaces, error);
	rd_kafka_topic_partition_list_destroy(list);
	return ok;
}

bool
kafka_offsets_for_time(KafkaClient *client, const char *topic,
					   KafkaPlace *places, int nplaces,
					   int timeout_ms, KafkaError *error)
{
	return ask_offsets(client, rd_kafka_offsets_for_times, topic, places, nplaces, timeout_ms, error);
}

/*
 * A time of -2 means the first offset held and -1 the next one to be readable.
 * rd_kafka_query_watermark_offsets would do, but it does not keep its timeout
 * (librdkafka 2.0) and tells a lost connection as a bad message.
 */
bool
kafka_all_offsets(KafkaClient *client, const char *topic, int n,
				  int64_t *low, int64_t *high, int timeout_ms, KafkaError *error)
{
	KafkaPlace *places = malloc(sizeof(KafkaPlace) * (n > 0 ? n : 1));
	bool		ok = places != NULL;

	if (!ok)
		set_error(error, KAFKA_FATAL, "_CRIT_SYS_RESOURCE", "out of memory");
	for (int end = 0; ok && end <= 1; end++)
	{
		for (int i = 0; i < n; i++)
		{
			places[i].part = i;
			places[i].offset = end ? -1 : -2;
		}
		ok = kafka_offsets_for_time(client, topic, places, n, timeout_ms / 2, error);
		for (int i = 0; ok && i < n; i++)
			(end ? high : low)[i] = places[i].offset;
	}
	free(places);
	return ok;
}

bool
kafka_offsets(KafkaClient *client, const char *topic, int32_t part,
			  int64_t *low, int64_t *high, int timeout_ms, KafkaError *error)
{
	KafkaPlace	first = {part, -2};
	KafkaPlace	end = {part, -1};

	if (!kafka_offsets_for_time(client, topic, &first, 1, timeout_ms / 2, error) ||
		!kafka_offsets_for_time(client, topic, &end, 1, timeout_ms / 2, error))
		return false;
	*low = first.offset;
	*high = end.offset;
	return true;
}

bool
kafka_group_offsets(KafkaClient *client, const char *topic,
					KafkaPlace *places, int nplaces,
					int timeout_ms, KafkaError *error)
{
	return ask_offsets(client, rd_kafka_committed, topic, places, nplaces, timeout_ms, error);
}

#if RD_KAFKA_VERSION >= 0x020300ff

/* The id in an answer about one topic. */
static bool
read_topic_id(KafkaClient *client, const rd_kafka_event_t *event,
			  char *id, size_t id_size, KafkaError *error)
{
	const rd_kafka_DescribeTopics_result_t *result;
	const rd_kafka_TopicDescription_t **topics;
	rd_kafka_resp_err_t err = rd_kafka_event_error((rd_kafka_event_t *) event);
	size_t		ntopics = 0;

	if (err)
	{
		explain(client, err, error);
		return false;
	}
	result = rd_kafka_event_DescribeTopics_result((rd_kafka_event_t *) event);
	topics = rd_kafka_DescribeTopics_result_topics(result, &ntopics);
	if (ntopics != 1)
	{
		map_error(error, RD_KAFKA_RESP_ERR__BAD_MSG, NULL);
		return false;
	}
	err = rd_kafka_error_code(rd_kafka_TopicDescription_error(topics[0]));
	if (err)
	{
		explain(client, err, error);
		return false;
	}
	snprintf(id, id_size, "%s",
			 rd_kafka_Uuid_base64str(rd_kafka_TopicDescription_topic_id(topics[0])));
	return answered(client, error);
}

bool
kafka_topic_id(KafkaClient *client, const char *topic, char *id, size_t id_size,
			   int timeout_ms, KafkaError *error)
{
	const char *names[1] = {topic};
	rd_kafka_TopicCollection_t *topics;
	rd_kafka_AdminOptions_t *options;
	rd_kafka_queue_t *answers;
	rd_kafka_event_t *event;
	char		unused[256];
	bool		ok = false;

	topics = rd_kafka_TopicCollection_of_topic_names(names, 1);
	options = rd_kafka_AdminOptions_new(client->rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
	rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, unused, sizeof(unused));
	answers = rd_kafka_queue_new(client->rk);
	rd_kafka_DescribeTopics(client->rk, topics, options, answers);
	event = rd_kafka_queue_poll(answers, timeout_ms);
	if (event)
	{
		ok = read_topic_id(client, event, id, id_size, error);
		rd_kafka_event_destroy(event);
	}
	else
		explain(client, RD_KAFKA_RESP_ERR__TIMED_OUT, error);
	rd_kafka_queue_destroy(answers);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_TopicCollection_destroy(topics);
	return ok;
}

#else

bool
kafka_topic_id(KafkaClient *client, const char *topic, char *id, size_t id_size,
			   int timeout_ms, KafkaError *error)
{
	(void) client;
	(void) topic;
	(void) timeout_ms;
	if (id_size > 0)
		id[0] = '\0';
	clear_error(error);
	return false;
}

#endif

/* ------------------------------------------------------------------------
 * Reading one message again
 * ------------------------------------------------------------------------
 */

/* What the library gave us: is it the answer?  false: go on. */
static bool
is_answer(rd_kafka_message_t *from, const KafkaPlace *place, KafkaRecord *record,
		  rd_kafka_resp_err_t *err)
{
	rd_kafka_timestamp_type_t type;
	KafkaMessage message;

	if (from->err == RD_KAFKA_RESP_ERR__PARTITION_EOF && from->partition == place->part)
	{
		record->offset = -1;
		return true;
	}
	if (concerns_group(from->err))
		return false;
	if (from->err)
	{
		*err = from->err;
		return true;
	}
	if (from->partition != place->part || from->offset < place->offset)
		return false;
	memset(&message, 0, sizeof(message));
	message.key = from->key;
	message.key_len = from->key_len;
	message.value = from->payload;
	message.value_len = from->len;
	record->offset = from->offset;
	record->timestamp = rd_kafka_message_timestamp(from, &type);
	record->fingerprint = message_fingerprint(&message);
	return true;
}

/*
 * By rd_kafka_consumer_poll, which leaves out what belongs to an earlier
 * assignment; the batch call of librdkafka 2.0 would not.
 */
bool
kafka_reread(KafkaClient *client, const char *topic, const KafkaPlace *place,
			 KafkaRecord *record, int timeout_ms, KafkaError *error)
{
	rd_kafka_topic_partition_list_t *list = make_list(topic, place, 1);
	int64_t		until = monotonic_ms() + timeout_ms;
	rd_kafka_resp_err_t err = rd_kafka_assign(client->rk, list);
	bool		done = false;

	clear_error(&client->trouble);
	rd_kafka_topic_partition_list_destroy(list);
	while (err == RD_KAFKA_RESP_ERR_NO_ERROR && !done)
	{
		int64_t		left = until - monotonic_ms();
		rd_kafka_message_t *message;

		if (left <= 0)
			err = RD_KAFKA_RESP_ERR__TIMED_OUT;
		else if ((message = rd_kafka_consumer_poll(client->rk, left < POLL_MS ? (int) left : POLL_MS)) != NULL)
		{
			done = is_answer(message, place, record, &err);
			rd_kafka_message_destroy(message);
		}
		else
		{
			/* an answer that is too large ends the connection, and nothing comes */
			serve_main_queue(client);
			if (client->trouble.class == KAFKA_UNREADABLE)
				err = RD_KAFKA_RESP_ERR__BAD_MSG;
		}
	}
	rd_kafka_assign(client->rk, NULL);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return answered(client, error);
	explain(client, err, error);
	return false;
}
