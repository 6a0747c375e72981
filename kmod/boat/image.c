// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel of a boat: an ordinary bzImage, started in place by the 64-bit
 * boot protocol (Documentation/arch/x86/boot.rst), and its initramfs.
 */
#include <linux/align.h>
#include <linux/cc_platform.h>
#include <linux/kernel_read_file.h>
#include <linux/pgtable.h>
#include <linux/security.h>
#include <linux/vmalloc.h>

#include <asm/bootparam.h>
#include <asm/e820/types.h>

#include "boat.h"
#include "rescue.h"

/* The offset of the 64-bit entry in the protected-mode part. */
#define BOAT_ENTRY_64		0x200
#define BOAT_LEAST_PROTOCOL	0x020c
#define BOAT_HEADER_OFFSET	offsetof(struct boot_params, hdr)
/* Loader type: undefined. */
#define BOAT_LOADER		0xff

/* A file in memory. */
struct boat_file {
	void *bytes;
	size_t len;
};

static int boat_file_read(struct boat_file *file, int fd, enum kernel_read_file_id id,
			  const char *what)
{
	ssize_t len = kernel_read_file_from_fd(fd, 0, &file->bytes, SSIZE_MAX, NULL, id);

	if (len < 0)
		return boat_refuse(len, "the %s cannot be read (error %zd)", what, -len);
	file->len = len;
	return 0;
}

static void boat_file_free(struct boat_file *file)
{
	vfree(file->bytes);
}

/*
 * kexec_file_load(2) verifies signatures with functions that are not exported
 * to modules. If it would require a signature, nothing can be loaded here; IMA
 * and LoadPin are asked when the file is read.
 */
static int boat_may_load(void)
{
	int err = security_locked_down(LOCKDOWN_KEXEC);

	if (err)
		return boat_refuse(err,
				   "this kernel is locked down, and a module cannot check the signature of another one");
	if (IS_ENABLED(CONFIG_KEXEC_SIG_FORCE))
		return boat_refuse(-EPERM,
				   "this kernel starts signed kernels only, and a module cannot check a signature");
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return boat_refuse(-EOPNOTSUPP, "this host's memory is encrypted");
	return 0;
}

static int boat_image_check(const struct boat_file *kernel, const struct setup_header *hdr)
{
	const char *why = NULL;
	u32 setup = ((hdr->setup_sects ?: 4) + 1) * 512;

	if (hdr->boot_flag != 0xaa55 || memcmp(&hdr->header, "HdrS", 4))
		why = "it is no bzImage";
	else if (hdr->version < BOAT_LEAST_PROTOCOL)
		why = "it is older than boot protocol 2.12";
	else if (!(hdr->loadflags & LOADED_HIGH))
		why = "it is a zImage";
	else if (!(hdr->xloadflags & XLF_KERNEL_64))
		why = "it has no 64-bit entry (xloadflags)";
	else if (!(hdr->xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G))
		why = "it cannot be loaded above 4 GiB (xloadflags)";
	else if (!hdr->relocatable_kernel || !is_power_of_2(hdr->kernel_alignment))
		why = "it is not relocatable";
	else if (!(hdr->xloadflags & XLF_5LEVEL) && pgtable_l5_enabled())
		why = "it does not know the page tables of five levels that this kernel uses";
	else if (setup + (u64)hdr->syssize * 16 > kernel->len + 15)
		why = "it is cut short";
	return why ? boat_refuse(-ENOEXEC, "the boat's kernel: %s", why) : 0;
}

static void boat_e820_add(struct boot_params *params, u64 start, u64 end, u32 type)
{
	params->e820_table[params->e820_entries++] = (struct boot_e820_entry) {
		.addr = start,
		.size = end - start,
		.type = type,
	};
}

/* The boat's memory map. */
static void boat_e820_write(struct boat *boat, struct boot_params *params)
{
	u64 acpi = boat->phys + BOAT_ACPI_OFFSET, ram = boat->phys + BOAT_RAM_OFFSET;

	boat_e820_add(params, boat->low, boat->low + PAGE_SIZE, E820_TYPE_RESERVED);
	boat_e820_add(params, boat->low + PAGE_SIZE, boat->low + BOAT_LOW_SIZE, E820_TYPE_RAM);
	boat_e820_add(params, boat->phys, acpi, E820_TYPE_RESERVED);
	boat_e820_add(params, acpi, acpi + BOAT_ACPI_SIZE, E820_TYPE_ACPI);
	boat_e820_add(params, acpi + BOAT_ACPI_SIZE, ram, E820_TYPE_RESERVED);
	boat_e820_add(params, ram, boat->phys + boat->ram_end, E820_TYPE_RAM);
}

