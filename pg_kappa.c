/*
 * pg_kappa.c
 *		Module entry: settings, shared memory, the launcher's registration.
 *
 * With shared_preload_libraries the launcher is registered and the processes
 * share worker slots; loaded by a session (first call of a function) only the
 * settings exist, and everything but background workers works.
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "broker_policy.h"
#include "fault.h"
#include "ingest.h"
#include "secrets_file.h"
#include "shmem.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

int			kappa_worker_memory = 128 * 1024;
int			kappa_max_future = 60 * 1000;
int			kappa_batch_log = 0;
int			kappa_history_interval = 60;
int			kappa_unused_after = 7 * 24 * 60;
int			kappa_max_workers = 32;
int			kappa_max_partitions = 4096;
char	   *kappa_secrets_file = NULL;
char	   *kappa_allowed_brokers = NULL;
#ifdef KAPPA_FAULTS
char	   *kappa_fault = NULL;
#endif

static void
define_settings(void)
{
	DefineCustomIntVariable("kappa.worker_memory",
							"Private memory that one worker may use for messages.",
							"Bounds what librdkafka fetches ahead, and the bytes of a batch.",
							&kappa_worker_memory,
							128 * 1024, 16 * 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.max_future",
							"Event times further than this past the server's clock do not move the watermark.",
							NULL,
							&kappa_max_future,
							60 * 1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.batch_log",
							"Lines kept in kappa.batch_log, one a commit and partition.",
							"0: none are written.  For checking what late rows were judged by.",
							&kappa_batch_log,
							0, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.history_interval",
							"Time between two samples of the tables' counters in each database.",
							"Rates and forecasts come from them.  0: none are taken.",
							&kappa_history_interval,
							60, 0, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.unused_after",
							"Time without a scan after which an index is called unused.",
							NULL,
							&kappa_unused_after,
							7 * 24 * 60, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomStringVariable("kappa.secrets_file",
							   "File that holds named secrets for Kafka servers.",
							   "Mode 0600, owned by the server's user; named by the option \"secret\".",
							   &kappa_secrets_file,
							   "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("kappa.allowed_brokers",
							   "Brokers that may be named or advertised, as host:port, host:* or *.",
							   "Empty: any.",
							   &kappa_allowed_brokers,
							   "", PGC_SUSET, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
#ifdef KAPPA_FAULTS
	DefineCustomStringVariable("kappa.fault",
							   "Fault to raise: point:action[:nth], for tests.",
							   NULL, &kappa_fault,
							   "", PGC_SUSET, 0, NULL, NULL, NULL);
#endif
}

/* Settings that size the shared memory; they exist only when preloaded. */
static void
define_preload_settings(void)
{
	DefineCustomIntVariable("kappa.max_workers",
							"Most Kafka workers in all databases of the server.",
							"max_worker_processes must have room for them.",
							&kappa_max_workers,
							32, 1, 1024, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kappa.max_partitions",
							"Most partitions whose live state the views show.",
							NULL,
							&kappa_max_partitions,
							4096, 16, 1024 * 1024, PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

void
_PG_init(void)
{
	define_settings();
	if (process_shared_preload_libraries_in_progress)
	{
		define_preload_settings();
		/* pg_upgrade starts servers of its own: nothing may consume there */
		if (!IsBinaryUpgrade)
		{
			shmem_register();
			register_launcher();
		}
	}
	MarkGUCPrefixReserved("kappa");
}
