/*
 * noop_consumer.c
 *		Reads a topic from the first offset to the end and throws all away: the
 *		most that librdkafka gives with the settings of kafka_client.c.
 *
 *	noop_consumer BOOTSTRAP TOPIC PARTITIONS [MESSAGES]
 *
 * Prints messages, bytes, seconds from assignment to the last message, and CPU
 * seconds of the whole process (the library's threads included).  With MESSAGES it
 * takes them one by one (a batch waits until it is full), goes on past the end until
 * it has so many, and prints "partition offset timestamp arrival" of each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define BATCH 1000
#define DEADLINE_SECONDS 300

/* Those of kafka_client.c that have to do with speed or with what is read. */
static const char *const settings[][2] = {
	{"group.id", "noop_consumer"},
	{"queued.min.messages", "1000000"},
	{"queued.max.messages.kbytes", "65536"},
	{"fetch.max.bytes", "16777216"},
	{"fetch.wait.max.ms", "100"},
	{"fetch.error.backoff.ms", "200"},
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"isolation.level", "read_committed"},
	{"check.crcs", "true"},
	{"enable.partition.eof", "true"},
};

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "noop_consumer: %s: %s\n", what, why);
	exit(1);
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
print_arrival(const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	printf("%d %lld %lld %.3f\n", (int) message->partition, (long long) message->offset,
		   (long long) rd_kafka_message_timestamp(message, &type), now.tv_sec * 1e3 + now.tv_nsec / 1e6);
}

static double
cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static rd_kafka_t *
open_consumer(const char *bootstrap)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		error[512];
	rd_kafka_t *rk;

	if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		fail("bootstrap.servers", error);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
	{
		if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], error, sizeof(error)) != RD_KAFKA_CONF_OK)
			fail(settings[i][0], error);
	}
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (rk == NULL)
		fail("rd_kafka_new", error);
	rd_kafka_poll_set_consumer(rk);
	return rk;
}

static void
assign(rd_kafka_t *rk, const char *topic, int partitions)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < partitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = 0;
	err = rd_kafka_assign(rk, list);
	if (err)
		fail("rd_kafka_assign", rd_kafka_err2str(err));
	rd_kafka_topic_partition_list_destroy(list);
}

int
main(int argc, char **argv)
{
	rd_kafka_message_t *batch[BATCH];
	long long	messages = 0;
	long long	bytes = 0;
	double		start;
	double		last;
	int			left;
	long long	wanted;
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;

	if (argc < 4 || argc > 5 || (left = atoi(argv[3])) < 1)
		fail("usage", "noop_consumer BOOTSTRAP TOPIC PARTITIONS [MESSAGES]");
	wanted = argc == 5 ? atoll(argv[4]) : 0;
	rk = open_consumer(argv[1]);
	queue = rd_kafka_queue_get_consumer(rk);
	start = last = seconds_now();
	assign(rk, argv[2], left);
	while (wanted > 0 ? messages < wanted : left > 0)
	{
		ssize_t		n = rd_kafka_consume_batch_queue(queue, 100, batch, wanted > 0 ? 1 : BATCH);

		for (ssize_t i = 0; i < n; i++)
		{
			if (batch[i]->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
				left--;
			else if (batch[i]->err)
				fail(argv[2], rd_kafka_message_errstr(batch[i]));
			else
			{
				if (wanted > 0)
					print_arrival(batch[i]);
				messages++;
				bytes += batch[i]->len;
			}
			rd_kafka_message_destroy(batch[i]);
		}
		if (n > 0)
			last = seconds_now();
		else if (seconds_now() - last > DEADLINE_SECONDS)
			fail(argv[2], "no message for too long");
	}
	printf("messages %lld bytes %lld seconds %.3f cpu %.3f\n", messages, bytes, last - start, cpu_seconds());
	rd_kafka_queue_destroy(queue);
	rd_kafka_consumer_close(rk);
	rd_kafka_destroy(rk);
	return 0;
}
