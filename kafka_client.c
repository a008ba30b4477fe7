/*
 * kafka_client.c
 *		The only user of librdkafka.
 *
 * What a client owns: one consumer handle, references to three of its queues,
 * a pipe, a buffer of messages taken from the library but not handed out yet,
 * and a pool of nodes, one for each message that is handed out.
 *
 *	consumer queue	messages, ends of partitions, errors of partitions
 *	main queue		errors of the handle (logins, broken connections)
 *	log queue		log lines
 *
 * Threads.  The library's threads only enqueue, write a byte into the pipe when
 * a queue that was served gets its next entry, and call resolve_address(), which
 * touches nothing but the client's allow list and one atomic flag.  All other
 * code here runs on the thread that opened the client.  Threads are made with
 * all signals blocked, so the process's handlers stay on its main thread.
 *
 * Wake-ups.  A queue writes one byte, and none again before it is served: so
 * kafka_fill empties the pipe first and then serves both queues until they have
 * nothing left; only then may the caller wait.
 *
 * Invariants.  No pause, seek or second assignment in a client's life: under
 * that rule the batch calls of librdkafka 2.0 neither lose nor repeat.  A message
 * holds references into the handle that would keep it from ending, hence the
 * pool: closing gives back whatever was not released, so that an error between
 * kafka_fill and kafka_release costs nothing.
 *
 * Ending.  The library's destroy has no timeout, so a helper thread does it.
 * Where it is not done in time, or a client is still open when the process ends,
 * libc's exit must not run the TLS library's clean-up under live threads: an
 * exit handler, registered after the first handle exists and so run before
 * that clean-up, leaves by _exit.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE			/* pipe2, on_exit, memrchr */
#endif
#include "kafka_client.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* newer releases of the header have a harmless "const int" result */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <librdkafka/rdkafka.h>
#pragma GCC diagnostic pop

#define CARRY_MAX		4096	/* messages taken from the library at once */
#define POOL_BLOCK		1024	/* nodes in a block of the pool */
#define FETCH_BACKOFF_VERSION 0x020200ff	/* has fetch.queue.backoff.ms */
#define WAKE_BELOW		50000	/* messages left in the queue */
#define WAKE_EVERY_MS	20
#define PENDING_MAX		8		/* errors kept for kafka_fill */
#define ALLOWED_SETTING	"kappa.allowed.brokers"

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
	bool		own_group;		/* the caller named no group */
	bool		assigned;
	char	   *allowed;		/* NULL: any address */
	int			refused;		/* atomic: an address was not allowed */

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

/* What the helper thread and the closing one share; freed by the last one. */
typedef struct Closing
{
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool		done;
	bool		abandoned;
	rd_kafka_t *rk;
} Closing;

static int	open_clients = 0;
static bool leaked = false;

/*
 * Settings that a caller may override: chosen for few seconds of silence after
 * a broker came back, and for queues that outlast the second that a library
 * older than 2.2 waits once they are full.
 */
static const KafkaSetting default_settings[] = {
	{"client.id", "pg_kappa"},
	{"queued.min.messages", "1000000"},
	{"queued.max.messages.kbytes", "65536"},
	{"fetch.max.bytes", "16777216"},
	{"fetch.wait.max.ms", "100"},
	{"fetch.error.backoff.ms", "200"},
	{"fetch.queue.backoff.ms", "10"},
	{"socket.timeout.ms", "15000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.keepalive.enable", "true"},
	{"reconnect.backoff.ms", "100"},
	{"reconnect.backoff.max.ms", "2000"},
	{"topic.metadata.refresh.interval.ms", "10000"},
	{"topic.metadata.refresh.fast.interval.ms", "100"},
	{"log.connection.close", "false"},
};

/* Settings that exactness rests on; no caller overrides them. */
static const KafkaSetting fixed_settings[] = {
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"isolation.level", "read_committed"},
	{"check.crcs", "true"},
	{"allow.auto.create.topics", "false"},
	{"enable.partition.eof", "true"},
	{"enable.metrics.push", "false"},
	{"topic.metadata.propagation.max.ms", "0"},
	{"max.poll.interval.ms", "86400000"},
	{"statistics.interval.ms", "0"},
	{"sasl.kerberos.min.time.before.relogin", "0"},
	{"log.queue", "true"},
};

