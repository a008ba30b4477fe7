/*
 * core/json.c
 *		One pass over a JSON text: validate all of it, note where the wanted
 *		values stand.
 *
 * The wanted values are a trie (json_plan.h).  A document usually names its
 * members in the order of the plan, so the sibling of the last match is tried
 * before the hash table, first as the very bytes "name": that it is written with.
 * A number's value falls out of finding its end.
 *
 * The scan recurses only along the plan, so never deeper than the document nor
 * than the paths; what no path wants is walked by skip_container, which keeps
 * one byte a level and does not recurse.  Both stop at JSON_MAX_DEPTH.
 *
 * Invariants: every read is below Scan.end and at or after Scan.text, so exact
 * buffers are enough; a NULL from a scan function means that Scan.error and
 * Scan.error_at are set; spans always point into the text.  Strings are
 * scanned 16 bytes at a time with SSE2, 8 bytes elsewhere.
 */
#include "core/json_plan.h"

#if defined(__SSE2__) && !defined(JSON_NO_SIMD)
#include <emmintrin.h>
#define USE_SSE2
#endif

typedef struct Scan
{
	const char *text;
	const char *end;
	const JsonPlan *plan;
	JsonSpan   *spans;
	size_t		nul_end;		/* offset after the last \u0000, 0: none yet */
	bool		escaped;		/* the last string had a backslash */
	bool		small;			/* the last number, as in JsonSpan */
	int8_t		scale;
	int64_t		mantissa;
	JsonError	error;
	const char *error_at;
} Scan;

/* ---------- bytes ---------- */

static inline bool
is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static inline const char *
skip_space(const char *p, const char *end)
{
	while (p < end && (unsigned char) *p <= ' ' && is_space(*p))
		p++;
	return p;
}

static const char *
fail(Scan *s, JsonError error, const char *at)
{
	s->error = error;
	s->error_at = at;
	return NULL;
}

/* ---------- UTF-8 ---------- */

static inline bool
in_range(char c, unsigned char low, unsigned char high)
{
	unsigned char u = (unsigned char) c;

	return u >= low && u <= high;
}

/* Length of the multibyte character at p, 0 where it is not well formed. */
static int
utf8_character(const char *p, size_t left)
{
	unsigned char c = (unsigned char) *p;
	unsigned char low = 0x80;
	unsigned char high = 0xBF;

	if (c < 0xC2 || c > 0xF4)
		return 0;
	if (c < 0xE0)
		return left >= 2 && in_range(p[1], low, high) ? 2 : 0;

	/* The second byte rules out overlongs, surrogates and > U+10FFFF. */
	if (c == 0xE0)
		low = 0xA0;
	else if (c == 0xED)
		high = 0x9F;
	else if (c == 0xF0)
		low = 0x90;
	else if (c == 0xF4)
		high = 0x8F;
	if (left < 3 || !in_range(p[1], low, high) || !in_range(p[2], 0x80, 0xBF))
		return 0;
	if (c < 0xF0)
		return 3;
	return left >= 4 && in_range(p[3], 0x80, 0xBF) ? 4 : 0;
}

/* First byte at or after p that is not ASCII, or end. */
static const char *
ascii_run(const char *p, const char *end)
{
	while (end - p >= 8 && (load64(p) & UINT64_C(0x8080808080808080)) == 0)
		p += 8;
	while (p < end && (unsigned char) *p < 0x80)
		p++;
	return p;
}

bool
utf8_valid(const char *text, size_t len)
{
	const char *p = text;
	const char *end;

	if (len == 0)
		return true;
	end = text + len;
	while ((p = ascii_run(p, end)) < end)
	{
		do
		{
			int			n = utf8_character(p, (size_t) (end - p));

			if (n == 0)
				return false;
			p += n;
		} while (p < end && (unsigned char) *p >= 0x80);
	}
	return true;
}

/* ---------- strings ---------- */

#ifdef USE_SSE2
/* A bit for each byte that is a quote, a backslash, below 0x20 or above 0x7F. */
static inline unsigned
special_bits(const char *p)
{
	__m128i		x = _mm_loadu_si128((const __m128i *) p);
	__m128i		quote = _mm_cmpeq_epi8(x, _mm_set1_epi8('"'));
	__m128i		slash = _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'));
	__m128i		other = _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)); /* signed */

	return (unsigned) _mm_movemask_epi8(_mm_or_si128(other,
													 _mm_or_si128(quote, slash)));
}
#else
#define EACH(b) (UINT64_C(0x0101010101010101) * (b))

