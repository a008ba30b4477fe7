/*
 * test/unit/test_json_random.c
 *		json_scan against a second, slow and simple reader, on mutated documents.
 *
 * The reader below shares no code with core/json.c: it reads byte by byte,
 * looks one path up at a time, and knows the same language from RFC 8259.
 */
#include "core/json.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Reader
{
	const unsigned char *p;
	const unsigned char *end;
	int			depth;
	bool		bad;
} Reader;

/* What a path leads to: the raw value, quotes included; NULL: nothing. */
typedef struct Hit
{
	const unsigned char *start;
	const unsigned char *end;
} Hit;

static void read_value(Reader *r, const JsonStep *steps, int nsteps, Hit *hit);

static int
next_byte(Reader *r)
{
	return r->p < r->end ? *r->p : -1;
}

static void
read_space(Reader *r)
{
	while (r->p < r->end && strchr(" \t\r\n", *r->p) != NULL && *r->p != 0)
		r->p++;
}

static void
expect(Reader *r, int byte)
{
	if (next_byte(r) != byte)
		r->bad = true;
	else
		r->p++;
}

static unsigned
read_hex(Reader *r)
{
	char		digits[5] = "";
	int			i;

	for (i = 0; i < 4; i++)
	{
		int			c = next_byte(r);

		if (c <= 0 || strchr("0123456789abcdefABCDEF", c) == NULL)
		{
			r->bad = true;
			return 0;
		}
		digits[i] = (char) c;
		r->p++;
	}
	return (unsigned) strtoul(digits, NULL, 16);
}

static size_t
put_code(unsigned code, unsigned char *out)
{
	int			more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	int			i;

	out[0] = (unsigned char) (more == 0 ? code : (0xF00u >> more & 0xFF) | code >> (6 * more));
	for (i = 1; i <= more; i++)
		out[i] = (unsigned char) (0x80 | (code >> (6 * (more - i)) & 0x3F));
	return (size_t) more + 1;
}

/* Decode one raw UTF-8 character and insist on its shortest form. */
static size_t
read_utf8(Reader *r, unsigned char *out)
{
	unsigned	c = *r->p;
	size_t		n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
	unsigned	code = c & (0x7Fu >> n);
	unsigned char again[4];
	size_t		i;

	if (c < 0xC0 || c > 0xF7 || (size_t) (r->end - r->p) < n)
		r->bad = true;
	for (i = 1; !r->bad && i < n; i++)
	{
		r->bad |= (r->p[i] & 0xC0) != 0x80;
		code = code << 6 | (r->p[i] & 0x3F);
	}
	if (r->bad || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ||
		put_code(code, again) != n)
	{
		r->bad = true;
		return 0;
	}
	memcpy(out, r->p, n);
	r->p += n;
	return n;
}

static size_t
read_escape(Reader *r, unsigned char *out)
{
	static const char from[] = "\"\\/bfnrt";
	static const char to[] = "\"\\/\b\f\n\r\t";
	const char *at;
	unsigned	code;

	r->p++;
	if (next_byte(r) == 'u')
	{
		r->p++;
		code = read_hex(r);
		if (code >= 0xDC00 && code < 0xE000)
			r->bad = true;
		if (code >= 0xD800 && code < 0xDC00)
		{
			unsigned	low;

			expect(r, '\\');
			expect(r, 'u');
			low = read_hex(r);
			r->bad |= low < 0xDC00 || low >= 0xE000;
			code = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00);
		}
		return r->bad ? 0 : put_code(code, out);
	}
	at = next_byte(r) > 0 ? strchr(from, next_byte(r)) : NULL;
	if (at == NULL)
	{
		r->bad = true;
		return 0;
	}
	r->p++;
	out[0] = (unsigned char) to[at - from];
	return 1;
}

/* A string, unescaped into out (big enough for the text) if not NULL. */
static size_t
read_string(Reader *r, unsigned char *out)
{
	unsigned char bytes[4];
	size_t		len = 0;

	expect(r, '"');
	while (!r->bad)
	{
		int			c = next_byte(r);
		size_t		n = 1;

		if (c < 0x20)
			r->bad = true;
		else if (c == '"')
		{
			r->p++;
			break;
		}
		else if (c == '\\')
			n = read_escape(r, bytes);
		else if (c >= 0x80)
			n = read_utf8(r, bytes);
		else
			bytes[0] = *r->p++;
		if (out != NULL && !r->bad)
			memcpy(out + len, bytes, n);
		len += n;
	}
	return len;
}

