/*
 * core/json_plan.h
 *		What a plan is made of: for json_path.c, which builds it, and json.c,
 *		which scans along it.
 *
 * A trie: one node a step, its member children in the order of the paths and in
 * a hash table, its element children sorted by index.  Names are compared by two
 * 8-byte keys (their first and last bytes), by memcmp only beyond 16 bytes.
 */
#ifndef KAPPA_CORE_JSON_PLAN_H
#define KAPPA_CORE_JSON_PLAN_H

#include <string.h>

#include "core/json.h"

#define likely(x)	__builtin_expect((x) != 0, 1)
#define unlikely(x) __builtin_expect((x) != 0, 0)

typedef struct PlanNode PlanNode;

struct PlanNode
{
	uint64_t	head;			/* name_key of the name */
	uint64_t	tail;
	size_t		name_len;
	const char *name;			/* NULL: an array element */
	char		lead[16];		/* "name": as it usually stands, its first bytes */
	uint32_t	lead_len;		/* 0: longer than that, or needs escapes */
	uint32_t	lead_bits;		/* a bit for each byte of lead */
	int			index;
	int			path;			/* first path that ends here, -1: none */
	bool		inner;			/* has children */
	const PlanNode *next;		/* sibling of the same sort */
	const PlanNode *member;		/* first child by name */
	const PlanNode *element;	/* first child by index */
	const PlanNode **slots;		/* members by hash, mask + 1 of them */
	uint32_t	mask;
};

struct JsonPlan
{
	int			npaths;
	const int  *next_path;		/* further path that ends at the same node */
	const PlanNode *root;
};

static inline uint64_t
load64(const char *p)
{
	uint64_t	x;

	memcpy(&x, p, sizeof(x));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	x = __builtin_bswap64(x);
#endif
	return x;
}

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') < 10;
}

/*
 * Two keys that, with the length, tell names of up to 16 bytes apart: the first
 * and the last 8 bytes (short names: their bytes padded with zeros, and 0).
 * avail is how many bytes may be read at name.
 */
static inline void
name_key(const char *name, size_t len, size_t avail,
		 uint64_t *head, uint64_t *tail)
{
	uint64_t	key = 0;
	size_t		i;

	*tail = 0;
	if (len >= 8)
	{
		*head = load64(name);
		*tail = load64(name + len - 8);
		return;
	}
	if (likely(avail >= 8))
	{
		*head = load64(name) & ((UINT64_C(1) << (len * 8)) - 1);
		return;
	}
	for (i = 0; i < len; i++)
		key |= (uint64_t) (unsigned char) name[i] << (i * 8);
	*head = key;
}

static inline uint32_t
name_hash(uint64_t head, uint64_t tail, size_t len)
{
	uint64_t	h;

	h = (head ^ (tail << 27 | tail >> 37) ^ len) * UINT64_C(0x9E3779B97F4A7C15);
	return (uint32_t) (h >> 32);
}

#endif
