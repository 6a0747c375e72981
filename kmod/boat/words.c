// SPDX-License-Identifier: GPL-2.0
/*
 * Command lines: the boat's, to which the module adds words of its own; this
 * kernel's, which must contain some words; and the next one's.
 */
#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kstrtox.h>
#include <linux/mount.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <asm/setup.h>
#include <asm/tsc.h>

#include "boat.h"

/*
 * What keeps the boat's kernel away from the host's devices. Some firmware has
 * an MP table, which would make the boat take over the IO-APIC (noapic), and a
 * kernel without an IO-APIC sets the mode of an interrupt line in the chipset
 * (acpi=noirq acpi_sci=edge). A reset on panic would reset the machine.
 */
#define BOAT_FIXED_WORDS \
	"pci=off noapic apic_extnmi=none acpi=noirq acpi_sci=edge no_ipi_broadcast=1 " \
	"8250.nr_uarts=0 tsc=reliable no_timer_check nokaslr kho=off panic=0"

/* These would contradict the module, or give the boat memory of the host. */
static const char * const boat_reserved_words[] = {
	"8250.nr_uarts", "acpi", "acpi_rsdp", "acpi_sci", "apic_extnmi", "exactmap", "kho",
	"maxcpus", "mem", "memmap", "no_ipi_broadcast", "no_timer_check", "noapic", "nokaslr",
	"nolapic", "nosmp", "nr_cpus", "panic", "pci", "reboot", "tsc", "tsc_early_khz",
};

/*
 * The next word of @rest, which is advanced past it: returns its length, or 0
 * at the end. Quoted text is part of a word; text after "--" is not for the
 * kernel.
 */
static size_t boat_word(const char **rest, const char **word)
{
	bool is_quoted = false;
	const char *at = skip_spaces(*rest);

	*word = at;
	for (; *at && (is_quoted || !isspace(*at)); at++) {
		if (*at == '"')
			is_quoted = !is_quoted;
	}
	*rest = at;
	return at - *word == 2 && !strncmp(*word, "--", 2) ? 0 : at - *word;
}

/* The length of a word without its value. */
static size_t boat_word_key(const char *word, size_t len)
{
	const char *value = memchr(word, '=', len);

	return value ? value - word : len;
}

static bool boat_word_is(const char *word, size_t len, const char *key)
{
	/* The kernel treats both the same. */
	for (; len && *key; len--, word++, key++) {
		if (*word != *key && !(*word == '-' && *key == '_'))
			return false;
	}
	return !len && !*key;
}

/* Copies the last value of @key, the one that counts, to @value; returns whether there is one. */
static bool boat_word_value(const char *cmdline, const char *key, char *value, size_t size)
{
	const char *rest = cmdline, *word;
	bool is_there = false;
	size_t len, name;

	while ((len = boat_word(&rest, &word))) {
		name = boat_word_key(word, len);
		if (!boat_word_is(word, name, key))
			continue;
		is_there = true;
		if (name < len)
			name++;
		strscpy(value, word + name, min(size, len - name + 1));
	}
	return is_there;
}

/* Checks the caller's command line for the boat. */
int boat_words_check(const char *cmdline)
{
	const char *rest = cmdline, *word;
	size_t i, len;

	while ((len = boat_word(&rest, &word))) {
		for (i = 0; i < ARRAY_SIZE(boat_reserved_words); i++) {
			if (boat_word_is(word, boat_word_key(word, len), boat_reserved_words[i]))
				return boat_refuse(-EINVAL,
						   "%s on the boat's command line is the module's to say: leave it out",
						   boat_reserved_words[i]);
		}
	}
	return 0;
}