/* Kernel and initramfs are at the two ends of the boat's RAM. */
static int boat_image_place(struct boat *boat, const struct boat_file *kernel,
			    const struct boat_file *initramfs)
{
	const struct setup_header *hdr = kernel->bytes + BOAT_HEADER_OFFSET;
	struct boot_params *params = (void *)(boat->region + BOAT_PARAMS_OFFSET);
	u64 end = boat->phys + boat->ram_end;
	u64 at = ALIGN(boat->phys + BOAT_RAM_OFFSET, (u64)hdr->kernel_alignment);
	u64 initrd_at = ALIGN_DOWN(end - min_t(u64, initramfs->len, end), PAGE_SIZE);
	u32 setup = ((hdr->setup_sects ?: 4) + 1) * 512;
	u64 needed = max_t(u64, hdr->init_size, kernel->len - setup);
	size_t header_end;

	if (initrd_at < at || initrd_at - at < needed)
		return boat_refuse(-EFBIG,
				   "the kernel takes %llu KiB to start in and the initramfs has %zu KiB: that is more than the boat's %lu MiB",
				   needed >> 10, initramfs->len >> 10, boat->ram_end >> 20);
	/* The header ends at the target of its first jump. */
	header_end = 0x202 + *((u8 *)kernel->bytes + 0x201);
	memcpy(&params->hdr, hdr, min(sizeof(*hdr), header_end - BOAT_HEADER_OFFSET));
	memcpy(boat->region + (at - boat->phys), kernel->bytes + setup, kernel->len - setup);
	memcpy(boat->region + (initrd_at - boat->phys), initramfs->bytes, initramfs->len);
	boat->entry = at + BOAT_ENTRY_64;
	params->hdr.type_of_loader = BOAT_LOADER;
	params->hdr.code32_start = at;
	if (initramfs->len) {
		params->hdr.ramdisk_image = lower_32_bits(initrd_at);
		params->ext_ramdisk_image = upper_32_bits(initrd_at);
		params->hdr.ramdisk_size = lower_32_bits(initramfs->len);
		params->ext_ramdisk_size = upper_32_bits(initramfs->len);
	}
	params->hdr.cmd_line_ptr = lower_32_bits(boat->phys + BOAT_CMDLINE_OFFSET);
	params->ext_cmd_line_ptr = upper_32_bits(boat->phys + BOAT_CMDLINE_OFFSET);
	params->acpi_rsdp_addr = boat->phys + BOAT_ACPI_OFFSET;
	boat_e820_write(boat, params);
	return 0;
}

static int boat_image_fit(struct boat *boat, const struct fdbox_boat_load *arg,
			  const char *cmdline, const struct boat_file *kernel,
			  const struct boat_file *initramfs)
{
	bool has_rescue = arg->flags & FDBOX_BOAT_LOAD_RESCUE;
	int err;

	if (kernel->len < sizeof(struct boot_params))
		return boat_refuse(-ENOEXEC, "the boat's kernel: it is no bzImage");
	err = boat_image_check(kernel, kernel->bytes + BOAT_HEADER_OFFSET);
	if (err)
		return err;
	/* A CPU that starts in the rescue kernel takes its page tables below 4 GiB. */
	err = boat_memory_get(boat, arg->memory_mib, has_rescue ? GFP_DMA32 : 0);
	if (!err && has_rescue)
		err = boat_rescue_take(boat);
	if (err)
		return err;
	err = boat_image_place(boat, kernel, initramfs);
	if (err)
		return err;
	boat_acpi_write(boat);
	return boat_words_make(boat, cmdline);
}

/* Everything except the CPUs. On failure the caller frees the memory, if there is any. */
int boat_image_load(struct boat *boat, const struct fdbox_boat_load *arg, const char *cmdline)
{
	struct boat_file kernel = {}, initramfs = {};
	int err;

	err = boat_may_load();
	if (err)
		return err;
	err = boat_file_read(&kernel, arg->kernel_fd, READING_KEXEC_IMAGE, "boat's kernel");
	if (!err && arg->initramfs_fd != -1)
		err = boat_file_read(&initramfs, arg->initramfs_fd, READING_KEXEC_INITRAMFS,
				     "boat's initramfs");
	if (!err)
		err = boat_image_fit(boat, arg, cmdline, &kernel, &initramfs);
	boat_file_free(&initramfs);
	boat_file_free(&kernel);
	return err;
}
