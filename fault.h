/*
 * fault.h
 *		Fault points of the ingest, compiled in only with -DKAPPA_FAULTS.
 *
 * The setting kappa.fault = 'point:action[:nth]' lets the nth passage (1 if not
 * given) of a point act: error, fatal, exit, kill (SIGKILL), stop (SIGSTOP).  In
 * their order: after_poll, after_decode, before_heap (upsert by index), mid_insert,
 * before_position, before_commit, after_commit; and before_release, where a worker
 * that nobody wants gives its slot back, before_retry, where one leaves for its
 * successor to try again later, and topic_check, where one that has nothing to store
 * asks whether its topic is as it was.
 */
#ifndef KAPPA_FAULT_H
#define KAPPA_FAULT_H

#ifdef KAPPA_FAULTS
extern char *kappa_fault;
extern void fault_point(const char *name);
#define FAULT_POINT(name) fault_point(name)
#else
#define FAULT_POINT(name) ((void) 0)
#endif

#endif
