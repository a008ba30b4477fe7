/*
 * core/json_path.c
 *		Paths into a JSON document: from their text to a plan.
 *
 * The plan lives in one piece of the caller's memory, measured before it is
 * built: the plan, the chains of paths that end at one node, the nodes, the hash
 * tables, the names.  It is read-only once built.
 */
#include "core/json_plan.h"

#include <limits.h>

#define PLAN_ALIGN	16

/* ---------- paths ---------- */

static bool
is_name_character(char c)
{
	return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
		c == '_' || c == '-' || c == '$' || c == '@' ||
		(unsigned char) c >= 0x80;
}

/* A quoted name at p (its quote); the place after it or NULL. */
static const char *
parse_quoted(const char *p, const char *end, JsonStep *step)
{
	const char *start = p + 1;
	const char *stop = memchr(start, *p, (size_t) (end - start));

	/* A backslash would have to be unescaped, and names point into the path. */
	if (stop == NULL || memchr(start, '\\', (size_t) (stop - start)) != NULL)
		return NULL;
	step->name = start;
	step->name_len = (size_t) (stop - start);
	step->index = 0;
	return stop + 1;
}

/* An array index at p; the place after it or NULL. */
static const char *
parse_index(const char *p, const char *end, JsonStep *step)
{
	const char *start = p;
	int			value = 0;

	for (; p < end && is_digit(*p); p++)
	{
		int			digit = *p - '0';

		if (value > (INT_MAX - digit) / 10)
			return NULL;
		value = value * 10 + digit;
	}
	if (p == start || (*start == '0' && p - start > 1))
		return NULL;
	step->name = NULL;
	step->name_len = 0;
	step->index = value;
	return p;
}

/* One step at p; the place after it or NULL. */
static const char *
parse_step(const char *p, const char *end, JsonStep *step)
{
	const char *start;
	bool		bracket = *p == '[';

	if ((!bracket && *p != '.') || ++p == end)
		return NULL;
	if (*p == '"' || (bracket && *p == '\''))
		p = parse_quoted(p, end, step);
	else if (bracket)
		p = parse_index(p, end, step);
	else
	{
		for (start = p; p < end && is_name_character(*p); p++)
			;
		if (p == start)
			return NULL;
		step->name = start;
		step->name_len = (size_t) (p - start);
		step->index = 0;
	}
	if (bracket && p != NULL)
	{
		if (p == end || *p != ']')
			return NULL;
		p++;
	}
	return p;
}

int
json_parse_path(const char *text, size_t len, JsonStep *steps, int max)
{
	const char *p = text;
	const char *end;
	int			nsteps = 0;

	if (len == 0 || *p != '$')
		return -1;
	end = text + len;
	p++;
	while (p < end)
	{
		if (nsteps >= max)
			return -1;
		p = parse_step(p, end, &steps[nsteps++]);
		if (p == NULL)
			return -1;
	}
	return nsteps;
}

/* ---------- plans ---------- */