/* ------------------------------------------------------------------------
 * Errors
 * ------------------------------------------------------------------------
 */

static void
set_error(KafkaError *error, KafkaErrorClass class, const char *name,
		  const char *text)
{
	error->class = class;
	snprintf(error->name, sizeof(error->name), "%s", name);
	snprintf(error->text, sizeof(error->text), "%s", text);
}

static void
clear_error(KafkaError *error)
{
	memset(error, 0, sizeof(*error));
}

static KafkaErrorClass
classify_local(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__RESOLVE:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__NODE_UPDATE:
			return KAFKA_DISCONNECTED;
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
		case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR__WAIT_CACHE:
		case RD_KAFKA_RESP_ERR__IN_PROGRESS:
		case RD_KAFKA_RESP_ERR__RETRY:
			return KAFKA_TIMED_OUT;
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
			return KAFKA_AUTHENTICATION;
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return KAFKA_UNKNOWN_TOPIC;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
#if RD_KAFKA_VERSION >= 0x020100ff
		case RD_KAFKA_RESP_ERR__LOG_TRUNCATION:
#endif
			return KAFKA_OUT_OF_RANGE;
		case RD_KAFKA_RESP_ERR__FATAL:
		case RD_KAFKA_RESP_ERR__DESTROY:
		case RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE:
			return KAFKA_FATAL;
		default:
			return KAFKA_OTHER;
	}
}

static KafkaErrorClass
classify(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return KAFKA_OK;
		case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
		case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
		case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
			return KAFKA_DISCONNECTED;
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
			return KAFKA_TIMED_OUT;
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
			return KAFKA_AUTHENTICATION;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_DELEGATION_TOKEN_AUTHORIZATION_FAILED:
			return KAFKA_AUTHORIZATION;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return KAFKA_UNKNOWN_TOPIC;
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return KAFKA_OUT_OF_RANGE;
		default:
			return classify_local(err);
	}
}

/*
 * The library's sentences hold addresses and sometimes what a broker said, so
 * they are only looked at, never shown: what is shown comes from this table or
 * from the library's fixed description of the error code.
 */
static const char *
safe_text(rd_kafka_resp_err_t err, const char *said)
{
	static const struct
	{
		rd_kafka_resp_err_t err;
		const char *sign;
		const char *text;
	}			known[] = {
		{RD_KAFKA_RESP_ERR__SSL, "certificate verify failed",
		"the broker's certificate could not be verified"},
		{RD_KAFKA_RESP_ERR__SSL, "SSL_verify",
		"the broker's certificate could not be verified"},
		{RD_KAFKA_RESP_ERR__SSL, "wrong version number",
		"the broker does not speak TLS on this port"},
		{RD_KAFKA_RESP_ERR__SSL, "connecting to a PLAINTEXT",
		"the broker does not speak TLS on this port"},
		{RD_KAFKA_RESP_ERR__SSL, "handshake failed",
		"the TLS handshake failed"},
		{RD_KAFKA_RESP_ERR__SSL, "alert",
		"the broker refused the TLS handshake"},
		{RD_KAFKA_RESP_ERR__AUTHENTICATION, "mechanism",
		"the broker refused the SASL mechanism or the login"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "security.protocol",
		"the broker closed the connection at the first request: security_protocol may not fit this port"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "SSL listener",
		"the broker closed the connection at the first request: security_protocol may not fit this port"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "Connection refused",
		"the connection was refused"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "setup timed out",
		"the connection could not be set up in time"},
		{RD_KAFKA_RESP_ERR__BAD_MSG, "Invalid response size",
		"what answers on this port is not Kafka, or security_protocol does not fit it"},
		{RD_KAFKA_RESP_ERR__RESOLVE, "",
		"a broker's host name could not be resolved"},
		{RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "",
		"no broker can be reached"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "",
		"the connection to a broker failed"},
		{RD_KAFKA_RESP_ERR__TIMED_OUT, "",
		"no answer in time"},
		{RD_KAFKA_RESP_ERR__AUTHENTICATION, "",
		"the broker refused the login"},
		{RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, "",
		"the partition does not hold the wanted offset"},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (known[i].err == err && strstr(said ? said : "", known[i].sign))
			return known[i].text;
	}
	return rd_kafka_err2str(err);
}

static void
map_error(KafkaError *error, rd_kafka_resp_err_t err, const char *said)
{
	set_error(error, classify(err), rd_kafka_err2name(err), safe_text(err, said));
}

