/*
 * secrets_file.h
 *		The file of secrets that kappa.secrets_file names.
 */
#ifndef KAPPA_SECRETS_FILE_H
#define KAPPA_SECRETS_FILE_H

#include "postgres.h"

#include "broker_policy.h"

/* Setting of the server, defined in pg_kappa.c; NULL or empty: not set. */
extern char *kappa_secrets_file;

typedef void (*SecretVisitor) (void *arg, const OptionRule *rule, char *value);

/* Call the visitor for each line of an entry, its value checked. */
extern void read_secrets_entry(const char *entry, SecretVisitor visit, void *arg);

#endif
