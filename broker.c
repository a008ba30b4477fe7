/*
 * broker.c
 *		Questions to a Kafka server from a session: kappa.check_server, topics,
 *		topic_offsets, peek and infer_table, and the same for other files.
 *
 * A session of ours owns one client for one call.  It is opened with the rights
 * of a role (USAGE on the foreign server, its user mapping), nothing is ever
 * committed with it, and a callback of its memory context closes it, so that an
 * ERROR or a cancelled query leaves no thread behind.
 *
 * Waiting.  No call into the library takes longer than STEP_MS; between two of
 * them interrupts are served.  A question is asked again while there is hope:
 * 30 s where no answer comes, 10 s where the library says that no broker can be
 * reached, not at all where the broker said no.
 *
 * What a user sees of a failure is the server's name and a fixed sentence; the
 * library's own lines, which name addresses, go to the server's log only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/heap.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "broker.h"
#include "broker_options.h"
#include "compat.h"

#define STEP_MS			500		/* longest call into the library */
#define ANSWER_MS		30000	/* patience with a silent broker */
#define DOWN_MS			10000	/* patience where none can be reached */
#define CHECK_MS		10000	/* check_server's with a silent broker */
#define CHECK_DOWN_MS	3000	/* and where its port is known to be open */
#define PROBE_MS		5000
#define CLOSE_MS		5000
#define LOG_LINES_MAX	20		/* of the library, a session */
#define PEEK_SLACK		32		/* offsets that may hold no message */

PG_FUNCTION_INFO_V1(kappa_check_server);
PG_FUNCTION_INFO_V1(kappa_topics);
PG_FUNCTION_INFO_V1(kappa_topic_offsets);
PG_FUNCTION_INFO_V1(kappa_peek);
PG_FUNCTION_INFO_V1(kappa_infer_table);

/* How long a question has been open. */
typedef struct Patience
{
	int64		start;			/* ms */
	int64		down_since;		/* 0: not known to be down */
	int			answer_ms;
	int			down_ms;
} Patience;

/* ------------------------------------------------------------------------
 * Patience
 * ------------------------------------------------------------------------
 */

static int64
now_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

static void
begin_patience(Patience *patience, int answer_ms)
{
	patience->start = now_ms();
	patience->down_since = 0;
	patience->answer_ms = answer_ms;
	patience->down_ms = DOWN_MS;
}

/* Sleep a little, but wake for signals. */
static void
pause_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* The library's lines go to the server's log, a bounded number of them. */
static void
forward_logs(BrokerSession *session)
{
	char		line[512];
	int			level;

	while (kafka_next_log(session->client, &level, line, sizeof(line)))
	{
		if (level <= 4 && session->log_lines++ < LOG_LINES_MAX)
			ereport(LOG_SERVER_ONLY,
					(errmsg("Kafka server \"%s\": %s", session->server, line)));
	}
}

/* Is it worth asking again after this failure?  Waits where it is. */
static bool
worth_asking_again(BrokerSession *session, const KafkaError *error,
				   Patience *patience)
{
	int64		now = now_ms();

	CHECK_FOR_INTERRUPTS();
	forward_logs(session);
	if (error->class != KAFKA_TIMED_OUT && error->class != KAFKA_DISCONNECTED)
		return false;
	if (now - patience->start >= patience->answer_ms)
		return false;
	if (error->class == KAFKA_TIMED_OUT)
		return true;
	if (patience->down_since == 0)
		patience->down_since = now;
	if (now - patience->down_since >= patience->down_ms)
		return false;
	pause_ms(100);
	return true;
}

static void
ask_again(BrokerSession *session, const KafkaError *error, const char *topic,
		  Patience *patience)
{
	if (!worth_asking_again(session, error, patience))
		report_kafka_error(ERROR, error, session->server, topic);
}

/* ------------------------------------------------------------------------
 * Sessions
 * ------------------------------------------------------------------------
 */

static void
close_session(void *arg)
{
	BrokerSession *session = arg;
	KafkaClient *client = session->client;

	session->client = NULL;
	if (client)
		kafka_close(client, CLOSE_MS);
}

static BrokerSession *
open_session(const char *server, BrokerSettings *settings, const char *group,
			 KafkaError *error)
{
	BrokerSession *session = palloc0(sizeof(BrokerSession));

	session->server = pstrdup(server);
	session->callback.func = close_session;
	session->callback.arg = session;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &session->callback);
	session->client = kafka_open(settings->settings, settings->nsettings, group, error);
	return session;
}

/* Settings for a look of a few messages, before those that the user gave. */
static BrokerSettings *
small_settings(BrokerSettings *given)
{
	static const KafkaSetting small[] = {
		{"queued.min.messages", "1000"},
		{"queued.max.messages.kbytes", "8192"},
	};
	BrokerSettings *settings = palloc(sizeof(BrokerSettings));

	settings->nsettings = given->nsettings + lengthof(small);
	settings->settings = palloc(sizeof(KafkaSetting) * settings->nsettings);
	memcpy(settings->settings, small, sizeof(small));
	memcpy(settings->settings + lengthof(small), given->settings,
		   sizeof(KafkaSetting) * given->nsettings);
	return settings;
}

BrokerSession *
broker_connect(const char *server, Oid userid, Jsonb *options, const char *group)
{
	KafkaError	error;
	BrokerSession *session;

	session = open_session(server, broker_settings(server, userid, options), group, &error);
	if (session->client == NULL)
		report_kafka_error(ERROR, &error, server, NULL);
	return session;
}