/* Does the error say more than the one that is kept? */
static bool
more_telling(const KafkaError *new, const KafkaError *kept)
{
	if (kept->class == KAFKA_OK)
		return true;
	if (new->class != KAFKA_DISCONNECTED)
		return true;
	if (kept->class != KAFKA_DISCONNECTED)
		return false;
	return strcmp(new->name, "_ALL_BROKERS_DOWN") != 0;
}

/* Keep an error of the handle, for the next event and for the next answer. */
static void
keep_error(KafkaClient *client, const KafkaError *error)
{
	if (client->npending == PENDING_MAX)
	{
		memmove(client->pending, client->pending + 1,
				sizeof(KafkaError) * (PENDING_MAX - 1));
		client->npending--;
	}
	client->pending[client->npending++] = *error;
	if (more_telling(error, &client->trouble))
		client->trouble = *error;
}

/* Take what waits on the main queue. */
static void
serve_main_queue(KafkaClient *client)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(client->main_queue, 0)) != NULL)
	{
		rd_kafka_resp_err_t err = rd_kafka_event_error(event);
		KafkaError	error;

		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR && err)
		{
			map_error(&error, err, rd_kafka_event_error_string(event));
			keep_error(client, &error);
		}
		rd_kafka_event_destroy(event);
	}
}

/*
 * Why a question was not answered.  "No usable broker" alone may only mean
 * that a connection is still being made: it counts as no answer in time, unless
 * the handle has told of trouble.
 */
