/*
 * secrets_file.c
 *		The file of secrets that kappa.secrets_file names.
 *
 * Entries, "[name]", of lines "setting = value" with librdkafka's own names; #
 * and ; begin a comment.  It is read anew each time, and only where nobody but
 * the server's operating-system user can: what it holds never stands in the
 * catalogs.  An error names a line, never what stands on it.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "secrets_file.h"

#define SECRETS_MAX		(1024 * 1024)

static void
report_secrets_file(const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("secrets file cannot be used: %s", message),
			 errhint("kappa.secrets_file must name a file of the server's operating-system user with mode 0600.")));
}

/* Read the file if nobody else can. */
static char *
read_secrets_file(void)
{
	struct stat st;
	char	   *text;
	int			fd;
	ssize_t		len;

	if (kappa_secrets_file == NULL || *kappa_secrets_file == '\0')
		report_secrets_file("kappa.secrets_file is not set");
	fd = OpenTransientFile(kappa_secrets_file, O_RDONLY | PG_BINARY);
	if (fd < 0)
		report_secrets_file(strerror(errno));
	if (fstat(fd, &st) != 0)
		report_secrets_file(strerror(errno));
	if (!S_ISREG(st.st_mode))
		report_secrets_file("it is not a regular file");
	if (st.st_uid != geteuid())
		report_secrets_file("it belongs to another user");
	if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		report_secrets_file("group or others have access to it");
	if (st.st_size > SECRETS_MAX)
		report_secrets_file("it is too long");
	text = palloc(st.st_size + 1);
	len = read(fd, text, st.st_size);
	if (len < 0)
		report_secrets_file(strerror(errno));
	text[len] = '\0';
	CloseTransientFile(fd);
	return text;
}

static char *
trim(char *text)
{
	char	   *end = text + strlen(text);

	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	return text + strspn(text, " \t\r");
}

/* A PEM text stands in one line, \n for its line ends. */
static void
unfold_line_ends(char *value)
{
	char	   *to = value;

	for (char *from = value; *from; from++)
	{
		if (from[0] == '\\' && from[1] == 'n')
		{
			*to++ = '\n';
			from++;
		}
		else
			*to++ = *from;
	}
	*to = '\0';
}

void
read_secrets_entry(const char *entry, SecretVisitor visit, void *arg)
{
	char	   *next = read_secrets_file();
	bool		inside = false;
	bool		found = false;
	int			number = 0;
	char	   *line;

	while ((line = strsep(&next, "\n")) != NULL)
	{
		char	   *equals;
		char	   *name;
		char	   *value;
		const OptionRule *rule;

		number++;
		line = trim(line);
		if (*line == '\0' || *line == '#' || *line == ';')
			continue;
		if (*line == '[' && line[strlen(line) - 1] == ']')
		{
			line[strlen(line) - 1] = '\0';
			inside = strcmp(trim(line + 1), entry) == 0;
			found = found || inside;
			continue;
		}
		equals = strchr(line, '=');
		if (equals == NULL)
			report_secrets_file(psprintf("line %d is neither [entry] nor name = value", number));
		if (!inside)
			continue;
		*equals = '\0';
		name = trim(line);
		value = trim(equals + 1);
		rule = find_option_rule(name, true);
		if (rule == NULL || (rule->places & IN_FILE) == 0 || strcmp(name, SECRET_OPTION) == 0)
			report_secrets_file(psprintf("line %d does not name a setting that may stand there", number));
		if (rule->kind == KIND_PEM)
			unfold_line_ends(value);
		rule = check_option(name, value, IN_FILE, &value);
		visit(arg, rule, value);
	}
	if (!found)
		report_secrets_file(psprintf("it has no entry \"%s\"", entry));
}
