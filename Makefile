# pg_kappa: Kafka into tables, exactly once.
#
#   make && sudo make install        build against the pg_config on the PATH
#   make installcheck                pg_regress on a running server, no broker needed
#   make unit                        core/ alone, under the sanitizers
#   ./check                          the whole ladder with real servers
EXTENSION  = pg_kappa
MODULE_big = pg_kappa
DATA       = pg_kappa--1.0.sql
PGFILEDESC = "pg_kappa - Kafka into tables, exactly once"

OBJS = \
	pg_kappa.o shmem.o catalog.o fault.o views.o operations.o \
	page_sample.o bloat.o btree_build.o btree.o btree_splits.o \
	subscription.o subscription_check.o subscription_control.o \
	subscription_seek.o subscription_wait.o arguments.o position.o \
	broker_policy.o secrets_file.o broker_options.o broker.o start_from.o message_headers.o try_input.o \
	sample.o peek.o check_server.o infer_table.o \
	kafka_client.o kafka_error.o kafka_question.o kafka_consume.o \
	kafka_probe.o monotonic.o \
	value.o decode.o transform_query.o transform.o key_table.o index_entries.o upsert.o target_table.o \
	dead_letter.o ingest_batch.o intake.o ingest_run.o ingest_launcher.o worker.o worker_stop.o worker_watch.o ingest_bgw.o \
	windows.o window_grid.o partial.o partial_type.o window_query.o window_check.o window_layers.o window_view.o window_control.o window_make.o window_hops.o window_plan.o window_progress.o window_fold.o window_state.o window_batch.o window_close.o window_read.o watermark.o \
	vacuum.o visibility.o \
	wal_scan.o wal.o stream_wal.o statistics.o \
	core/address.o core/backoff.o core/batch.o core/csv.o core/json.o core/json_path.o core/scalar.o core/watermark.o core/window.o

REGRESS = setup windows views subscription brokers teardown

PG_CONFIG  ?= pg_config
PKG_CONFIG ?= pkg-config
# Calls between our own files go straight to their target, not through a table that others could change.
SHLIB_LINK  = $(shell $(PKG_CONFIG) --libs rdkafka) -lpthread -Wl,-Bsymbolic
PG_CPPFLAGS = $(shell $(PKG_CONFIG) --cflags rdkafka) -I$(srcdir)

# Fault points (fault.h) are compiled in only for the tests: make FAULTS=1
ifdef FAULTS
PG_CPPFLAGS += -DKAPPA_FAULTS
endif
# Server headers need these three exceptions from -Wextra.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
ifdef WERROR
PG_CFLAGS += -Werror
endif

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

.PHONY: unit
unit:
	$(MAKE) -C $(srcdir)/test/unit run
