/*
 * vacuum.h
 *		What the files of the diagnostics share.
 */
#ifndef KAPPA_VACUUM_H
#define KAPPA_VACUUM_H

#include "postgres.h"

/* ERROR with a HINT unless the caller is a member of this predefined role. */
extern void require_diagnostics_role(Oid role);

#endif
