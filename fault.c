/*
 * fault.c
 *		Fault points (fault.h); an empty object file without -DKAPPA_FAULTS.
 */
#include "postgres.h"

#include "fault.h"

#ifdef KAPPA_FAULTS

#include <signal.h>
#include <unistd.h>

static void
fault_act(const char *name, const char *action)
{
	/* an ERROR may be caught and tried again without a word */
	ereport(LOG, (errmsg("fault point %s reached: %s", name, action)));
	if (strncmp(action, "error", 5) == 0)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("fault point reached")));
	if (strncmp(action, "fatal", 5) == 0)
		ereport(FATAL, (errcode(ERRCODE_ADMIN_SHUTDOWN), errmsg("fault point reached")));
	if (strncmp(action, "exit", 4) == 0)
		_exit(1);
	if (strncmp(action, "kill", 4) == 0)
		kill(getpid(), SIGKILL);
	if (strncmp(action, "stop", 4) == 0)
		kill(getpid(), SIGSTOP);
}

/* Passages are counted anew for each value of the setting. */
void
fault_point(const char *name)
{
	static char counted[64];
	static int	passages = 0;
	size_t		len = strlen(name);
	const char *fault = kappa_fault ? kappa_fault : "";
	const char *action;
	const char *nth;

	if (strncmp(counted, fault, sizeof(counted) - 1) != 0)
	{
		strlcpy(counted, fault, sizeof(counted));
		passages = 0;
	}
	if (strncmp(fault, name, len) != 0 || fault[len] != ':')
		return;
	action = fault + len + 1;
	nth = strchr(action, ':');
	if (++passages != (nth ? atoi(nth + 1) : 1))
		return;
	fault_act(name, action);
}

#endif
