/*
 * try_input.h
 *		Reading text as a type, without an ERROR where it is none.
 */
#ifndef KAPPA_TRY_INPUT_H
#define KAPPA_TRY_INPUT_H

#include "postgres.h"

/* false: the text is no value of the type, which must be a built-in one. */
extern bool try_input(Oid type, char *text, Datum *value);

#endif