static void
explain(KafkaClient *client, rd_kafka_resp_err_t err, KafkaError *error)
{
	serve_main_queue(client);
	map_error(error, err, NULL);
	if (error->class != KAFKA_DISCONNECTED && error->class != KAFKA_TIMED_OUT)
		return;
	if (__atomic_load_n(&client->refused, __ATOMIC_ACQUIRE))
		set_error(error, KAFKA_AUTHORIZATION, "_NOT_ALLOWED",
				  "a broker's address is not in kappa.allowed_brokers");
	else if (client->trouble.class != KAFKA_OK)
		*error = client->trouble;
	else if (err == RD_KAFKA_RESP_ERR__TRANSPORT)
		map_error(error, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
}

static bool
answered(KafkaClient *client, KafkaError *error)
{
	clear_error(&client->trouble);
	clear_error(error);
	return true;
}

/* ------------------------------------------------------------------------
 * Addresses
 * ------------------------------------------------------------------------
 */

/* Does one entry, "host:port", "host:*" or "*", cover the address? */
static bool
entry_allows(const char *entry, size_t len, const char *host, const char *port)
{
	const char *colon;
	const char *entry_port;
	size_t		host_len;
	size_t		port_len;

	if (len == 1 && entry[0] == '*')
		return true;
	colon = memrchr(entry, ':', len);
	if (colon == NULL)
		return false;
	host_len = colon - entry;
	entry_port = colon + 1;
	port_len = len - host_len - 1;
	if (host_len >= 2 && entry[0] == '[' && entry[host_len - 1] == ']')
	{
		entry++;
		host_len -= 2;
	}
	if (strlen(host) != host_len || strncasecmp(host, entry, host_len) != 0)
		return false;
	if (port_len == 1 && entry_port[0] == '*')
		return true;
	return strlen(port) == port_len && strncmp(port, entry_port, port_len) == 0;
}

bool
kafka_address_allowed(const char *list, const char *host, const char *port)
{
	const char *at = list;

	if (list == NULL || list[strspn(list, " \t,")] == '\0')
		return true;
	while (*at)
	{
		size_t		len;

		at += strspn(at, " \t,");
		len = strcspn(at, " \t,");
		if (len > 0 && entry_allows(at, len, host, port))
			return true;
		at += len;
	}
	return false;
}

/*
 * Called by the library on its threads instead of getaddrinfo; with no node, to
 * free what an earlier call gave.
 */
static int
resolve_address(const char *node, const char *service,
				const struct addrinfo *hints, struct addrinfo **result,
				void *opaque)
{
	KafkaClient *client = opaque;

	if (node == NULL)
	{
		freeaddrinfo(*result);
		return 0;
	}
	if (!kafka_address_allowed(client->allowed, node, service ? service : ""))
	{
		__atomic_store_n(&client->refused, 1, __ATOMIC_RELEASE);
		return EAI_FAIL;
	}
	return getaddrinfo(node, service, hints, result);
}

/* ------------------------------------------------------------------------
 * Open and close
 * ------------------------------------------------------------------------
 */

static void
leave_without_cleanup(int status, void *arg)
{
	(void) arg;
	if (open_clients > 0 || leaked)
		_exit(status);
}

/* Process-wide preparations; the second half needs the library initialised. */
static void
prepare_process(bool after_first_handle)
{
	static bool arenas_limited = false;
	static bool exit_registered = false;

	if (!after_first_handle && !arenas_limited)
	{
		/* one arena a thread would keep what bursts of messages took */
		mallopt(M_ARENA_MAX, 2);
		arenas_limited = true;
	}
	if (after_first_handle && !exit_registered)
	{
		on_exit(leave_without_cleanup, NULL);
		exit_registered = true;
	}
}

static bool
apply_setting(rd_kafka_conf_t *conf, const KafkaSetting *setting,
			  bool must_exist, KafkaError *error)
{
	char		unused[512];	/* quotes the value: never shown */
	char		text[256];

	switch (rd_kafka_conf_set(conf, setting->name, setting->value,
							  unused, sizeof(unused)))
	{
		case RD_KAFKA_CONF_OK:
			return true;
		case RD_KAFKA_CONF_UNKNOWN:
			if (!must_exist)
				return true;
			snprintf(text, sizeof(text), "librdkafka %s does not know the setting \"%.64s\"",
					 rd_kafka_version_str(), setting->name);
			break;
		default:
			snprintf(text, sizeof(text), "librdkafka refused the value of the setting \"%.64s\"",
					 setting->name);
			break;
	}
	set_error(error, KAFKA_BAD_SETTING, "_INVALID_ARG", text);
	return false;
}

static bool
apply_settings(KafkaClient *client, rd_kafka_conf_t *conf,
			   const KafkaSetting *settings, int nsettings,
			   const char *group_id, KafkaError *error)
{
	KafkaSetting group = {"group.id", group_id ? group_id : "pg_kappa"};

	for (size_t i = 0; i < sizeof(default_settings) / sizeof(default_settings[0]); i++)
	{
		if (!apply_setting(conf, &default_settings[i], false, error))
			return false;
	}
	for (int i = 0; i < nsettings; i++)
	{
		if (strcmp(settings[i].name, ALLOWED_SETTING) == 0)
		{
			free(client->allowed);
			client->allowed = strdup(settings[i].value);
		}
		else if (!apply_setting(conf, &settings[i], true, error))
			return false;
	}
	for (size_t i = 0; i < sizeof(fixed_settings) / sizeof(fixed_settings[0]); i++)
	{
		if (!apply_setting(conf, &fixed_settings[i], false, error))
			return false;
	}
	return apply_setting(conf, &group, true, error);
}

static rd_kafka_conf_t *
make_conf(KafkaClient *client, const KafkaSetting *settings, int nsettings,
		  const char *group_id, KafkaError *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	if (!apply_settings(client, conf, settings, nsettings, group_id, error))
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	rd_kafka_conf_set_opaque(conf, client);
	if (client->allowed)
		rd_kafka_conf_set_resolve_cb(conf, resolve_address);
	return conf;
}

/* Make the handle with all signals blocked: its threads inherit the mask. */
static bool
make_handle(KafkaClient *client, rd_kafka_conf_t *conf, KafkaError *error)
{
	char		unused[512];
	sigset_t	all;
	sigset_t	before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	client->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, unused, sizeof(unused));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (client->rk == NULL)
	{
		rd_kafka_resp_err_t err = rd_kafka_last_error();

		rd_kafka_conf_destroy(conf);
		if (err == RD_KAFKA_RESP_ERR__INVALID_ARG)
			set_error(error, KAFKA_BAD_SETTING, rd_kafka_err2name(err),
					  "librdkafka refused this combination of settings");
		else if (err == RD_KAFKA_RESP_ERR__SSL)
			set_error(error, KAFKA_BAD_SETTING, rd_kafka_err2name(err),
					  "librdkafka could not use the TLS certificates or keys that are set");
		else
			map_error(error, err, NULL);
		return false;
	}
	return true;
}

