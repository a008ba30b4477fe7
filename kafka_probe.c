/*
 * kafka_probe.c
 *		Can a host's name be resolved and its port be reached?
 *
 * For kappa.check_server, which tells a step that the library does not: neither
 * PostgreSQL nor librdkafka is used here.  Resolving has no timeout, so a thread
 * does both, with all signals blocked.  The probe is shared by it and the asker
 * and freed by the one that leaves last; its state is guarded by its lock.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE			/* SOCK_NONBLOCK, SOCK_CLOEXEC */
#endif
#include "kafka_probe.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "monotonic.h"

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
	struct timespec until = monotonic_after(timeout_ms);
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
