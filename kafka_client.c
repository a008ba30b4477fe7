/*
 * kafka_client.c
 *		The only user of librdkafka, with kafka_error.c, kafka_question.c and
 *		kafka_consume.c: here a client is opened and closed.
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
 * code of these files runs on the thread that opened the client.  Threads are
 * made with all signals blocked, so the process's handlers stay on its main
 * thread.
 *
 * Ending.  The library's destroy has no timeout, so a helper thread does it.
 * Where it is not done in time, or a client is still open when the process ends,
 * libc's exit must not run the TLS library's clean-up under live threads: an
 * exit handler, registered after the first handle exists and so run before
 * that clean-up, leaves by _exit.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE			/* pipe2, on_exit */
#endif
#include "kafka_internal.h"

#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/address.h"
#include "monotonic.h"

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

#define LEVEL_DEBUG	7			/* of syslog */

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
 * Open and close
 * ------------------------------------------------------------------------
 */

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
	if (!address_allowed(client->allowed, node, service ? service : ""))
	{
		__atomic_store_n(&client->refused, 1, __ATOMIC_RELEASE);
		return EAI_FAIL;
	}
	return getaddrinfo(node, service, hints, result);
}

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

/*
 * A fetch that the broker answers with an error (the topic is unknown, its leader
 * has moved) is tried again by the library without a word, but for a debug line.
 * So those lines are on, and kafka_next_log looks for that one.
 */
static bool
apply_debug(KafkaClient *client, rd_kafka_conf_t *conf, const char *wanted, KafkaError *error)
{
	char		value[256];
	KafkaSetting debug = {"debug", value};

	client->debugging = wanted != NULL;
	snprintf(value, sizeof(value), "%s%stopic", wanted ? wanted : "", wanted ? "," : "");
	return apply_setting(conf, &debug, true, error);
}

static long
size_setting(rd_kafka_conf_t *conf, const char *name)
{
	char		value[32] = "0";
	size_t		size = sizeof(value);

	(void) rd_kafka_conf_get(conf, name, value, &size);
	return atol(value);
}

/* The library refuses sizes that do not fit each other; the least of them decides. */
static bool
fit_sizes(rd_kafka_conf_t *conf, KafkaError *error)
{
	long		receive = size_setting(conf, "receive.message.max.bytes") - 512;
	long		fetch = size_setting(conf, "fetch.max.bytes");
	char		value[32];
	KafkaSetting fit = {"fetch.max.bytes", value};

	if (fetch > receive)
	{
		fetch = receive;
		snprintf(value, sizeof(value), "%ld", fetch);
		if (!apply_setting(conf, &fit, true, error))
			return false;
	}
	fit.name = "message.max.bytes";
	snprintf(value, sizeof(value), "%ld", fetch);
	return size_setting(conf, fit.name) <= fetch || apply_setting(conf, &fit, true, error);
}

static bool
apply_settings(KafkaClient *client, rd_kafka_conf_t *conf,
			   const KafkaSetting *settings, int nsettings,
			   const char *group_id, KafkaError *error)
{
	KafkaSetting group = {"group.id", group_id ? group_id : "pg_kappa"};
	const char *debug = NULL;

	for (size_t i = 0; i < sizeof(default_settings) / sizeof(default_settings[0]); i++)
	{
		if (!apply_setting(conf, &default_settings[i], false, error))
			return false;
	}
	for (int i = 0; i < nsettings; i++)
	{
		if (strcmp(settings[i].name, KAFKA_ALLOWED_SETTING) == 0)
		{
			free(client->allowed);
			client->allowed = strdup(settings[i].value);
		}
		else if (strcmp(settings[i].name, "debug") == 0)
			debug = settings[i].value;
		else if (!apply_setting(conf, &settings[i], true, error))
			return false;
	}
	for (size_t i = 0; i < sizeof(fixed_settings) / sizeof(fixed_settings[0]); i++)
	{
		if (!apply_setting(conf, &fixed_settings[i], false, error))
			return false;
	}
	return fit_sizes(conf, error) && apply_debug(client, conf, debug, error) &&
		apply_setting(conf, &group, true, error);
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
	char		said[512];		/* only looked at: may quote a value */
	sigset_t	all;
	sigset_t	before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	client->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, said, sizeof(said));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (client->rk == NULL)
	{
		rd_kafka_resp_err_t err = rd_kafka_last_error();

		rd_kafka_conf_destroy(conf);
		if (err == RD_KAFKA_RESP_ERR__SSL || strstr(said, "ssl") || strstr(said, "SSL"))
			set_error(error, KAFKA_BAD_SETTING, rd_kafka_err2name(RD_KAFKA_RESP_ERR__SSL),
					  "librdkafka could not use the TLS certificates, the key or its password");
		else if (err == RD_KAFKA_RESP_ERR__INVALID_ARG)
			set_error(error, KAFKA_BAD_SETTING, rd_kafka_err2name(err),
					  "librdkafka refused this combination of settings");
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

/* Wait for the helper thread; true where it is done in time. */
static bool
wait_for_closing(Closing *closing, int timeout_ms)
{
	struct timespec until = monotonic_after(timeout_ms);
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

/* Does the line belong to the caller, or is it one that only we asked for? */
static bool
is_for_caller(KafkaClient *client, int level, const char *facility)
{
	if (level < LEVEL_DEBUG)
		return true;
	if (strcmp(facility, "BROKERUA") == 0)
		client->fetch_failed = true;
	return client->debugging;
}

bool
kafka_fetch_failed(KafkaClient *client)
{
	return client->fetch_failed;
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
			rd_kafka_event_log(event, &facility, &text, level) == 0 &&
			is_for_caller(client, *level, facility);
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