static void
read_digits(Reader *r)
{
	const unsigned char *start = r->p;

	while (next_byte(r) >= '0' && next_byte(r) <= '9')
		r->p++;
	r->bad |= r->p == start;
}

static void
read_number(Reader *r)
{
	if (next_byte(r) == '-')
		r->p++;
	if (next_byte(r) == '0')
		r->p++;
	else
		read_digits(r);
	if (!r->bad && next_byte(r) == '.')
	{
		r->p++;
		read_digits(r);
	}
	if (!r->bad && (next_byte(r) == 'e' || next_byte(r) == 'E'))
	{
		r->p++;
		if (next_byte(r) == '+' || next_byte(r) == '-')
			r->p++;
		read_digits(r);
	}
}

static void
read_word(Reader *r, const char *word)
{
	for (; *word != '\0' && !r->bad; word++)
		expect(r, *word);
}

static void
read_container(Reader *r, bool object, const JsonStep *steps, int nsteps, Hit *hit)
{
	int			close = object ? '}' : ']';
	int			index = 0;

	r->p++;
	if (++r->depth > JSON_MAX_DEPTH)
		r->bad = true;
	read_space(r);
	if (!r->bad && next_byte(r) == close)
	{
		r->p++;
		r->depth--;
		return;
	}
	while (!r->bad)
	{
		bool		match = nsteps > 0 && steps->name == NULL && !object &&
			steps->index == index;

		index++;
		read_space(r);
		if (object)
		{
			unsigned char *name = malloc((size_t) (r->end - r->p) + 4);
			size_t		len = read_string(r, name);

			match = !r->bad && nsteps > 0 && steps->name != NULL &&
				steps->name_len == len && memcmp(steps->name, name, len) == 0;
			free(name);
			read_space(r);
			expect(r, ':');
		}
		if (match)
			hit->start = NULL;	/* the last one wins */
		if (!r->bad)
			read_value(r, steps + 1, match ? nsteps - 1 : -1, hit);
		read_space(r);
		if (next_byte(r) == close)
		{
			r->p++;
			break;
		}
		expect(r, ',');
	}
	r->depth--;
}

/* nsteps: how many steps are still to go; -1: this is not on the path. */
static void
read_value(Reader *r, const JsonStep *steps, int nsteps, Hit *hit)
{
	const unsigned char *start;

	read_space(r);
	start = r->p;
	switch (next_byte(r))
	{
		case '{':
			read_container(r, true, steps, nsteps, hit);
			break;
		case '[':
			read_container(r, false, steps, nsteps, hit);
			break;
		case '"':
			read_string(r, NULL);
			break;
		case 't':
			read_word(r, "true");
			break;
		case 'f':
			read_word(r, "false");
			break;
		case 'n':
			read_word(r, "null");
			break;
		default:
			read_number(r);
	}
	if (nsteps == 0 && !r->bad)
	{
		hit->start = start;
		hit->end = r->p;
	}
}

static bool
read_document(const char *text, size_t len, const JsonStep *steps, int nsteps, Hit *hit)
{
	Reader		r = {(const unsigned char *) text, (const unsigned char *) text + len, 0, false};

	hit->start = NULL;
	read_value(&r, steps, nsteps, hit);
	if (!r.bad)
		read_space(&r);
	return !r.bad && r.p == r.end;
}

#define NPATHS	7

static const char *const path_texts[NPATHS] = {
	"$.a", "$.b", "$.a.b", "$.a[1]", "$[0].a", "$", "$.b.c[0].a"
};

static const char *const seeds[] = {
	"{\"a\":1,\"b\":\"x\"}",
	"{\"a\":{\"b\":[1,2,{\"a\":null}]},\"b\":{\"c\":[{\"a\":true}]}}",
	"[{\"a\":\"\\u0061\\n\"},{\"b\":[]},\"\xC3\xA9\xF0\x9F\x98\x80\"]",
	"{\"a\":[10,{\"b\":-1.5e3}],\"\\u0062\":{\"c\":[{\"a\":\"\\ud83d\\ude00\"}]},\"a\":[3,4]}",
	"{ \"b\" : false , \"a\" : { \"b\" : \"0123456789abcdef0123456789\" } }",
	"[[[[[\"\\\\\",\"\\u0000\"]]]],0.1e-2,[],{},\"\"]",
};

