/*
 * start_from.c
 *		The forms of start_from, and the offsets that they mean.
 *
 * 'earliest', 'latest', a time, '{"0":120}' or 'group:<id>'.  Offsets come from
 * the broker, or are compared with what it holds: one that a partition does not
 * hold is refused here, so that nobody starts with a gap.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "start_from.h"
#include "try_input.h"

static void
report_start_from(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid start_from"),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("Say 'earliest', 'latest', a time such as '2026-01-31 12:00:00+00', '{\"0\":120,\"1\":88}' or 'group:<id>'.")));
}

char *
start_from_group(const char *start_from)
{
	const char *id;

	while (isspace((unsigned char) *start_from))
		start_from++;
	if (pg_strncasecmp(start_from, "group:", 6) != 0)
		return NULL;
	id = start_from + 6;
	if (*id == '\0' || strlen(id) > 249)
		report_start_from("A consumer group's id has 1 to 249 bytes.");
	return pstrdup(id);
}

static const char *
skip_space(const char *at)
{
	while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')
		at++;
	return at;
}

/* A whole number of up to 18 digits; NULL where there is none. */
static const char *
scan_number(const char *at, int64 *number)
{
	int			digits = 0;

	for (*number = 0; *at >= '0' && *at <= '9'; at++, digits++)
		*number = *number * 10 + (*at - '0');
	return digits >= 1 && digits <= 18 ? at : NULL;
}

/* One member, "partition": offset; NULL where it is malformed. */
static const char *
scan_member(const char *at, int64 *part, int64 *offset)
{
	if (*at != '"' || (at = scan_number(at + 1, part)) == NULL || *at != '"')
		return NULL;
	at = skip_space(at + 1);
	if (*at != ':')
		return NULL;
	at = scan_number(skip_space(at + 1), offset);
	return at ? skip_space(at) : NULL;
}

static void
parse_json_offsets(const char *topic, const char *text, int n,
				   int64 *offsets, bool *named)
{
	const char *at = skip_space(text + 1);

	for (;;)
	{
		int64		part;
		int64		offset;

		at = scan_member(at, &part, &offset);
		if (at == NULL)
			report_start_from("The JSON form names partitions by number and offsets as whole numbers.");
		if (part >= n)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("start_from names partition " INT64_FORMAT ", which topic \"%s\" does not have",
							part, topic),
					 errdetail("The topic has partitions 0 to %d.", n - 1)));
		if (named[part])
			report_start_from("The JSON form names a partition twice.");
		named[part] = true;
		offsets[part] = offset;
		if (*at == '}')
			break;
		if (*at != ',')
			report_start_from("The JSON form ends with }.");
		at = skip_space(at + 1);
	}
	if (*skip_space(at + 1) != '\0')
		report_start_from("There is text after the JSON form.");
}

static int64
parse_start_time(char *text)
{
	Datum		value;
	int64		micros;
	int64		ms;

	if (strspn(text, "-0123456789") == strlen(text) && strchr(text + 1, '-') == NULL)
		report_start_from("A single number does not say which partition it is for: write JSON, such as '{\"0\":120}'.");
	if (!try_input(TIMESTAMPTZOID, text, &value) ||
		TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value)))
		report_start_from(NULL);
	micros = DatumGetTimestampTz(value) +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	ms = micros / 1000;
	if (micros > 0 && micros % 1000 != 0)
		ms++;
	return Max(ms, 0);
}

static void
check_in_range(const char *topic, int part, int64 offset, int64 low, int64 high)
{
	if (offset < low || offset > high)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition %d of topic \"%s\" does not hold offset " INT64_FORMAT,
						part, topic, offset),
				 errdetail("It holds offsets from " INT64_FORMAT ", and the next one is " INT64_FORMAT ".",
						   low, high)));
}

int64 *
broker_start_offsets(BrokerSession *session, const char *topic, int n,
					 const char *start_from, bool *named)
{
	int64	   *offsets = palloc(sizeof(int64) * n);
	int64	   *low = palloc(sizeof(int64) * n);
	int64	   *high = palloc(sizeof(int64) * n);
	bool	   *by_name = palloc0(sizeof(bool) * n);
	char	   *text = pstrdup(skip_space(start_from));
	bool		json = *text == '{';

	for (size_t len = strlen(text); len > 0 && isspace((unsigned char) text[len - 1]);)
		text[--len] = '\0';
	for (int part = 0; part < n; part++)
		offsets[part] = -1;
	if (json)
		parse_json_offsets(topic, text, n, offsets, by_name);
	else if (start_from_group(text))
		broker_group_offsets(session, topic, n, offsets);
	else if (pg_strcasecmp(text, "earliest") != 0 && pg_strcasecmp(text, "latest") != 0)
		broker_offsets_for_time(session, topic, n, parse_start_time(text), offsets);
	broker_offsets(session, topic, n, low, high);
	for (int part = 0; part < n; part++)
	{
		if (named)
			named[part] = !json || by_name[part];
		if (pg_strcasecmp(text, "latest") == 0)
			offsets[part] = high[part];
		else if (offsets[part] < 0 && !json)
			offsets[part] = low[part];
		else if (offsets[part] >= 0)
			check_in_range(topic, part, offsets[part], low[part], high[part]);
	}
	return offsets;
}

SubscriptionStart
find_start(const Subscription *sub, const char *start_from)
{
	BrokerSession *session;
	SubscriptionStart start;
	int64	   *low;
	int			i;

	session = broker_connect(sub->server, sub->owner, sub->options,
							 start_from_group(start_from));
	start.nparts = broker_partitions(session, sub->topic);
	start.named = palloc0(sizeof(bool) * Max(start.nparts, 1));
	start.offsets = broker_start_offsets(session, sub->topic, start.nparts, start_from,
										 start.named);
	low = palloc(sizeof(int64) * Max(start.nparts, 1));
	start.high = palloc(sizeof(int64) * Max(start.nparts, 1));
	broker_offsets(session, sub->topic, start.nparts, low, start.high);
	for (i = 0; i < start.nparts; i++)
	{
		if (!start.named[i])
			start.offsets[i] = low[i];
	}
	start.topic_id = broker_topic_id(session, sub->topic);
	broker_disconnect(session);
	return start;
}
