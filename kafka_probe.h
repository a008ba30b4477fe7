/*
 * kafka_probe.h
 *		Can a host's name be resolved and its port be reached?  Plain C, without
 *		PostgreSQL and librdkafka.
 */
#ifndef KAPPA_KAFKA_PROBE_H
#define KAPPA_KAFKA_PROBE_H

/*
 * A probe resolves a name and connects to a port in a thread of its own, so that
 * the asker can wait in steps; end it at any time, once.
 */
typedef struct KafkaProbe KafkaProbe;

typedef enum KafkaProbeState
{
	PROBE_RESOLVING = 0,
	PROBE_CONNECTING,
	PROBE_CONNECTED,
	PROBE_UNRESOLVED,			/* the name has no address */
	PROBE_REFUSED,				/* nothing listens on the port */
	PROBE_NO_ANSWER
} KafkaProbeState;

extern KafkaProbe *kafka_probe_start(const char *host, const char *port, int timeout_ms);
extern KafkaProbeState kafka_probe_wait(KafkaProbe *probe, int timeout_ms);
extern void kafka_probe_end(KafkaProbe *probe);

#endif