static size_t
mutate(char *text, size_t len, size_t room, uint64_t *random)
{
	static const char *const pieces[] = {
		"\"", "\\", "{", "}", "[", "]", ",", ":", "\"a\":", "\"b\":", "null", "\\u0061",
		"\\ud83d", "\\ude00", "1e5", "-", ".", "0", " ", "\n", "\xC3\xA9", "\xE4\xB8\xAD",
		"\xF0\x9F\x98\x80", "\xED\xA0\x80", "{\"a\":", "[1,", "\\", "\\\""
	};
	int			n = (int) (unit_random(random) % 4);

	for (; n >= 0; n--)
	{
		size_t		at = len > 0 ? unit_random(random) % len : 0;
		size_t		cut = unit_random(random) % 6;
		const char *piece = pieces[unit_random(random) % (sizeof(pieces) / sizeof(pieces[0]))];
		size_t		add = strlen(piece);

		switch (unit_random(random) % 4)
		{
			case 0:
				if (len > 0)
					text[at] = (char) unit_random(random);
				break;
			case 1:
				cut = cut < len - at ? cut : len - at;
				memmove(text + at, text + at + cut, len - at - cut);
				len -= cut;
				break;
			default:
				if (len + add > room)
					break;
				memmove(text + at + add, text + at, len - at);
				memcpy(text + at, piece, add);
				len += add;
		}
	}
	return len;
}

static void
compare(const JsonPlan *plan, const JsonPath *paths, const char *text, size_t len)
{
	JsonSpan	spans[NPATHS];
	JsonKind	top;
	size_t		at;
	char	   *copy = unit_exact(text, len);
	bool		ok = json_scan(plan, copy, len, spans, &top, &at) == JSON_OK;
	int			i;

	for (i = 0; i < NPATHS; i++)
	{
		Hit			hit;
		bool		expected = read_document(copy, len, paths[i].steps, paths[i].nsteps, &hit);
		int			quote = spans[i].kind == JSON_STRING;

		CHECK(ok == expected, "%s: scan says %d at %zu", unit_show(text, len), ok, at);
		if (!ok || !expected)
			break;
		CHECK((hit.start == NULL) == (spans[i].kind == JSON_ABSENT), "%s: %s",
			  unit_show(text, len), path_texts[i]);
		CHECK(hit.start == NULL || spans[i].kind == JSON_ABSENT ||
			  (hit.start == (const unsigned char *) spans[i].start - quote &&
			   hit.end == (const unsigned char *) spans[i].start + spans[i].len + quote),
			  "%s: another span for %s", unit_show(text, len), path_texts[i]);
	}
	free(copy);
}

static void
test_mutations(void)
{
	JsonStep	steps[NPATHS][8];
	JsonPath	paths[NPATHS];
	JsonPlan   *plan;
	clock_t		stop = clock() + 2 * CLOCKS_PER_SEC;
	uint64_t	random = unit_seed;
	long		turns = 0;
	long		valid = 0;
	int			i;

	for (i = 0; i < NPATHS; i++)
	{
		paths[i].steps = steps[i];
		paths[i].nsteps = json_parse_path(path_texts[i], strlen(path_texts[i]), steps[i], 8);
	}
	plan = json_plan_build(malloc(json_plan_size(paths, NPATHS)), paths, NPATHS);
	printf("# seed %llu\n", (unsigned long long) unit_seed);
	for (; clock() < stop; turns++)
	{
		char		text[300];
		const char *seed = seeds[unit_random(&random) % (sizeof(seeds) / sizeof(seeds[0]))];
		size_t		len = strlen(seed);
		Hit			hit;

		memcpy(text, seed, len);
		len = mutate(text, len, sizeof(text), &random);
		compare(plan, paths, text, len);
		valid += read_document(text, len, NULL, -1, &hit);
	}
	printf("# %ld documents, %ld of them valid\n", turns, valid);
	CHECK(valid > turns / 100, "only %ld of %ld documents are valid", valid, turns);
	free(plan);
}

const UnitTest json_random_tests[] = {
	{"json.mutations", test_mutations},
	{NULL, NULL}
};