static size_t
aligned(size_t size)
{
	return (size + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN;
}

/* A path longer than any document is deep can find nothing. */
static bool
is_reachable(const JsonPath *path)
{
	return path->nsteps <= JSON_MAX_DEPTH;
}

/* What the parts of a plan need at most. */
typedef struct PlanSize
{
	size_t		paths;
	size_t		nodes;
	size_t		slots;
	size_t		names;
} PlanSize;

static PlanSize
plan_parts(const JsonPath *paths, int npaths)
{
	PlanSize	size;
	size_t		nsteps = 0;
	size_t		bytes = 0;
	int			i;
	int			j;

	for (i = 0; i < npaths; i++)
	{
		if (!is_reachable(&paths[i]))
			continue;
		nsteps += (size_t) paths[i].nsteps;
		for (j = 0; j < paths[i].nsteps; j++)
			bytes += paths[i].steps[j].name != NULL ? paths[i].steps[j].name_len : 0;
	}
	size.paths = aligned(sizeof(int) * (size_t) (npaths > 0 ? npaths : 1));
	size.nodes = aligned(sizeof(PlanNode) * (nsteps + 1));
	/* A table has less than four slots a member. */
	size.slots = aligned(sizeof(PlanNode *) * 4 * (nsteps + 1));
	size.names = aligned(bytes + 1);
	return size;
}

size_t
json_plan_size(const JsonPath *paths, int npaths)
{
	PlanSize	size = plan_parts(paths, npaths);

	return aligned(sizeof(JsonPlan)) + size.paths + size.nodes + size.slots +
		size.names;
}

/* What is still free of each part while a plan is built. */
typedef struct PlanBuild
{
	PlanNode   *node;
	const PlanNode **slot;
	char	   *name;
} PlanBuild;

/* The name in quotes with its colon, for a look at all of it at once. */
static void
set_lead(PlanNode *node)
{
	size_t		i;

	if (node->name_len + 3 > sizeof(node->lead))
		return;
	for (i = 0; i < node->name_len; i++)
	{
		if (node->name[i] == '"' || node->name[i] == '\\' || (unsigned char) node->name[i] < 0x20)
			return;
	}
	node->lead[0] = '"';
	memcpy(node->lead + 1, node->name, node->name_len);
	memcpy(node->lead + 1 + node->name_len, "\":", 2);
	node->lead_len = (uint32_t) node->name_len + 3;
	node->lead_bits = (UINT32_C(1) << node->lead_len) - 1;
}

static PlanNode *
new_node(PlanBuild *b, const JsonStep *step)
{
	PlanNode   *node = b->node++;

	memset(node, 0, sizeof(*node));
	node->path = -1;
	if (step == NULL)
		return node;
	node->index = step->index;
	if (step->name != NULL)
	{
		memcpy(b->name, step->name, step->name_len);
		node->name = b->name;
		node->name_len = step->name_len;
		b->name += step->name_len;
		name_key(node->name, node->name_len, node->name_len,
				 &node->head, &node->tail);
		set_lead(node);
	}
	return node;
}

/* The child of node for this step, made where there is none yet. */
static PlanNode *
child_for(PlanBuild *b, PlanNode *node, const JsonStep *step)
{
	const PlanNode **link = step->name != NULL ? &node->member : &node->element;
	PlanNode   *child;

	for (; *link != NULL; link = (const PlanNode **) &(*link)->next)
	{
		const PlanNode *old = *link;

		if (step->name != NULL)
		{
			if (old->name_len == step->name_len &&
				memcmp(old->name, step->name, step->name_len) == 0)
				return (PlanNode *) old;
		}
		else if (old->index == step->index)
			return (PlanNode *) old;
		else if (old->index > step->index)
			break;				/* elements are sorted */
	}
	child = new_node(b, step);
	node->inner = true;
	child->next = *link;
	*link = child;
	return child;
}

/* Give the node its hash table of members. */
static void
hash_members(PlanBuild *b, PlanNode *node)
{
	const PlanNode *child;
	uint32_t	n = 0;
	uint32_t	size = 2;

	for (child = node->member; child != NULL; child = child->next)
		n++;
	if (n == 0)
		return;
	while (size < 2 * n)
		size *= 2;
	node->slots = b->slot;
	node->mask = size - 1;
	b->slot += size;
	for (child = node->member; child != NULL; child = child->next)
	{
		uint32_t	at = name_hash(child->head, child->tail, child->name_len);

		while (node->slots[at & node->mask] != NULL)
			at++;
		node->slots[at & node->mask] = child;
	}
}

JsonPlan *
json_plan_build(void *memory, const JsonPath *paths, int npaths)
{
	PlanSize	size = plan_parts(paths, npaths);
	char	   *at = (char *) memory + aligned(sizeof(JsonPlan));
	JsonPlan   *plan = memory;
	int		   *next_path = (int *) at;
	PlanNode   *root = (PlanNode *) (at + size.paths);
	PlanBuild	b;
	int			i;
	int			j;

	b.node = root;
	b.slot = (const PlanNode **) (at + size.paths + size.nodes);
	b.name = at + size.paths + size.nodes + size.slots;
	memset(b.slot, 0, size.slots);
	new_node(&b, NULL);

	for (i = 0; i < npaths; i++)
	{
		PlanNode   *node = root;

		next_path[i] = -1;
		if (!is_reachable(&paths[i]))
			continue;
		for (j = 0; j < paths[i].nsteps; j++)
			node = child_for(&b, node, &paths[i].steps[j]);
		next_path[i] = node->path;
		node->path = i;
	}
	for (i = 0; &root[i] < b.node; i++)
		hash_members(&b, &root[i]);

	plan->npaths = npaths;
	plan->next_path = next_path;
	plan->root = root;
	return plan;
}