static BrokerSession *
connect_small(const char *server, Jsonb *options, const char *group)
{
	BrokerSettings *settings = broker_settings(server, GetUserId(), options);
	KafkaError	error;
	BrokerSession *session;

	session = open_session(server, small_settings(settings), group, &error);
	if (session->client == NULL)
		report_kafka_error(ERROR, &error, server, NULL);
	return session;
}

void
broker_disconnect(BrokerSession *session)
{
	if (session->client)
		forward_logs(session);
	close_session(session);
}

/* All topics, or one; the caller frees it.  Fails only by ERROR. */
static KafkaMetadata *
ask_metadata(BrokerSession *session, const char *topic)
{
	Patience	patience;
	KafkaError	error;
	KafkaMetadata *metadata;

	begin_patience(&patience, ANSWER_MS);
	while ((metadata = kafka_metadata(session->client, topic, STEP_MS, &error)) == NULL)
		ask_again(session, &error, topic, &patience);
	return metadata;
}

/* The topic whose name is nearest; NULL where none is near. */
static char *
nearest_topic(BrokerSession *session, const char *topic)
{
	KafkaMetadata *all = ask_metadata(session, NULL);
	size_t		len = strlen(topic);
	int			best_distance = Max(2, (int) len / 3) + 1;
	char	   *best = NULL;

	for (int i = 0; len < 250 && i < all->ntopics; i++)
	{
		const char *name = all->topics[i].name;
		int			distance;

		if (strlen(name) > 249)
			continue;
		distance = varstr_levenshtein_less_equal(topic, len, name, strlen(name),
												 1, 1, 1, best_distance, true);
		if (distance < best_distance)
		{
			best_distance = distance;
			best = pstrdup(name);
		}
	}
	kafka_free_metadata(all);
	return best;
}

static void
report_unknown_topic(BrokerSession *session, const char *topic)
{
	char	   *near_name = nearest_topic(session, topic);

	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("topic \"%s\" does not exist on Kafka server \"%s\"",
					topic, session->server),
			 near_name ?
			 errhint("Perhaps you meant the topic \"%s\".", near_name) :
			 errhint("SELECT * FROM kappa.topics(%s) lists the topics.",
					 quote_literal_cstr(session->server))));
}

int
broker_partitions(BrokerSession *session, const char *topic)
{
	Patience	patience;

	if (*topic == '\0')
		report_unknown_topic(session, topic);
	begin_patience(&patience, ANSWER_MS);
	for (;;)
	{
		KafkaMetadata *metadata = ask_metadata(session, topic);
		KafkaError	error = {KAFKA_UNKNOWN_TOPIC};
		int			partitions = -1;

		if (metadata->ntopics == 1)
		{
			partitions = metadata->topics[0].partitions;
			error.class = metadata->topics[0].error;
		}
		kafka_free_metadata(metadata);
		if (partitions > 0)
			return partitions;
		if (error.class == KAFKA_UNKNOWN_TOPIC)
			report_unknown_topic(session, topic);
		if (error.class == KAFKA_OK)
			error.class = KAFKA_DISCONNECTED;	/* made a moment ago */
		ask_again(session, &error, topic, &patience);
	}
}

void
broker_offsets(BrokerSession *session, const char *topic, int n,
			   int64 *low, int64 *high)
{
	Patience	patience;
	KafkaError	error;

	begin_patience(&patience, ANSWER_MS);
	while (!kafka_all_offsets(session->client, topic, n, low, high, STEP_MS, &error))
		ask_again(session, &error, topic, &patience);
}

static KafkaPlace *
make_places(int n, int64 offset)
{
	KafkaPlace *places = palloc(sizeof(KafkaPlace) * Max(n, 1));

	for (int part = 0; part < n; part++)
	{
		places[part].part = part;
		places[part].offset = offset;
	}
	return places;
}

void
broker_offsets_for_time(BrokerSession *session, const char *topic, int n,
						int64 ms, int64 *offsets)
{
	int64	   *low = palloc(sizeof(int64) * n);
	int64	   *high = palloc(sizeof(int64) * n);
	KafkaPlace *places = make_places(n, Max(ms, 0));
	Patience	patience;
	KafkaError	error;

	begin_patience(&patience, ANSWER_MS);
	while (!kafka_offsets_for_time(session->client, topic, places, n, STEP_MS, &error))
	{
		ask_again(session, &error, topic, &patience);
		places = make_places(n, Max(ms, 0));
	}
	broker_offsets(session, topic, n, low, high);
	for (int part = 0; part < n; part++)
		offsets[part] = places[part].offset >= 0 ? places[part].offset : high[part];
}

void
broker_group_offsets(BrokerSession *session, const char *topic, int n,
					 int64 *offsets)
{
	KafkaPlace *places = make_places(n, -1);
	Patience	patience;
	KafkaError	error;

	begin_patience(&patience, ANSWER_MS);
	while (!kafka_group_offsets(session->client, topic, places, n, STEP_MS, &error))
		ask_again(session, &error, topic, &patience);
	for (int part = 0; part < n; part++)
		offsets[part] = places[part].offset;
}

char *
broker_topic_id(BrokerSession *session, const char *topic)
{
	char		id[64];
	Patience	patience;
	KafkaError	error;

	begin_patience(&patience, ANSWER_MS);
	while (!kafka_topic_id(session->client, topic, id, sizeof(id), STEP_MS, &error))
	{
		if (error.class == KAFKA_OK)
			return NULL;
		ask_again(session, &error, topic, &patience);
	}
	return pstrdup(id);
}