/* Bring the pipe and the queues together. */
static void
connect_queues(KafkaClient *client)
{
	client->consumer_queue = rd_kafka_queue_get_consumer(client->rk);
	client->main_queue = rd_kafka_queue_get_main(client->rk);
	client->log_queue = rd_kafka_queue_new(client->rk);
	rd_kafka_set_log_queue(client->rk, client->log_queue);
	rd_kafka_queue_io_event_enable(client->consumer_queue, client->pipe[1], "m", 1);
	rd_kafka_queue_io_event_enable(client->main_queue, client->pipe[1], "e", 1);
}

static void
free_client(KafkaClient *client)
{
	while (client->blocks)
	{
		PoolBlock  *next = client->blocks->next;

		free(client->blocks);
		client->blocks = next;
	}
	if (client->pipe[0] >= 0)
	{
		close(client->pipe[0]);
		close(client->pipe[1]);
	}
	free(client->allowed);
	free(client);
}

KafkaClient *
kafka_open(const KafkaSetting *settings, int nsettings, const char *group_id,
		   KafkaError *error)
{
	KafkaClient *client = calloc(1, sizeof(KafkaClient));
	rd_kafka_conf_t *conf;

	clear_error(error);
	prepare_process(false);
	if (client == NULL)
	{
		set_error(error, KAFKA_FATAL, "_CRIT_SYS_RESOURCE", "out of memory");
		return NULL;
	}
	client->own_group = (group_id == NULL);
	client->pipe[0] = client->pipe[1] = -1;
	if (pipe2(client->pipe, O_NONBLOCK | O_CLOEXEC) != 0)
	{
		client->pipe[0] = client->pipe[1] = -1;
		set_error(error, KAFKA_FATAL, "_CRIT_SYS_RESOURCE",
				  "could not make a pipe: too many open files");
		free_client(client);
		return NULL;
	}
	conf = make_conf(client, settings, nsettings, group_id, error);
	if (conf == NULL || !make_handle(client, conf, error))
	{
		free_client(client);
		return NULL;
	}
	prepare_process(true);
	open_clients++;
	connect_queues(client);
	return client;
}

static void
free_closing(Closing *closing)
{
	pthread_mutex_destroy(&closing->lock);
	pthread_cond_destroy(&closing->done_cond);
	free(closing);
}

static void *
destroy_handle(void *arg)
{
	Closing    *closing = arg;
	bool		abandoned;

	rd_kafka_destroy_flags(closing->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	pthread_mutex_lock(&closing->lock);
	closing->done = true;
	abandoned = closing->abandoned;
	pthread_cond_signal(&closing->done_cond);
	pthread_mutex_unlock(&closing->lock);
	if (abandoned)
		free_closing(closing);
	return NULL;
}

static Closing *
new_closing(rd_kafka_t *rk)
{
	Closing    *closing = calloc(1, sizeof(Closing));
	pthread_condattr_t attr;

	if (closing == NULL)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&closing->lock, NULL);
	pthread_cond_init(&closing->done_cond, &attr);
	pthread_condattr_destroy(&attr);
	closing->rk = rk;
	return closing;
}

static struct timespec
time_after(int timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (timeout_ms % 1000) * 1000000L;
	if (until.tv_nsec >= 1000000000L)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	return until;
}

/* Wait for the helper thread; true where it is done in time. */
static bool
wait_for_closing(Closing *closing, int timeout_ms)
{
	struct timespec until = time_after(timeout_ms);
	bool		done;

	pthread_mutex_lock(&closing->lock);
	while (!closing->done &&
		   pthread_cond_timedwait(&closing->done_cond, &closing->lock, &until) == 0)
		;
	done = closing->done;
	closing->abandoned = !done;
	pthread_mutex_unlock(&closing->lock);
	return done;
}

/* Destroy the handle in a thread that takes no signals. */
static bool
destroy_in_time(rd_kafka_t *rk, int timeout_ms)
{
	Closing    *closing = new_closing(rk);
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	int			rc;

	if (closing == NULL)
		return false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, destroy_handle, closing);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		free_closing(closing);
		return false;
	}
	if (!wait_for_closing(closing, timeout_ms))
	{
		pthread_detach(thread);
		return false;
	}
	pthread_join(thread, NULL);
	free_closing(closing);
	return true;
}

/* Give back every message, handed out or not: each holds the handle. */
static void
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

