/*
 * peek.c
 *		kappa.topics, kappa.topic_offsets and kappa.peek: what a Kafka server
 *		holds, shown and not stored.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "broker.h"
#include "broker_options.h"
#include "compat.h"
#include "position.h"
#include "sample.h"

PG_FUNCTION_INFO_V1(kappa_topics);
PG_FUNCTION_INFO_V1(kappa_topic_offsets);
PG_FUNCTION_INFO_V1(kappa_peek);

static void
put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
kappa_topics(PG_FUNCTION_ARGS)
{
	BrokerSession *session;
	KafkaMetadata *metadata;

	InitMaterializedSRF(fcinfo, 0);
	session = broker_connect_small(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL, NULL);
	metadata = broker_metadata(session, NULL);
	for (int i = 0; i < metadata->ntopics; i++)
	{
		KafkaTopic *topic = &metadata->topics[i];
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = CStringGetTextDatum(topic->name);
		values[1] = Int32GetDatum(topic->partitions);
		nulls[1] = topic->partitions < 0;
		values[2] = BoolGetDatum(strncmp(topic->name, "__", 2) == 0);
		put_row(fcinfo, values, nulls);
	}
	kafka_free_metadata(metadata);
	broker_disconnect(session);
	return (Datum) 0;
}

Datum
kappa_topic_offsets(PG_FUNCTION_ARGS)
{
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	BrokerSession *session;
	int64	   *low;
	int64	   *high;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	session = broker_connect_small(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL, NULL);
	n = broker_partitions(session, topic);
	low = palloc(sizeof(int64) * n);
	high = palloc(sizeof(int64) * n);
	broker_offsets(session, topic, n, low, high);
	broker_disconnect(session);
	for (int part = 0; part < n; part++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = Int32GetDatum(part);
		values[1] = Int64GetDatum(low[part]);
		values[2] = Int64GetDatum(high[part]);
		put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

static void
put_sample(FunctionCallInfo fcinfo, const Sample *sample)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = Int32GetDatum(sample->part);
	values[1] = Int64GetDatum(sample->offset);
	values[2] = TimestampTzGetDatum(kafka_time(sample->timestamp));
	nulls[2] = sample->timestamp < 0;
	values[3] = PointerGetDatum(sample->key);
	nulls[3] = sample->key == NULL;
	values[4] = PointerGetDatum(sample->value);
	nulls[4] = sample->value == NULL;
	values[5] = PointerGetDatum(sample->headers);
	nulls[5] = sample->headers == NULL;
	put_row(fcinfo, values, nulls);
}

Datum
kappa_peek(PG_FUNCTION_ARGS)
{
	char	   *server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			max = PG_GETARG_INT32(2);
	char	   *start_from = text_to_cstring(PG_GETARG_TEXT_PP(3));
	Jsonb	   *options = PG_GETARG_JSONB_P(4);
	Sample	  **samples;
	int			count;

	check_sample_count(max);
	check_subscription_options(options, NULL);
	InitMaterializedSRF(fcinfo, 0);
	if (pg_strcasecmp(start_from, "latest") == 0)
		samples = last_samples(server, topic, max, options, &count);
	else
		samples = first_samples(server, topic, max, start_from, options, &count);
	for (int i = 0; i < count; i++)
		put_sample(fcinfo, samples[i]);
	return (Datum) 0;
}
