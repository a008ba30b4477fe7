/*
 * ingest.h
 *		The background processes, as the module's entry knows them.
 */
#ifndef KAPPA_INGEST_H
#define KAPPA_INGEST_H

#include "postgres.h"

extern PGDLLEXPORT int kappa_worker_memory; /* kB */
extern PGDLLEXPORT int kappa_max_future;	/* ms */
extern PGDLLEXPORT int kappa_batch_log; /* lines, 0: off */
extern PGDLLEXPORT int kappa_history_interval;	/* s, 0: off */
extern PGDLLEXPORT int kappa_unused_after;	/* minutes */

extern void register_launcher(void);

/* Entry points of the background processes. */
extern PGDLLEXPORT void pg_kappa_launcher_main(Datum arg);
extern PGDLLEXPORT void pg_kappa_scout_main(Datum database);
extern PGDLLEXPORT void pg_kappa_worker_main(Datum slot);

/* Library and function of a background process, filled in. */
struct BackgroundWorker;
extern void fill_process(struct BackgroundWorker *process, const char *type,
						 const char *name, const char *function);

/* Settings that no ALTER ROLE or ALTER DATABASE may change under a worker. */
extern void pin_settings(void);

#endif