bool
kafka_close(KafkaClient *client, int timeout_ms)
{
	release_all(client);
	if (client->to_wake)
		rd_kafka_topic_partition_list_destroy(client->to_wake);
	rd_kafka_queue_io_event_enable(client->consumer_queue, -1, NULL, 0);
	rd_kafka_queue_io_event_enable(client->main_queue, -1, NULL, 0);
	rd_kafka_queue_destroy(client->consumer_queue);
	rd_kafka_queue_destroy(client->main_queue);
	rd_kafka_set_log_queue(client->rk, NULL);
	rd_kafka_queue_destroy(client->log_queue);
	open_clients--;
	if (!destroy_in_time(client->rk, timeout_ms))
	{
		/* its threads may still look at the allow list: keep all of it */
		leaked = true;
		return false;
	}
	free_client(client);
	return true;
}

bool
kafka_leaked(void)
{
	return leaked;
}

int
kafka_wake_fd(KafkaClient *client)
{
	return client->pipe[0];
}

/* ------------------------------------------------------------------------
 * Questions
 * ------------------------------------------------------------------------
 */

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

static rd_kafka_topic_partition_list_t *
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

bool
kafka_offsets_for_time(KafkaClient *client, const char *topic,
					   KafkaPlace *places, int nplaces,
					   int timeout_ms, KafkaError *error)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	bool		ok = false;

	if (nplaces == 0)
		return answered(client, error);
	list = make_list(topic, places, nplaces);
	err = rd_kafka_offsets_for_times(client->rk, list, timeout_ms);
	if (err)
		explain(client, err, error);
	else
		ok = take_list(client, topic, list, places, nplaces, error);
	rd_kafka_topic_partition_list_destroy(list);
	return ok;
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
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	bool		ok = false;

	if (nplaces == 0)
		return answered(client, error);
	list = make_list(topic, places, nplaces);
	err = rd_kafka_committed(client->rk, list, timeout_ms);
	if (err)
		explain(client, err, error);
	else
		ok = take_list(client, topic, list, places, nplaces, error);
	rd_kafka_topic_partition_list_destroy(list);
	return ok;
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
 * Messages
 * ------------------------------------------------------------------------
 */

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

/* Is the error about a group that nobody asked for? */
static bool
concerns_own_group(KafkaClient *client, rd_kafka_resp_err_t err)
{
	return client->own_group &&
		(err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
		 err == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
		 err == RD_KAFKA_RESP_ERR_NOT_COORDINATOR ||
		 err == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS);
}

/* What is no message becomes an event; false where it means nothing to us. */
static bool
make_event(KafkaClient *client, rd_kafka_message_t *from, KafkaEvent *event)
{
	bool		meant = !concerns_own_group(client, from->err);

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

static int64_t
monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * A library older than 2.2 that has found its queue full looks at it again only
 * after a second, or when one of its broker threads has something else to do.
 * So give them something: a question of each partition's leader whose answer
 * nobody waits for.  Some 10 a second at full speed, none when caught up.
 */
static void
wake_fetchers(KafkaClient *client)
{
	int64_t		now;

	if (client->to_wake == NULL ||
		rd_kafka_queue_length(client->consumer_queue) > WAKE_BELOW)
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
			if (make_event(client, next, event))
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

/* ------------------------------------------------------------------------
 * Probes: can a host's name be resolved and its port be reached?
 *
 * Resolving has no timeout, so a thread does both.  The probe is shared by it
 * and the asker and freed by the one that leaves last.
 * ------------------------------------------------------------------------
 */

struct KafkaProbe
{
	pthread_mutex_t lock;
	pthread_cond_t changed;
	KafkaProbeState state;
	bool		shared;			/* both sides still hold it */
	int			timeout_ms;
	char		host[256];
	char		port[8];
};

static void
leave_probe(KafkaProbe *probe)
{
	bool		last;

	pthread_mutex_lock(&probe->lock);
	last = !probe->shared;
	probe->shared = false;
	pthread_mutex_unlock(&probe->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&probe->lock);
	pthread_cond_destroy(&probe->changed);
	free(probe);
}

static void
set_probe(KafkaProbe *probe, KafkaProbeState state)
{
	pthread_mutex_lock(&probe->lock);
	probe->state = state;
	pthread_cond_signal(&probe->changed);
	pthread_mutex_unlock(&probe->lock);
}

static KafkaProbeState
probe_address(const struct addrinfo *address, int timeout_ms)
{
	int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd wait = {fd, POLLOUT, 0};
	int			failure = 0;
	socklen_t	len = sizeof(failure);

	if (fd < 0)
		return PROBE_NO_ANSWER;
	if (connect(fd, address->ai_addr, address->ai_addrlen) != 0)
	{
		failure = errno;
		if (failure == EINPROGRESS)
		{
			if (poll(&wait, 1, timeout_ms) <= 0)
				failure = ETIMEDOUT;
			else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) != 0)
				failure = errno;
		}
	}
	close(fd);
	if (failure == 0)
		return PROBE_CONNECTED;
	return failure == ECONNREFUSED ? PROBE_REFUSED : PROBE_NO_ANSWER;
}

