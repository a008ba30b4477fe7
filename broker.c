/*
 * broker.c
 *		Sessions with a Kafka server: open a client, ask it, close it.
 *
 * A session of ours owns one client for one call.  It is opened with the rights
 * of a role (USAGE on the foreign server, its user mapping), nothing is ever
 * committed with it, and a callback of its memory context closes it, so that an
 * ERROR or a cancelled query leaves no thread behind.
 *
 * Waiting.  No call into the library takes longer than BROKER_STEP_MS; between
 * two of them interrupts are served.  A question is asked again while there is
 * hope: 30 s where no answer comes, 10 s where the library says that no broker
 * can be reached, not at all where the broker said no.
 *
 * What a user sees of a failure is the server's name and a fixed sentence; the
 * library's own lines, which name addresses, go to the server's log only.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "broker.h"
#include "broker_options.h"
#include "monotonic.h"

#define DOWN_MS			10000	/* patience where none can be reached */

#define CLOSE_MS		5000
#define LOG_LINES_MAX	20		/* of the library, a session */

/* ------------------------------------------------------------------------
 * Patience
 * ------------------------------------------------------------------------
 */

void
begin_patience(Patience *patience, int answer_ms)
{
	patience->start = monotonic_ms();
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
bool
worth_asking_again(BrokerSession *session, const KafkaError *error,
				   Patience *patience)
{
	int64		now = monotonic_ms();

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

void
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

BrokerSession *
broker_open(const char *server, BrokerSettings *settings, const char *group,
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

	session = broker_open(server, broker_settings(server, userid, options), group, &error);
	if (session->client == NULL)
		report_kafka_error(ERROR, &error, server, NULL);
	return session;
}

BrokerSession *
broker_connect_small(const char *server, Jsonb *options, const char *group)
{
	BrokerSettings *settings = broker_settings(server, GetUserId(), options);
	KafkaError	error;
	BrokerSession *session;

	session = broker_open(server, small_settings(settings), group, &error);
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
KafkaMetadata *
broker_metadata(BrokerSession *session, const char *topic)
{
	Patience	patience;
	KafkaError	error;
	KafkaMetadata *metadata;

	begin_patience(&patience, BROKER_ANSWER_MS);
	while ((metadata = kafka_metadata(session->client, topic, BROKER_STEP_MS, &error)) == NULL)
		ask_again(session, &error, topic, &patience);
	return metadata;
}

/* The topic whose name is nearest; NULL where none is near. */
static char *
nearest_topic(BrokerSession *session, const char *topic)
{
	KafkaMetadata *all = broker_metadata(session, NULL);
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
	begin_patience(&patience, BROKER_ANSWER_MS);
	for (;;)
	{
		KafkaMetadata *metadata = broker_metadata(session, topic);
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

	begin_patience(&patience, BROKER_ANSWER_MS);
	while (!kafka_all_offsets(session->client, topic, n, low, high, BROKER_STEP_MS, &error))
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

	begin_patience(&patience, BROKER_ANSWER_MS);
	while (!kafka_offsets_for_time(session->client, topic, places, n, BROKER_STEP_MS, &error))
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

	begin_patience(&patience, BROKER_ANSWER_MS);
	while (!kafka_group_offsets(session->client, topic, places, n, BROKER_STEP_MS, &error))
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

	begin_patience(&patience, BROKER_ANSWER_MS);
	while (!kafka_topic_id(session->client, topic, id, sizeof(id), BROKER_STEP_MS, &error))
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
	int64		end = monotonic_ms() + timeout_ms;

	for (;;)
	{
		int			n = kafka_fill(session->client, messages, max, event);
		int64		left = end - monotonic_ms();

		if (n > 0 || event->kind != KAFKA_NO_EVENT || left <= 0)
			return n;
		forward_logs(session);
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE |
								 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 kafka_wake_fd(session->client),
								 Min(left, BROKER_STEP_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
