/*
 * core/address.h
 *		Lists of addresses that may be connected to.
 */
#ifndef KAPPA_CORE_ADDRESS_H
#define KAPPA_CORE_ADDRESS_H

#include <stdbool.h>

/*
 * Does the list ("host:port", "host:*" or "*", comma between; NULL or empty: any)
 * name the address?
 */
extern bool address_allowed(const char *list, const char *host, const char *port);

#endif