static void *
run_probe(void *arg)
{
	KafkaProbe *probe = arg;
	struct addrinfo hints = {.ai_flags = AI_ADDRCONFIG,.ai_socktype = SOCK_STREAM};
	struct addrinfo *addresses;
	KafkaProbeState state = PROBE_NO_ANSWER;

	if (getaddrinfo(probe->host, probe->port, &hints, &addresses) != 0)
		set_probe(probe, PROBE_UNRESOLVED);
	else
	{
		set_probe(probe, PROBE_CONNECTING);
		for (struct addrinfo *at = addresses; at && state != PROBE_CONNECTED; at = at->ai_next)
			state = probe_address(at, probe->timeout_ms);
		freeaddrinfo(addresses);
		set_probe(probe, state);
	}
	leave_probe(probe);
	return NULL;
}

KafkaProbe *
kafka_probe_start(const char *host, const char *port, int timeout_ms)
{
	KafkaProbe *probe = calloc(1, sizeof(KafkaProbe));
	pthread_condattr_t attr;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	before;
	int			rc;

	if (probe == NULL)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&probe->lock, NULL);
	pthread_cond_init(&probe->changed, &attr);
	pthread_condattr_destroy(&attr);
	probe->shared = true;
	probe->timeout_ms = timeout_ms;
	snprintf(probe->host, sizeof(probe->host), "%s", host);
	snprintf(probe->port, sizeof(probe->port), "%s", port);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, NULL, run_probe, probe);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		probe->shared = false;
		leave_probe(probe);
		return NULL;
	}
	pthread_detach(thread);
	return probe;
}

KafkaProbeState
kafka_probe_wait(KafkaProbe *probe, int timeout_ms)
{
	struct timespec until = time_after(timeout_ms);
	KafkaProbeState state;

	pthread_mutex_lock(&probe->lock);
	while ((probe->state == PROBE_RESOLVING || probe->state == PROBE_CONNECTING) &&
		   pthread_cond_timedwait(&probe->changed, &probe->lock, &until) == 0)
		;
	state = probe->state;
	pthread_mutex_unlock(&probe->lock);
	return state;
}

void
kafka_probe_end(KafkaProbe *probe)
{
	leave_probe(probe);
}

/* ------------------------------------------------------------------------
 * Logs and versions
 * ------------------------------------------------------------------------
 */

/* Lines of these facilities show commands, URLs and tokens. */
static bool
withheld(const char *facility)
{
	return strncmp(facility, "SASLREFRESH", 11) == 0 ||
		strncmp(facility, "OAUTHBEARER", 11) == 0 ||
		strncmp(facility, "OIDC", 4) == 0 ||
		strncmp(facility, "LIBSASL", 7) == 0;
}

bool
kafka_next_log(KafkaClient *client, int *level, char *line, size_t line_size)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(client->log_queue, 0)) != NULL)
	{
		const char *facility;
		const char *text;
		bool		is_log;

		is_log = rd_kafka_event_type(event) == RD_KAFKA_EVENT_LOG &&
			rd_kafka_event_log(event, &facility, &text, level) == 0;
		if (is_log)
			snprintf(line, line_size, "%s: %s", facility,
					 withheld(facility) ? "(text withheld)" : text);
		rd_kafka_event_destroy(event);
		if (is_log)
			return true;
	}
	return false;
}

const char *
kafka_library_version(void)
{
	return rd_kafka_version_str();
}

int
kafka_library_version_number(void)
{
	return rd_kafka_version();
}