/* Not zero where one of the 8 bytes may be special (false alarms are allowed). */
static inline uint64_t
special_bytes(uint64_t x)
{
	uint64_t	quote = x ^ EACH('"');
	uint64_t	slash = x ^ EACH('\\');

	return ((x - EACH(0x20)) | (quote - EACH(1)) | (slash - EACH(1)) | x) &
		EACH(0x80);
}
#endif

static inline bool
is_special(char c)
{
	return (unsigned char) c < 0x20 || (unsigned char) c > 0x7F ||
		c == '"' || c == '\\';
}

/* First byte at or after p that ends a run of plain characters, or end. */
static inline const char *
plain_run(const Scan *s, const char *p)
{
	const char *end = s->end;

#ifdef USE_SSE2
	unsigned	bits;

	while (likely(end - p >= 16))
	{
		bits = special_bits(p);
		if (likely(bits != 0))
			return p + __builtin_ctz(bits);
		p += 16;
	}
	/* The last few bytes: look at the last 16 of the text, if it has as many. */
	if (end - s->text >= 16 && p < end)
	{
		bits = special_bits(end - 16) >> (16 - (end - p));
		return bits != 0 ? p + __builtin_ctz(bits) : end;
	}
#else
	while (end - p >= 8 && special_bytes(load64(p)) == 0)
		p += 8;
#endif
	while (p < end && !is_special(*p))
		p++;
	return p;
}