int
broker_fill(BrokerSession *session, KafkaMessage *messages, int max,
			KafkaEvent *event, int timeout_ms)
{
	int64		end = now_ms() + timeout_ms;

	for (;;)
	{
		int			n = kafka_fill(session->client, messages, max, event);
		int64		left = end - now_ms();

		if (n > 0 || event->kind != KAFKA_NO_EVENT || left <= 0)
			return n;
		forward_logs(session);
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE |
								 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 kafka_wake_fd(session->client),
								 Min(left, STEP_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ------------------------------------------------------------------------
 * Headers
 * ------------------------------------------------------------------------
 */

/* Can the bytes be shown as text in this database? */
static bool
is_text(const char *bytes, size_t len)
{
	if (memchr(bytes, '\0', len) != NULL)
		return false;
	if (GetDatabaseEncoding() == PG_UTF8)
		return pg_verify_mbstr(PG_UTF8, bytes, len, true);
	for (size_t i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(bytes[i]))
			return false;
	}
	return true;
}

static void
set_text(JsonbValue *to, const char *bytes, size_t len)
{
	to->type = jbvString;
	if (is_text(bytes, len))
	{
		to->val.string.val = (char *) bytes;
		to->val.string.len = len;
		return;
	}
	to->val.string.val = palloc(len * 2 + 3);
	memcpy(to->val.string.val, "\\x", 2);
	to->val.string.len = 2 + hex_encode(bytes, len, to->val.string.val + 2);
}

typedef struct Header
{
	JsonbValue	name;
	JsonbValue	value;
	int			number;
} Header;

static int
compare_headers(const void *a, const void *b)
{
	const Header *one = a;
	const Header *two = b;
	int			diff = one->name.val.string.len - two->name.val.string.len;

	if (diff == 0)
		diff = memcmp(one->name.val.string.val, two->name.val.string.val,
					  one->name.val.string.len);
	return diff != 0 ? diff : one->number - two->number;
}

static bool
same_header(const Header *one, const Header *two)
{
	return one->name.val.string.len == two->name.val.string.len &&
		memcmp(one->name.val.string.val, two->name.val.string.val,
			   one->name.val.string.len) == 0;
}

/* All headers of a message, those of one name side by side in their order. */
static Header *
read_headers(const KafkaMessage *message, int *n)
{
	int			allocated = 16;
	Header	   *headers = palloc(sizeof(Header) * allocated);
	const char *name;
	const char *value;
	size_t		len;

	for (*n = 0; kafka_header(message, *n, &name, &value, &len); (*n)++)
	{
		Header	   *header;

		if (*n == allocated)
		{
			allocated *= 2;
			headers = repalloc(headers, sizeof(Header) * allocated);
		}
		header = &headers[*n];
		set_text(&header->name, name, strlen(name));
		if (value)
			set_text(&header->value, value, len);
		else
			header->value.type = jbvNull;
		header->number = *n;
	}
	qsort(headers, *n, sizeof(Header), compare_headers);
	return headers;
}

Jsonb *
message_headers(const KafkaMessage *message)
{
	JsonbParseState *state = NULL;
	int			n;
	Header	   *headers;

	/* a dead letter's are jsonb already */
	if (message->handle == NULL)
		return (Jsonb *) message->headers;
	headers = read_headers(message, &n);
	if (n == 0)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n;)
	{
		int			end = i + 1;

		while (end < n && same_header(&headers[i], &headers[end]))
			end++;
		pushJsonbValue(&state, WJB_KEY, &headers[i].name);
		if (end == i + 1)
			pushJsonbValue(&state, WJB_VALUE, &headers[i++].value);
		else
		{
			pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
			while (i < end)
				pushJsonbValue(&state, WJB_ELEM, &headers[i++].value);
			pushJsonbValue(&state, WJB_END_ARRAY, NULL);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* ------------------------------------------------------------------------
 * Reading text as a type, without an ERROR where it is none
 * ------------------------------------------------------------------------
 */

/*
 * Input functions of built-in types only allocate memory, so an error of
 * theirs about the text (class 22) can be dropped without a subtransaction.
 */
static bool
try_input(Oid type, char *text, Datum *value)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = true;
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(type, &input, &ioparam);
	PG_TRY();
	{
		*value = OidInputFunctionCall(input, text, ioparam, -1);
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		if (ERRCODE_TO_CATEGORY(code) != MAKE_SQLSTATE('2', '2', '0', '0', '0') &&
			code != ERRCODE_STATEMENT_TOO_COMPLEX &&
			code != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

/* ------------------------------------------------------------------------
 * start_from
 * ------------------------------------------------------------------------
 */

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

/* ------------------------------------------------------------------------
 * Samples: copies of messages, for peek and infer_table
 * ------------------------------------------------------------------------
 */

typedef struct Sample
{
	int32		part;
	int64		offset;
	int64		timestamp;
	bytea	   *key;
	bytea	   *value;
	Jsonb	   *headers;
} Sample;

/* What is read of one partition. */
typedef struct PartRead
{
	int64		start;			/* -1: nothing */
	int64		low;
	int64		high;			/* read up to here */
	bool		done;
	int			count;			/* kept samples */
	int			oldest;			/* of them, in a full ring */
	int			allocated;
	Sample	  **samples;
} PartRead;

static bytea *
copy_bytes(const char *bytes, size_t len)
{
	bytea	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = palloc(VARHDRSZ + len);
	SET_VARSIZE(copy, VARHDRSZ + len);
	memcpy(VARDATA(copy), bytes, len);
	return copy;
}

static Sample *
copy_message(const KafkaMessage *message)
{
	Sample	   *sample = palloc(sizeof(Sample));

	sample->part = message->part;
	sample->offset = message->offset;
	sample->timestamp = message->timestamp;
	sample->key = copy_bytes(message->key, message->key_len);
	sample->value = copy_bytes(message->value, message->value_len);
	sample->headers = message_headers(message);
	return sample;
}

static void
free_sample(Sample *sample)
{
	if (sample->key)
		pfree(sample->key);
	if (sample->value)
		pfree(sample->value);
	if (sample->headers)
		pfree(sample->headers);
	pfree(sample);
}

/* Keep a message, in place of the oldest one where max are kept. */
static void
keep_sample(PartRead *read, const KafkaMessage *message, int max)
{
	if (read->count < max)
	{
		if (read->count == read->allocated)
		{
			read->allocated = read->allocated ? Min(read->allocated * 2, max) : Min(64, max);
			read->samples = read->samples ?
				repalloc(read->samples, sizeof(Sample *) * read->allocated) :
				palloc(sizeof(Sample *) * read->allocated);
		}
		read->samples[read->count++] = copy_message(message);
		return;
	}
	free_sample(read->samples[read->oldest]);
	read->samples[read->oldest] = copy_message(message);
	read->oldest = (read->oldest + 1) % max;
}

static void
assign_reads(BrokerSession *session, const char *topic, PartRead *reads, int n,
			 int *open_parts)
{
	KafkaPlace *places = palloc(sizeof(KafkaPlace) * n);
	KafkaError	error;

	*open_parts = 0;
	for (int part = 0; part < n; part++)
	{
		reads[part].done = reads[part].start < 0 || reads[part].start >= reads[part].high;
		if (reads[part].done)
			continue;
		places[*open_parts].part = part;
		places[*open_parts].offset = reads[part].start;
		(*open_parts)++;
	}
	if (*open_parts > 0 &&
		!kafka_assign(session->client, topic, places, *open_parts, &error))
		report_kafka_error(ERROR, &error, session->server, topic);
}

/* The partition has nothing left to read up to its end. */
static void
finish_read(PartRead *read, int64 next_offset, int *open_parts)
{
	if (!read->done && next_offset >= read->high)
	{
		read->done = true;
		(*open_parts)--;
	}
}

/*
 * Read each partition from its start to its end.  first: stop after max
 * messages in all; else keep the last max of each partition.
 */
static void
read_samples(BrokerSession *session, const char *topic, PartRead *reads, int n,
			 int max, bool first)
{
	KafkaMessage messages[256];
	Patience	patience;
	int			open_parts;
	int			total = 0;

	assign_reads(session, topic, reads, n, &open_parts);
	begin_patience(&patience, ANSWER_MS);
	while (open_parts > 0 && !(first && total >= max))
	{
		KafkaEvent	event;
		int			got = broker_fill(session, messages, lengthof(messages), &event, STEP_MS);

		for (int i = 0; i < got; i++)
		{
			PartRead   *read = &reads[messages[i].part];

			if (!read->done && messages[i].offset < read->high && !(first && total >= max))
			{
				keep_sample(read, &messages[i], max);
				total++;
			}
			finish_read(read, messages[i].offset + 1, &open_parts);
			kafka_release(&messages[i]);
		}
		if (event.kind == KAFKA_END_OF_PARTITION)
			finish_read(&reads[event.place.part], event.place.offset, &open_parts);
		if (got > 0 || event.kind == KAFKA_END_OF_PARTITION)
			begin_patience(&patience, ANSWER_MS);
		else if (event.kind != KAFKA_NO_EVENT)
			ask_again(session, &event.error, topic, &patience);
		else
		{
			KafkaError	silence = {KAFKA_TIMED_OUT, "_TIMED_OUT", "no message came"};

			ask_again(session, &silence, topic, &patience);
		}
	}
}

static int
compare_samples(const void *a, const void *b)
{
	const Sample *one = *(Sample *const *) a;
	const Sample *two = *(Sample *const *) b;

	if (one->timestamp != two->timestamp)
		return one->timestamp < two->timestamp ? -1 : 1;
	if (one->part != two->part)
		return one->part < two->part ? -1 : 1;
	return one->offset < two->offset ? -1 : one->offset > two->offset;
}

/* All kept samples, oldest first. */
static Sample **
sort_samples(PartRead *reads, int n, int *count)
{
	Sample	  **samples;
	int			at = 0;

	*count = 0;
	for (int part = 0; part < n; part++)
		*count += reads[part].count;
	samples = palloc(sizeof(Sample *) * Max(*count, 1));
	for (int part = 0; part < n; part++)
	{
		if (reads[part].count > 0)
			memcpy(&samples[at], reads[part].samples, sizeof(Sample *) * reads[part].count);
		at += reads[part].count;
	}
	qsort(samples, *count, sizeof(Sample *), compare_samples);
	return samples;
}

static PartRead *
make_reads(BrokerSession *session, const char *topic, int n)
{
	PartRead   *reads = palloc0(sizeof(PartRead) * n);
	int64	   *low = palloc(sizeof(int64) * n);
	int64	   *high = palloc(sizeof(int64) * n);

	broker_offsets(session, topic, n, low, high);
	for (int part = 0; part < n; part++)
	{
		reads[part].low = low[part];
		reads[part].high = high[part];
	}
	return reads;
}

/*
 * The last max messages of a topic.  Offsets near the end may hold no message
 * (markers of transactions, compacted ones), so where too few are found, read
 * again from further back; each time with a client of its own, which must not seek.
 */
static Sample **
last_samples(const char *server, const char *topic, int max, Jsonb *options, int *count)
{
	int64		back = (int64) max + PEEK_SLACK;

	for (;;)
	{
		BrokerSession *session = connect_small(server, options, NULL);
		int			n = broker_partitions(session, topic);
		PartRead   *reads = make_reads(session, topic, n);
		bool		enough = true;

		for (int part = 0; part < n; part++)
			reads[part].start = Max(reads[part].low, reads[part].high - back);
		read_samples(session, topic, reads, n, max, false);
		broker_disconnect(session);
		for (int part = 0; part < n; part++)
		{
			if (reads[part].count < max && reads[part].start > reads[part].low)
				enough = false;
		}
		if (enough)
		{
			Sample	  **samples = sort_samples(reads, n, count);

			if (*count <= max)
				return samples;
			samples += *count - max;
			*count = max;
			return samples;
		}
		back *= 16;
	}
}

/* The first max messages from a start_from on. */
static Sample **
first_samples(const char *server, const char *topic, int max,
			  const char *start_from, Jsonb *options, int *count)
{
	BrokerSession *session;
	PartRead   *reads;
	int64	   *starts;
	int			n;

	session = connect_small(server, options, start_from_group(start_from));
	n = broker_partitions(session, topic);
	starts = broker_start_offsets(session, topic, n, start_from, NULL);
	reads = make_reads(session, topic, n);
	for (int part = 0; part < n; part++)
		reads[part].start = starts[part];
	read_samples(session, topic, reads, n, max, true);
	broker_disconnect(session);
	return sort_samples(reads, n, count);
}

/* ------------------------------------------------------------------------
 * SQL: topics, topic_offsets, peek
 * ------------------------------------------------------------------------
 */

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
	session = connect_small(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL, NULL);
	metadata = ask_metadata(session, NULL);
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
	PartRead   *reads;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	session = connect_small(text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL, NULL);
	n = broker_partitions(session, topic);
	reads = make_reads(session, topic, n);
	broker_disconnect(session);
	for (int part = 0; part < n; part++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = Int32GetDatum(part);
		values[1] = Int64GetDatum(reads[part].low);
		values[2] = Int64GetDatum(reads[part].high);
		put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

static Datum
kafka_time(int64 ms)
{
	int64		micros;

	if (ms > PG_INT64_MAX / 1000)
		return TimestampTzGetDatum(DT_NOEND);
	micros = ms * 1000 - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	if (!IS_VALID_TIMESTAMP(micros))
		return TimestampTzGetDatum(DT_NOEND);
	return TimestampTzGetDatum(micros);
}

static void
put_sample(FunctionCallInfo fcinfo, const Sample *sample)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = Int32GetDatum(sample->part);
	values[1] = Int64GetDatum(sample->offset);
	values[2] = kafka_time(sample->timestamp);
	nulls[2] = sample->timestamp < 0;
	values[3] = PointerGetDatum(sample->key);
	nulls[3] = sample->key == NULL;
	values[4] = PointerGetDatum(sample->value);
	nulls[4] = sample->value == NULL;
	values[5] = PointerGetDatum(sample->headers);
	nulls[5] = sample->headers == NULL;
	put_row(fcinfo, values, nulls);
}

static void
check_count(int n)
{
	if (n < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be at least 1")));
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

	check_count(max);
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

/* ------------------------------------------------------------------------
 * SQL: check_server
 * ------------------------------------------------------------------------
 */

typedef enum StepResult
{
	STEP_FAILED = 0,
	STEP_OK,
	STEP_NONE					/* does not apply, or was not reached */
} StepResult;

typedef struct CheckRun
{
	FunctionCallInfo fcinfo;
	BrokerSettings *settings;
	bool		tls;
	bool		sasl;
} CheckRun;

/* Probes that a memory context ends. */
typedef struct ProbeSet
{
	int			n;
	KafkaProbe **probes;
	MemoryContextCallback callback;
} ProbeSet;

static void
put_step(CheckRun *run, const char *step, StepResult result, const char *detail)
{
	Datum		values[3];
	bool		nulls[3] = {false};

	values[0] = CStringGetTextDatum(step);
	values[1] = BoolGetDatum(result == STEP_OK);
	nulls[1] = result == STEP_NONE;
	values[2] = CStringGetTextDatum(detail);
	put_row(run->fcinfo, values, nulls);
}

static const char *
setting_value(BrokerSettings *settings, const char *name)
{
	for (int i = 0; i < settings->nsettings; i++)
	{
		if (strcmp(settings->settings[i].name, name) == 0)
			return settings->settings[i].value;
	}
	return NULL;
}

static void
end_probes(void *arg)
{
	ProbeSet   *set = arg;

	for (int i = 0; i < set->n; i++)
	{
		if (set->probes[i])
			kafka_probe_end(set->probes[i]);
		set->probes[i] = NULL;
	}
}

/* Probe all addresses at once, for at most twice PROBE_MS. */
static KafkaProbeState *
probe_all(BrokerAddress *addresses, int n)
{
	KafkaProbeState *states = palloc0(sizeof(KafkaProbeState) * Max(n, 1));
	ProbeSet   *set = palloc0(sizeof(ProbeSet));
	int64		end = now_ms() + 2 * PROBE_MS;

	set->probes = palloc0(sizeof(KafkaProbe *) * Max(n, 1));
	set->n = n;
	set->callback.func = end_probes;
	set->callback.arg = set;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &set->callback);
	for (int i = 0; i < n; i++)
		set->probes[i] = kafka_probe_start(addresses[i].host, addresses[i].port, PROBE_MS);
	for (int i = 0; i < n; i++)
	{
		while (set->probes[i])
		{
			states[i] = kafka_probe_wait(set->probes[i], 200);
			CHECK_FOR_INTERRUPTS();
			if ((states[i] != PROBE_RESOLVING && states[i] != PROBE_CONNECTING) ||
				now_ms() >= end)
				break;
		}
	}
	end_probes(set);
	return states;
}

static bool
is_resolved(KafkaProbeState state)
{
	return state != PROBE_RESOLVING && state != PROBE_UNRESOLVED;
}

static const char *
probe_text(KafkaProbeState state)
{
	switch (state)
	{
		case PROBE_CONNECTED:
			return "reachable";
		case PROBE_UNRESOLVED:
			return "the name could not be resolved";
		case PROBE_RESOLVING:
			return "the name could not be resolved in time";
		case PROBE_REFUSED:
			return "the connection was refused";
		default:
			return "no answer in time";
	}
}

/* Lists the addresses whose state is not good enough, after a count. */
static char *
probe_summary(BrokerAddress *addresses, KafkaProbeState *states, int n,
			  bool names, int *good)
{
	StringInfoData bad;

	initStringInfo(&bad);
	*good = 0;
	for (int i = 0; i < n; i++)
	{
		if (names ? is_resolved(states[i]) : states[i] == PROBE_CONNECTED)
			(*good)++;
		else
			appendStringInfo(&bad, "; %s%s%s: %s", addresses[i].host,
							 names ? "" : ":", names ? "" : addresses[i].port,
							 probe_text(states[i]));
	}
	return psprintf("%d of %d %s%s", *good, n,
					names ? "names resolved" : "addresses reachable", bad.data);
}

/* Steps dns and tcp; false where the next ones cannot be tried. */
static bool
check_addresses_step(CheckRun *run)
{
	int			n;
	BrokerAddress *addresses;
	KafkaProbeState *states;
	char	   *detail;
	int			good;

	addresses = bootstrap_addresses(setting_value(run->settings, "bootstrap.servers"), &n);
	states = probe_all(addresses, n);
	detail = probe_summary(addresses, states, n, true, &good);
	put_step(run, "dns", good > 0 ? STEP_OK : STEP_FAILED, detail);
	if (good == 0)
	{
		put_step(run, "tcp", STEP_NONE, "not reached");
		return false;
	}
	detail = probe_summary(addresses, states, n, false, &good);
	put_step(run, "tcp", good > 0 ? STEP_OK : STEP_FAILED, detail);
	return good > 0;
}

static void
put_last_steps(CheckRun *run, StepResult tls, const char *tls_detail,
			   StepResult auth, const char *auth_detail,
			   StepResult metadata, const char *metadata_detail)
{
	if (!run->tls)
		put_step(run, "tls", STEP_NONE, "the server is used without TLS");
	else
		put_step(run, "tls", tls, tls_detail);
	if (!run->sasl)
		put_step(run, "auth", STEP_NONE, "the server is used without SASL");
	else
		put_step(run, "auth", auth, auth_detail);
	put_step(run, "metadata", metadata, metadata_detail);
}

/* Which of the last three steps does the error belong to? */
static void
put_failed_steps(CheckRun *run, const KafkaError *error)
{
	const char *detail = psprintf("%s (%s)", error->text, error->name);
	bool		tls = strcmp(error->name, "_SSL") == 0 || error->class == KAFKA_BAD_SETTING;

	if (tls && run->tls)
		put_last_steps(run, STEP_FAILED, detail, STEP_NONE, "not reached",
					   STEP_NONE, "not reached");
	else if (error->class == KAFKA_AUTHENTICATION && run->sasl)
		put_last_steps(run, STEP_OK, "handshake done", STEP_FAILED, detail,
					   STEP_NONE, "not reached");
	else if (error->class == KAFKA_AUTHORIZATION)
		put_last_steps(run, STEP_OK, "handshake done", STEP_OK, "logged in",
					   STEP_FAILED, detail);
	else
	{
		if (error->class == KAFKA_DISCONNECTED || error->class == KAFKA_TIMED_OUT)
			detail = psprintf("%s; the port is open, so security_protocol may not fit it",
							  detail);
		put_last_steps(run, STEP_NONE, "not known: the broker did not answer",
					   STEP_NONE, "not known: the broker did not answer",
					   STEP_FAILED, detail);
	}
}

/* One row for each address that the brokers advertise.  Frees the metadata. */
static void
check_advertised(CheckRun *run, KafkaMetadata *metadata)
{
	int			n = metadata->nbrokers;
	BrokerAddress *addresses = palloc(sizeof(BrokerAddress) * Max(n, 1));
	int32	   *ids = palloc(sizeof(int32) * Max(n, 1));
	KafkaProbeState *states;
	int			allowed = 0;

	for (int i = 0; i < n; i++)
	{
		KafkaBroker *broker = &metadata->brokers[i];
		char	   *port = psprintf("%d", broker->port);

		if (!kafka_address_allowed(setting_value(run->settings, "kappa.allowed.brokers"),
								   broker->host, port))
		{
			put_step(run, psprintf("broker %d", broker->id), STEP_FAILED,
					 psprintf("%s:%s: not in kappa.allowed_brokers", broker->host, port));
			continue;
		}
		addresses[allowed].host = pstrdup(broker->host);
		addresses[allowed].port = port;
		ids[allowed++] = broker->id;
	}
	kafka_free_metadata(metadata);
	states = probe_all(addresses, allowed);
	for (int i = 0; i < allowed; i++)
		put_step(run, psprintf("broker %d", ids[i]),
				 states[i] == PROBE_CONNECTED ? STEP_OK : STEP_FAILED,
				 psprintf("%s:%s: %s", addresses[i].host, addresses[i].port,
						  probe_text(states[i])));
}

/* Steps tls, auth and metadata, by one question to the library. */
static void
check_broker(CheckRun *run, const char *server)
{
	BrokerSession *session;
	KafkaMetadata *metadata = NULL;
	KafkaError	error;
	Patience	patience;

	session = open_session(server, run->settings, NULL, &error);
	begin_patience(&patience, CHECK_MS);
	patience.down_ms = CHECK_DOWN_MS;
	while (session->client &&
		   (metadata = kafka_metadata(session->client, NULL, STEP_MS, &error)) == NULL &&
		   worth_asking_again(session, &error, &patience))
		;
	broker_disconnect(session);
	if (metadata == NULL)
	{
		put_failed_steps(run, &error);
		return;
	}
	put_last_steps(run, STEP_OK, "handshake done", STEP_OK, "logged in", STEP_OK,
				   psprintf("cluster %s, brokers: %d, topics: %d",
							metadata->cluster_id ? metadata->cluster_id : "of unknown id",
							metadata->nbrokers, metadata->ntopics));
	check_advertised(run, metadata);
}

Datum
kappa_check_server(PG_FUNCTION_ARGS)
{
	char	   *server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	CheckRun	run = {fcinfo};
	const char *protocol;

	run.settings = broker_settings(server, GetUserId(), NULL);
	protocol = setting_value(run.settings, "security.protocol");
	run.tls = protocol && strstr(protocol, "ssl") != NULL;
	run.sasl = protocol && strncmp(protocol, "sasl", 4) == 0;
	InitMaterializedSRF(fcinfo, 0);
	if (check_addresses_step(&run))
		check_broker(&run, server);
	else
		put_last_steps(&run, STEP_NONE, "not reached", STEP_NONE, "not reached",
					   STEP_NONE, "not reached");
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * SQL: infer_table
 * ------------------------------------------------------------------------
 */

/* What was seen of a field, as bits. */
#define SEEN_BOOLEAN	0x001
#define SEEN_INTEGER	0x002	/* fits bigint */
#define SEEN_LONG		0x004	/* an integer beyond 15 digits */
#define SEEN_FRACTION	0x008	/* exact in double precision */
#define SEEN_EXACT		0x010	/* only numeric holds it */
#define SEEN_TIME		0x020
#define SEEN_DATE		0x040
#define SEEN_UUID		0x080
#define SEEN_TEXT		0x100
#define SEEN_NESTED		0x200

#define SEEN_NUMBER		(SEEN_INTEGER | SEEN_LONG | SEEN_FRACTION | SEEN_EXACT)

#define MAX_INFERRED	1500	/* a table cannot have many more columns */

typedef struct Field
{
	char	   *name;
	int			seen;
	int			sample;			/* where it was first seen ... */
	int			place;			/* ... and where in its text */
} Field;

typedef struct Inference
{
	Field	   *fields;
	int			nfields;
	int			allocated;
	int			objects;
	int			others;			/* no JSON objects */
	int			left_out;		/* fields that cannot be columns */
	bool		all_text;		/* every value is text */
} Inference;

static int
number_bits(Numeric number)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
														   NumericGetDatum(number)));
	const char *at = text + strspn(text, "-0.");
	int			digits = 0;
	Datum		value;

	for (; *at; at++)
	{
		if (*at != '.')
			digits++;
	}
	if (strchr(text, '.'))
		return digits <= 15 ? SEEN_FRACTION : SEEN_EXACT;
	if (!try_input(INT8OID, text, &value))
		return SEEN_EXACT;
	return digits <= 15 ? SEEN_INTEGER : SEEN_INTEGER | SEEN_LONG;
}

/* Does the text have the shape?  # is a digit, T is T or a space. */
static bool
has_shape(const char *text, const char *shape)
{
	for (; *shape; text++, shape++)
	{
		if (*shape == '#' ? !isdigit((unsigned char) *text) :
			*shape == 'T' ? (*text != 'T' && *text != ' ') : *text != *shape)
			return false;
	}
	return true;
}

static int
string_bits(char *text)
{
	size_t		len = strlen(text);
	Datum		value;

	if (has_shape(text, "####-##-##T##:##") && len <= 40)
		return try_input(TIMESTAMPTZOID, text, &value) ? SEEN_TIME : SEEN_TEXT;
	if (len == 10 && has_shape(text, "####-##-##"))
		return try_input(DATEOID, text, &value) ? SEEN_DATE : SEEN_TEXT;
	if (len == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-')
		return try_input(UUIDOID, text, &value) ? SEEN_UUID : SEEN_TEXT;
	return SEEN_TEXT;
}

static int
value_bits(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return 0;
		case jbvBool:
			return SEEN_BOOLEAN;
		case jbvNumeric:
			return number_bits(value->val.numeric);
		case jbvString:
			return string_bits(pnstrdup(value->val.string.val, value->val.string.len));
		default:
			return SEEN_NESTED;
	}
}

/* The type that holds all that was seen. */
static const char *
inferred_type(int seen)
{
	if (seen & SEEN_NESTED)
		return "jsonb";
	if (seen == SEEN_BOOLEAN)
		return "boolean";
	if (seen != 0 && (seen & ~SEEN_NUMBER) == 0)
	{
		if (seen & SEEN_EXACT)
			return "numeric";
		if (seen & SEEN_FRACTION)
			return seen & SEEN_LONG ? "numeric" : "double precision";
		return "bigint";
	}
	if (seen == SEEN_DATE)
		return "date";
	if (seen & SEEN_TIME && (seen & ~(SEEN_TIME | SEEN_DATE)) == 0)
		return "timestamptz";
	if (seen == SEEN_UUID)
		return "uuid";
	return "text";
}

/* Can the field be a column beside those of the message itself? */
static bool
can_be_column(const char *name)
{
	static const char *const metadata[] = {
		"kafka_topic", "kafka_partition", "kafka_offset",
		"kafka_timestamp", "kafka_key", "kafka_headers"
	};

	for (int i = 0; i < lengthof(metadata); i++)
	{
		if (strcmp(name, metadata[i]) == 0)
			return false;
	}
	return *name != '\0' && strlen(name) < NAMEDATALEN &&
		SystemAttributeByName(name) == NULL;
}

static Field *
find_field(Inference *inference, const char *name)
{
	for (int i = 0; i < inference->nfields; i++)
	{
		if (strcmp(inference->fields[i].name, name) == 0)
			return &inference->fields[i];
	}
	return NULL;
}

/* jsonb has its own order of keys: remember where the text names the field. */
static void
add_field(Inference *inference, char *name, int seen, int sample, const char *text)
{
	Field	   *field = find_field(inference, name);

	if (field == NULL)
	{
		char	   *found = strstr(text, psprintf("\"%s\"", name));

		if (!can_be_column(name) || inference->nfields == MAX_INFERRED)
		{
			inference->left_out++;
			return;
		}
		if (inference->nfields == inference->allocated)
		{
			inference->allocated *= 2;
			inference->fields = repalloc(inference->fields,
										 sizeof(Field) * inference->allocated);
		}
		field = &inference->fields[inference->nfields++];
		field->name = name;
		field->seen = 0;
		field->sample = sample;
		field->place = found ? found - text : (int) strlen(text);
	}
	field->seen |= seen;
}

static void
look_at_sample(Inference *inference, const Sample *sample, int number)
{
	char	   *bytes = VARDATA(sample->value);
	size_t		len = VARSIZE(sample->value) - VARHDRSZ;
	char	   *text;
	Datum		value;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!is_text(bytes, len))
	{
		inference->all_text = false;
		inference->others++;
		return;
	}
	text = pnstrdup(bytes, len);
	if (!try_input(JSONBOID, text, &value) || !JB_ROOT_IS_OBJECT(DatumGetJsonbP(value)))
	{
		inference->others++;
		return;
	}
	inference->objects++;
	it = JsonbIteratorInit(&DatumGetJsonbP(value)->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
			add_field(inference, name, value_bits(&v), number, text);
	}
}

static int
compare_fields(const void *a, const void *b)
{
	const Field *one = a;
	const Field *two = b;

	if (one->sample != two->sample)
		return one->sample - two->sample;
	if (one->place != two->place)
		return one->place - two->place;
	return strcmp(one->name, two->name);
}

/* The name as CREATE TABLE wants it: each part quoted where it needs it. */
static char *
quoted_table_name(text *table_name, const char *topic)
{
	StringInfoData name;
	ListCell   *cell;

	if (table_name == NULL)
		return pstrdup(quote_identifier(topic));
	initStringInfo(&name);
	foreach(cell, textToQualifiedNameList(table_name))
		appendStringInfo(&name, "%s%s", name.len > 0 ? "." : "",
						 quote_identifier(strVal(lfirst(cell))));
	return name.data;
}

static char *
table_text(Inference *inference, const char *name)
{
	StringInfoData sql;
	bool		columns = inference->objects >= inference->others && inference->nfields > 0;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (\n"
					 "\tkafka_partition integer,\n"
					 "\tkafka_offset bigint,\n"
					 "\tkafka_timestamp timestamptz", name);
	if (columns)
	{
		qsort(inference->fields, inference->nfields, sizeof(Field), compare_fields);
		for (int i = 0; i < inference->nfields; i++)
			appendStringInfo(&sql, ",\n\t%s %s",
							 quote_identifier(inference->fields[i].name),
							 inferred_type(inference->fields[i].seen));
	}
	else
		appendStringInfo(&sql, ",\n\tvalue %s",
						 inference->objects > 0 && inference->others == 0 ? "jsonb" :
						 inference->all_text ? "text" : "bytea");
	appendStringInfoString(&sql, "\n);");
	if (columns && inference->left_out > 0)
		appendStringInfo(&sql, "\n-- left out: fields whose names cannot be columns (seen %d times)",
						 inference->left_out);
	return sql.data;
}

Datum
kappa_infer_table(PG_FUNCTION_ARGS)
{
	char	   *server;
	char	   *topic;
	Inference	inference = {NULL, 0, 64, 0, 0, 0, true};
	Sample	  **samples;
	int			count;

	for (int i = 0; i < 3; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("server, topic and n must not be null")));
	}
	server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	check_count(PG_GETARG_INT32(2));
	samples = last_samples(server, topic, PG_GETARG_INT32(2), NULL, &count);
	inference.fields = palloc(sizeof(Field) * inference.allocated);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (samples[i]->value)
			look_at_sample(&inference, samples[i], i);
	}
	if (inference.objects + inference.others == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" holds no message to infer a table from", topic)));
	PG_RETURN_TEXT_P(cstring_to_text(table_text(&inference,
												quoted_table_name(PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3),
																  topic))));
}