int boat_words_make(struct boat *boat, const char *cmdline)
{
	char *text = (char *)boat->region + BOAT_CMDLINE_OFFSET;
	int len;

	/* The module's words come first: the caller's may end with "--" and words for init. */
	len = scnprintf(text, COMMAND_LINE_SIZE, "%s nr_cpus=%u maxcpus=%u tsc_early_khz=%u %s",
			BOAT_FIXED_WORDS, boat->nr_cpus, boat->nr_start, tsc_khz, cmdline);
	if (len < COMMAND_LINE_SIZE - 1)
		return 0;
	return boat_refuse(-EINVAL,
			   "the boat's command line is longer than %u bytes with the module's words",
			   COMMAND_LINE_SIZE - 2);
}

/*
 * Whether the next kernel leaves the boat's CPUs alone. Like this one, it
 * brings up those with the lowest numbers, and sends an INIT to each.
 */
int boat_words_of_next(struct boat *boat, const char *cmdline)
{
	char value[16];
	u32 i, most, lowest = U32_MAX;
	int timeout;
	bool is_on;

	for (i = 0; i < boat->nr_cpus; i++)
		lowest = min(lowest, boat->cpus[i]);
	if (!boat_word_value(cmdline, "maxcpus", value, sizeof(value)))
		return boat_refuse(-EINVAL,
				   "without maxcpus=%u that kernel would send an INIT to CPU %u, which is the boat's: add it, and take the other CPUs online when it is up",
				   lowest, lowest);
	if (kstrtou32(value, 0, &most) || !most || most > lowest)
		return boat_refuse(-EINVAL,
				   "maxcpus=%s is not from 1 to %u: CPU %u is the boat's",
				   value, lowest, lowest);
	if (boat_word_value(cmdline, "kho", value, sizeof(value)) &&
	    (kstrtobool(value, &is_on) || !is_on))
		return boat_refuse(-EINVAL,
				   "with kho=%s that kernel would overwrite the boat: say kho=on",
				   value);
	if (boat_word_value(cmdline, "panic", value, sizeof(value)) &&
	    (kstrtoint(value, 0, &timeout) || timeout))
		return boat_refuse(-EINVAL,
				   "with panic=%s that kernel would reset the machine if it panics, and with it the boat: say panic=0",
				   value);
	return 0;
}

/*
 * This kernel's command line. It is not exported to modules, so it is read like
 * by user space, in a private instance of proc over which nothing can be
 * mounted.
 */
static int boat_own_cmdline(char *text, size_t size)
{
	/* It is built in, so there is no reference to drop. */
	struct file_system_type *type = get_fs_type("proc");
	struct vfsmount *proc;
	struct file *file;
	loff_t pos = 0;
	ssize_t len;

	if (!type)
		return -ENODEV;
	proc = kern_mount(type);
	if (IS_ERR(proc))
		return PTR_ERR(proc);
	file = file_open_root_mnt(proc, "cmdline", O_RDONLY, 0);
	if (IS_ERR(file)) {
		len = PTR_ERR(file);
	} else {
		len = kernel_read(file, text, size - 1, &pos);
		fput(file);
	}
	kern_unmount(proc);
	if (len < 0)
		return len;
	text[len] = '\0';
	return 0;
}

/*
 * Copies the value of a word of this kernel's command line. Returns whether there
 * is one, or an error.
 */
static int boat_own_word(const char *key, char *value, size_t size)
{
	char *text __free(kfree) = kzalloc(COMMAND_LINE_SIZE, GFP_KERNEL);
	int err;

	if (!text)
		return -ENOMEM;
	err = boat_own_cmdline(text, COMMAND_LINE_SIZE);
	return err ?: boat_word_value(text, key, value, size);
}

/* Whether this kernel was booted without broadcast interrupts, or an error. */
int boat_no_broadcast(void)
{
	char value[16] = "";
	int off, found = boat_own_word("no_ipi_broadcast", value, sizeof(value));

	if (found <= 0)
		return found;
	return !kstrtoint(value, 0, &off) && off;
}

/* Whether this kernel hands something over by live update sessions, or an error. */
int boat_has_live_update(void)
{
	char value[16] = "";
	int found = boat_own_word("liveupdate", value, sizeof(value));
	bool is_on;

	if (found <= 0)
		return found;
	return kstrtobool(value, &is_on) || is_on;
}