static int
hex_digit(char c)
{
	if (is_digit(c))
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four hex digits at p, or -1. */
static int
hex4(const char *p, const char *end)
{
	int			value = 0;
	int			i;

	if (end - p < 4)
		return -1;
	for (i = 0; i < 4; i++)
	{
		int			digit = hex_digit(p[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* Check the escape whose backslash is at p; the place after it. */
static const char *
scan_escape(Scan *s, const char *p)
{
	int			code;

	if (s->end - p < 2)
		return fail(s, JSON_SYNTAX, s->end);
	switch (p[1])
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return p + 2;
		case 'u':
			break;
		default:
			return fail(s, JSON_BAD_ESCAPE, p);
	}
	code = hex4(p + 2, s->end);
	if (code < 0 || (code & 0xFC00) == 0xDC00)
		return fail(s, JSON_BAD_ESCAPE, p);
	if (code == 0)
		s->nul_end = (size_t) (p + 6 - s->text);
	if ((code & 0xFC00) != 0xD800)
		return p + 6;
	if (s->end - p < 12 || p[6] != '\\' || p[7] != 'u' ||
		(hex4(p + 8, s->end) & 0xFC00) != 0xDC00)
		return fail(s, JSON_BAD_ESCAPE, p);
	return p + 12;
}

/* scan_string for all but short and plain strings. */
static const char *
scan_long_string(Scan *s, const char *p)
{
	for (;;)
	{
		p = plain_run(s, p);
		if (unlikely(p == s->end))
			return fail(s, JSON_SYNTAX, p);
		if (likely(*p == '"'))
			return p;
		if (*p == '\\')
		{
			s->escaped = true;
			p = scan_escape(s, p);
			if (p == NULL)
				return NULL;
			continue;
		}
		if ((unsigned char) *p < 0x20)
			return fail(s, JSON_CONTROL_CHARACTER, p);
		do
		{
			int			n = utf8_character(p, (size_t) (s->end - p));

			if (n == 0)
				return fail(s, JSON_BAD_UTF8, p);
			p += n;
		} while (p < s->end && (unsigned char) *p >= 0x80);
	}
}

/* From p (after the opening quote) to the closing quote. */
static inline const char *
scan_string(Scan *s, const char *p)
{
	s->escaped = false;
#ifdef USE_SSE2
	if (likely(s->end - p >= 16))
	{
		unsigned	bits = special_bits(p);

		p += bits != 0 ? __builtin_ctz(bits) : 16;
		if (likely(bits != 0 && *p == '"'))
			return p;
	}
#endif
	return scan_long_string(s, p);
}

/* Write the code point as UTF-8; the number of bytes. */
static int
put_utf8(unsigned code, char *out)
{
	if (code < 0x80)
	{
		out[0] = (char) code;
		return 1;
	}
	if (code < 0x800)
	{
		out[0] = (char) (0xC0 | code >> 6);
		out[1] = (char) (0x80 | (code & 0x3F));
		return 2;
	}
	if (code < 0x10000)
	{
		out[0] = (char) (0xE0 | code >> 12);
		out[1] = (char) (0x80 | (code >> 6 & 0x3F));
		out[2] = (char) (0x80 | (code & 0x3F));
		return 3;
	}
	out[0] = (char) (0xF0 | code >> 18);
	out[1] = (char) (0x80 | (code >> 12 & 0x3F));
	out[2] = (char) (0x80 | (code >> 6 & 0x3F));
	out[3] = (char) (0x80 | (code & 0x3F));
	return 4;
}

/* Unescape the valid escape at *p into out (4 bytes), move *p after it. */
static int
unescape_one(const char **p, const char *end, char *out)
{
	const char *at = *p;
	unsigned	code;

	*p = at + 2;
	switch (at[1])
	{
		case 'b':
			*out = '\b';
			return 1;
		case 'f':
			*out = '\f';
			return 1;
		case 'n':
			*out = '\n';
			return 1;
		case 'r':
			*out = '\r';
			return 1;
		case 't':
			*out = '\t';
			return 1;
		case 'u':
			break;
		default:
			*out = at[1];
			return 1;
	}
	code = (unsigned) hex4(at + 2, end);
	*p = at + 6;
	if ((code & 0xFC00) == 0xD800)
	{
		code = 0x10000 + ((code & 0x3FF) << 10) +
			((unsigned) hex4(at + 8, end) & 0x3FF);
		*p = at + 12;
	}
	return put_utf8(code, out);
}

size_t
json_unescape(const JsonSpan *span, char *out)
{
	const char *p = span->start;
	const char *end = p + span->len;
	char	   *to = out;

	if (!span->escaped)
	{
		memcpy(out, p, span->len);
		return span->len;
	}
	while (p < end)
	{
		const char *slash = memchr(p, '\\', (size_t) (end - p));
		const char *stop = slash != NULL ? slash : end;

		memcpy(to, p, (size_t) (stop - p));
		to += stop - p;
		p = stop;
		if (p < end)
			to += unescape_one(&p, end, to);
	}
	return (size_t) (to - out);
}

/* ---------- names ---------- */

static inline bool
same_name(const PlanNode *node, const char *name, size_t len,
		  uint64_t head, uint64_t tail)
{
	/* One branch: three would each be guessed wrong now and then. */
	return ((node->head ^ head) | (node->tail ^ tail) | (node->name_len ^ len)) == 0 &&
		(likely(len <= 16) || memcmp(node->name, name, len) == 0);
}

/* Does the valid escaped string [p, end) spell the node's name? */
static bool
same_escaped_name(const PlanNode *node, const char *p, const char *end)
{
	const char *name = node->name;
	size_t		left = node->name_len;

	while (p < end)
	{
		char		bytes[4];
		size_t		n = 1;

		if (*p == '\\')
			n = (size_t) unescape_one(&p, end, bytes);
		else
			bytes[0] = *p++;
		if (n > left || memcmp(bytes, name, n) != 0)
			return false;
		name += n;
		left -= n;
	}
	return left == 0;
}

/* The member of node with this name, or NULL; guess is tried first. */
static inline const PlanNode *
find_member(const Scan *s, const PlanNode *node, const PlanNode *guess,
			const char *name, const char *name_end)
{
	size_t		len = (size_t) (name_end - name);
	const PlanNode *child;
	uint64_t	head;
	uint64_t	tail;
	uint32_t	slot;

	if (unlikely(s->escaped))
	{
		for (child = node->member; child != NULL; child = child->next)
		{
			if (same_escaped_name(child, name, name_end))
				return child;
		}
		return NULL;
	}
	name_key(name, len, (size_t) (s->end - name), &head, &tail);
	if (likely(guess != NULL) && same_name(guess, name, len, head, tail))
		return guess;
	slot = name_hash(head, tail, len) & node->mask;
	while ((child = node->slots[slot]) != NULL)
	{
		if (same_name(child, name, len, head, tail))
			return child;
		slot = (slot + 1) & node->mask;
	}
	return NULL;
}

/* ---------- scalars ---------- */

/* The number that the first n (at most 8) bytes of x, all digits minus '0', spell. */
static inline uint64_t
digits_value(uint64_t x, int n)
{
	/* leading zeros, then pairs, fours, eights */
	x = n > 0 ? x << (64 - 8 * n) : 0;
	x = (x & UINT64_C(0x0F0F0F0F0F0F0F0F)) * 2561 >> 8;
	x = (x & UINT64_C(0x00FF00FF00FF00FF)) * 6553601 >> 16;
	return (x & UINT64_C(0x0000FFFF0000FFFF)) * UINT64_C(42949672960001) >> 32;
}

/*
 * Past the digits at p; *value goes on with them (it may wrap: the caller counts
 * how many there were).
 */
static inline const char *
take_digits(const char *p, const char *end, uint64_t *value)
{
	static const uint32_t power[] = {
		1, 10, 100, 1000, 10000, 100000, 1000000, 10000000
	};

	while (end - p >= 8)
	{
		/* High bits of the bytes that are no digit; no carry between bytes. */
		uint64_t	x = load64(p) ^ UINT64_C(0x3030303030303030);
		uint64_t	other = (((x & UINT64_C(0x7F7F7F7F7F7F7F7F)) +
							  UINT64_C(0x7676767676767676)) | x) &
			UINT64_C(0x8080808080808080);

		if (likely(other != 0))
		{
			int			n = __builtin_ctzll(other) >> 3;

			*value = *value * power[n] + digits_value(x, n);
			return p + n;
		}
		*value = *value * 100000000 + digits_value(x, 8);
		p += 8;
	}
	for (; p < end && is_digit(*p); p++)
		*value = *value * 10 + (uint64_t) (*p - '0');
	return p;
}

/* The exponent of a number, whose e is at p. */
static const char *
scan_exponent(Scan *s, const char *p)
{
	s->small = false;
	p++;
	if (p < s->end && (*p == '+' || *p == '-'))
		p++;
	if (p == s->end || !is_digit(*p))
		return fail(s, JSON_SYNTAX, p);
	while (p < s->end && is_digit(*p))
		p++;
	return p;
}

static inline const char *
scan_number(Scan *s, const char *p)
{
	const char *end = s->end;
	bool		negative = *p == '-';
	const char *start = p += negative;
	uint64_t	value = 0;

	p = take_digits(p, end, &value);
	if (unlikely(p == start))
		return fail(s, JSON_SYNTAX, p);
	s->scale = 0;
	/* a zero stands alone: what follows it is not of this number */
	if (unlikely(*start == '0' && p - start > 1))
	{
		s->small = false;
		return start + 1;
	}
	s->small = p - start <= 18;
	if (p < end && *p == '.')
	{
		const char *fraction = ++p;

		p = take_digits(p, end, &value);
		if (unlikely(p == fraction))
			return fail(s, JSON_SYNTAX, p);
		s->small = p - start <= 19;
		s->scale = s->small ? (int8_t) (p - fraction) : 0;
	}
	if (unlikely(negative && value == 0))
		s->small = false;
	if (s->small)
		s->mantissa = negative ? -(int64_t) value : (int64_t) value;
	if (unlikely(p < end && (*p == 'e' || *p == 'E')))
		return scan_exponent(s, p);
	return p;
}

static inline const char *
scan_word(Scan *s, const char *p, const char *word, size_t len)
{
	if ((size_t) (s->end - p) < len || memcmp(p, word, len) != 0)
		return fail(s, JSON_SYNTAX, p);
	return p + len;
}

/* true, false or null at p (< end); the place after it. */
static const char *
scan_literal(Scan *s, const char *p, JsonKind *kind)
{
	switch (*p)
	{
		case 't':
			*kind = JSON_TRUE;
			return scan_word(s, p, "true", 4);
		case 'f':
			*kind = JSON_FALSE;
			return scan_word(s, p, "false", 5);
		case 'n':
			*kind = JSON_NULL;
			return scan_word(s, p, "null", 4);
		default:
			return fail(s, JSON_SYNTAX, p);
	}
}

/* A string, number, true, false or null at p (< end); the place after it. */
static inline const char *
scan_scalar(Scan *s, const char *p, JsonKind *kind)
{
	if (*p == '"')
	{
		*kind = JSON_STRING;
		p = scan_string(s, p + 1);
		return likely(p != NULL) ? p + 1 : NULL;
	}
	if (is_digit(*p) || *p == '-')
	{
		*kind = JSON_NUMBER;
		return scan_number(s, p);
	}
	return scan_literal(s, p, kind);
}

/* ---------- containers that nobody wants to look into ---------- */

/* From a member's opening quote to its value. */
static inline const char *
skip_name(Scan *s, const char *p)
{
	if (p == s->end || *p != '"')
		return fail(s, JSON_SYNTAX, p);
	p = scan_string(s, p + 1);
	if (p == NULL)
		return NULL;
	p = skip_space(p + 1, s->end);
	if (p == s->end || *p != ':')
		return fail(s, JSON_SYNTAX, p);
	return skip_space(p + 1, s->end);
}

/*
 * The object or array at p, inside depth others; the place after it.  Without
 * recursion, so that a hostile text costs no stack.
 */
static const char *
skip_container(Scan *s, const char *p, int depth)
{
	char		closing[JSON_MAX_DEPTH];	/* of each open container */
	int			level = 0;

	for (;;)
	{
		/* A value starts at p. */
		JsonKind	kind;

		if (p == s->end)
			return fail(s, JSON_SYNTAX, p);
		if (*p == '{' || *p == '[')
		{
			if (depth + level >= JSON_MAX_DEPTH)
				return fail(s, JSON_TOO_DEEP, p);
			closing[level++] = *p == '{' ? '}' : ']';
			p = skip_space(p + 1, s->end);
			if (p == s->end || *p != closing[level - 1])
			{
				if (closing[level - 1] == '}' && (p = skip_name(s, p)) == NULL)
					return NULL;
				continue;
			}
			/* Empty: the loop below closes it. */
		}
		else if ((p = scan_scalar(s, p, &kind)) == NULL)
			return NULL;

		/* After a value: close what ends here, then go to the next one. */
		for (;;)
		{
			p = skip_space(p, s->end);
			if (p == s->end || *p != closing[level - 1])
				break;
			p++;
			if (--level == 0)
				return p;
		}
		if (p == s->end || *p != ',')
			return fail(s, JSON_SYNTAX, p);
		p = skip_space(p + 1, s->end);
		if (closing[level - 1] == '}' && (p = skip_name(s, p)) == NULL)
			return NULL;
	}
}

/* ---------- values that a path leads to ---------- */

static const char *scan_value(Scan *s, const char *p, const PlanNode *node,
							  int depth);

/* Of repeated members the last wins: forget what the earlier one held. */
static void
forget_below(Scan *s, const PlanNode *node)
{
	const PlanNode *child;
	int			i;

	for (child = node->member; child != NULL; child = child->next)
	{
		for (i = child->path; i >= 0; i = s->plan->next_path[i])
			memset(&s->spans[i], 0, sizeof(JsonSpan));
		forget_below(s, child);
	}
	for (child = node->element; child != NULL; child = child->next)
	{
		for (i = child->path; i >= 0; i = s->plan->next_path[i])
			memset(&s->spans[i], 0, sizeof(JsonSpan));
		forget_below(s, child);
	}
}

/* Note the value [start, end) for all paths that end at node. */
static inline void
note_value(Scan *s, const PlanNode *node, JsonKind kind,
		   const char *start, const char *end)
{
	JsonSpan	span;
	int			i;

	span.kind = kind;
	span.escaped = false;
	span.has_nul = s->nul_end > (size_t) (start - s->text);
	span.small = kind == JSON_NUMBER && s->small;
	span.scale = s->scale;
	span.mantissa = s->mantissa;
	span.start = start;
	span.len = (size_t) (end - start);
	if (kind == JSON_STRING)
	{
		span.escaped = s->escaped;
		span.start++;
		span.len -= 2;
	}
	for (i = node->path; i >= 0; i = s->plan->next_path[i])
		s->spans[i] = span;
}

/* From the closing quote of a name to the value after it. */
static inline const char *
skip_colon(Scan *s, const char *p)
{
	if (likely(s->end - p > 2 && p[1] == ':' && (unsigned char) p[2] > ' '))
		return p + 2;
	p = skip_space(p + 1, s->end);
	if (p == s->end || *p != ':')
		return fail(s, JSON_SYNTAX, p);
	p = skip_space(p + 1, s->end);
	return p < s->end ? p : fail(s, JSON_SYNTAX, p);
}

/* Does the member that is guessed stand at p just as it usually does? */
static inline bool
is_lead(const Scan *s, const char *p, const PlanNode *guess)
{
	if (unlikely(guess == NULL || guess->lead_len == 0 || s->end - p <= (ptrdiff_t) sizeof(guess->lead)))
		return false;
#ifdef USE_SSE2
	{
		__m128i		same = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *) p),
										  _mm_loadu_si128((const __m128i *) guess->lead));

		return (~(uint32_t) _mm_movemask_epi8(same) & guess->lead_bits) == 0;
	}
#else
	return memcmp(p, guess->lead, guess->lead_len) == 0;
#endif
}

/*
 * From the opening quote of a member's name to its value; *child is the member,
 * NULL where nobody wants it.
 */
static inline const char *
scan_name(Scan *s, const char *p, const PlanNode *node, const PlanNode *guess,
		  const PlanNode **child)
{
	const char *name = p + 1;

	if (likely(is_lead(s, p, guess)))
	{
		*child = guess;
		p += guess->lead_len;
		if (*p == ' ')
			p++;
		if (likely(p < s->end && (unsigned char) *p > ' '))
			return p;
		p = skip_space(p, s->end);
		return p < s->end ? p : fail(s, JSON_SYNTAX, p);
	}
	if (unlikely(p == s->end || *p != '"'))
		return fail(s, JSON_SYNTAX, p);
	p = scan_string(s, name);
	if (unlikely(p == NULL))
		return NULL;
	*child = find_member(s, node, guess, name, p);
	return skip_colon(s, p);
}

/* The object at p of which node wants members. */
static const char *
scan_object(Scan *s, const char *p, const PlanNode *node, int depth)
{
	const char *end = s->end;
	const PlanNode *guess = node->member;

	p = skip_space(p + 1, end);
	if (p < end && *p == '}')
		return p + 1;
	for (;;)
	{
		const PlanNode *child;
		JsonKind	kind;

		p = scan_name(s, p, node, guess, &child);
		if (unlikely(p == NULL))
			return NULL;

		if (child != NULL)
			guess = child->next;
		if (*p == '{' || *p == '[' || (child != NULL && child->inner))
			p = scan_value(s, p, child, depth);
		else
		{
			const char *start = p;

			p = scan_scalar(s, p, &kind);
			if (child != NULL && likely(p != NULL))
				note_value(s, child, kind, start, p);
		}
		if (unlikely(p == NULL))
			return NULL;

		if (likely(end - p > 1 && *p == ',' && p[1] == '"'))
		{
			p++;
			continue;
		}
		if (likely(p < end && *p == '}'))
			return p + 1;
		p = skip_space(p, end);
		if (p < end && *p == ',')
			p = skip_space(p + 1, end);
		else if (p < end && *p == '}')
			return p + 1;
		else
			return fail(s, JSON_SYNTAX, p);
	}
}

/* The array at p of which node wants elements. */
static const char *
scan_array(Scan *s, const char *p, const PlanNode *node, int depth)
{
	const char *end = s->end;
	const PlanNode *wanted = node->element;
	int			index;

	p = skip_space(p + 1, end);
	if (p < end && *p == ']')
		return p + 1;
	for (index = 0;; index++)
	{
		const PlanNode *child = NULL;

		if (wanted != NULL && wanted->index == index)
		{
			child = wanted;
			wanted = wanted->next;
		}
		p = scan_value(s, p, child, depth);
		if (p == NULL)
			return NULL;
		p = skip_space(p, end);
		if (p < end && *p == ',')
			p = skip_space(p + 1, end);
		else if (p < end && *p == ']')
			return p + 1;
		else
			return fail(s, JSON_SYNTAX, p);
	}
}

/*
 * The value at p, inside depth containers, noted for the paths of node (NULL:
 * nobody wants it); the place after it.
 */
static const char *
scan_value(Scan *s, const char *p, const PlanNode *node, int depth)
{
	const char *start = p;
	JsonKind	kind;

	if (unlikely(p == s->end))
		return fail(s, JSON_SYNTAX, p);
	/* At depth 0 nothing has been noted yet. */
	if (node != NULL && node->inner && depth > 0)
		forget_below(s, node);

	if (*p == '{')
	{
		kind = JSON_OBJECT;
		if (depth >= JSON_MAX_DEPTH)
			return fail(s, JSON_TOO_DEEP, p);
		p = node != NULL && node->member != NULL ?
			scan_object(s, p, node, depth + 1) : skip_container(s, p, depth);
	}
	else if (*p == '[')
	{
		kind = JSON_ARRAY;
		if (depth >= JSON_MAX_DEPTH)
			return fail(s, JSON_TOO_DEEP, p);
		p = node != NULL && node->element != NULL ?
			scan_array(s, p, node, depth + 1) : skip_container(s, p, depth);
	}
	else
		p = scan_scalar(s, p, &kind);

	if (likely(p != NULL) && node != NULL)
		note_value(s, node, kind, start, p);
	return p;
}

static JsonKind
kind_of(char first)
{
	switch (first)
	{
		case '{':
			return JSON_OBJECT;
		case '[':
			return JSON_ARRAY;
		case '"':
			return JSON_STRING;
		case 't':
			return JSON_TRUE;
		case 'f':
			return JSON_FALSE;
		case 'n':
			return JSON_NULL;
		default:
			return JSON_NUMBER;
	}
}

JsonError
json_scan(const JsonPlan *plan, const char *text, size_t len,
		  JsonSpan *spans, JsonKind *top, size_t *error_at)
{
	Scan		s = {0};
	const char *start;
	const char *p;

	if (plan->npaths > 0)
		memset(spans, 0, sizeof(JsonSpan) * (size_t) plan->npaths);
	*top = JSON_ABSENT;
	*error_at = 0;
	if (len == 0)
		return JSON_EMPTY;

	s.text = text;
	s.end = text + len;
	s.plan = plan;
	s.spans = spans;
	start = skip_space(text, s.end);
	if (start == s.end)
	{
		*error_at = len;
		return JSON_EMPTY;
	}
	p = scan_value(&s, start, plan->root, 0);
	if (likely(p != NULL))
	{
		p = skip_space(p, s.end);
		if (likely(p == s.end))
		{
			*top = kind_of(*start);
			return JSON_OK;
		}
		fail(&s, JSON_TRAILING, p);
	}
	if (plan->npaths > 0)
		memset(spans, 0, sizeof(JsonSpan) * (size_t) plan->npaths);
	*error_at = (size_t) (s.error_at - text);
	return s.error;
}

/* ---------- elements ---------- */

void
json_elements(const JsonSpan *array, JsonElements *it)
{
	/* Without the brackets. */
	it->end = array->start + array->len - 1;
	it->at = skip_space(array->start + 1, it->end);
}

bool
json_next_element(JsonElements *it, JsonSpan *element)
{
	static const PlanNode root;	/* path 0 */
	static const int next_path[1] = {-1};
	static const JsonPlan plan = {1, next_path, &root};
	Scan		s = {0};
	const char *p;

	if (it->at >= it->end)
		return false;
	s.text = it->at;
	s.end = it->end;
	s.plan = &plan;
	s.spans = element;
	p = scan_value(&s, it->at, &root, 0);
	if (p == NULL)
		return false;			/* not the array of a successful scan */
	p = skip_space(p, it->end);
	it->at = p < it->end ? skip_space(p + 1, it->end) : p;
	return true;
}

const char *
json_error_text(JsonError error)
{
	switch (error)
	{
		case JSON_OK:
			return "valid JSON";
		case JSON_EMPTY:
			return "invalid JSON: the text is empty";
		case JSON_SYNTAX:
			return "invalid JSON: unexpected character or end of text";
		case JSON_TRAILING:
			return "invalid JSON: more text after the end of the value";
		case JSON_BAD_UTF8:
			return "invalid JSON: a string is not valid UTF-8";
		case JSON_BAD_ESCAPE:
			return "invalid JSON: unknown escape or unpaired surrogate in a string";
		case JSON_CONTROL_CHARACTER:
			return "invalid JSON: unescaped control character in a string";
		case JSON_TOO_DEEP:
			return "invalid JSON: nested too deeply";
	}
	return "invalid JSON";
}
