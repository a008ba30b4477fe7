/*
 * core/address.c
 *		Lists of addresses that may be connected to.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE			/* memrchr */
#endif
#include "core/address.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

/* Does one entry, "host:port", "host:*" or "*", cover the address? */
static bool
entry_allows(const char *entry, size_t len, const char *host, const char *port)
{
	const char *colon;
	const char *entry_port;
	size_t		host_len;
	size_t		port_len;

	if (len == 1 && entry[0] == '*')
		return true;
	colon = memrchr(entry, ':', len);
	if (colon == NULL)
		return false;
	host_len = colon - entry;
	entry_port = colon + 1;
	port_len = len - host_len - 1;
	if (host_len >= 2 && entry[0] == '[' && entry[host_len - 1] == ']')
	{
		entry++;
		host_len -= 2;
	}
	if (strlen(host) != host_len || strncasecmp(host, entry, host_len) != 0)
		return false;
	if (port_len == 1 && entry_port[0] == '*')
		return true;
	return strlen(port) == port_len && strncmp(port, entry_port, port_len) == 0;
}

bool
address_allowed(const char *list, const char *host, const char *port)
{
	const char *at = list;

	if (list == NULL || list[strspn(list, " \t,")] == '\0')
		return true;
	while (*at)
	{
		size_t		len;

		at += strspn(at, " \t,");
		len = strcspn(at, " \t,");
		if (len > 0 && entry_allows(at, len, host, port))
			return true;
		at += len;
	}
	return false;
}
