// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: leaves a handover with one error for fdbox.ko of the next kernel,
 * or checks whether such a handover was passed on unchanged.
 *
 *	insmod fdbox_forge.ko how=HOW
 *
 * Values of HOW:
 *
 *	none	no error
 *	magic, root-short, body-short, root, body, extent, name, box-twice,
 *	fd-twice, trailing
 *		an error in this part
 *	version	a newer version, otherwise correct
 *	verify	loading succeeds if the handover that "version" wrote in the last
 *		kernel has arrived, with its page, and fails with EILSEQ if not
 *	records	the handover is correct, the data of each descriptor is not
 *	carried	the memory of a descriptor was not preserved by KHO
 *	blocks	a memfd whose pages were preserved one by one, and another memfd
 *		that has the second of them
 *
 * The handover is written by docs/handover-abi.md and not by the module's code.
 */
#include <linux/crc32.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/unaligned.h>
#include <linux/vmalloc.h>

#define ROOT_LEN	256
#define BOX_LEN		280
#define FD_LEN		328
#define PATTERN		0x5a
#define BODY_MAX	SZ_16K

static char *how = "none";
module_param(how, charp, 0400);
MODULE_PARM_DESC(how, "what to get wrong");

static bool is(const char *what)
{
	return !strcmp(how, what);
}

static u32 sum(const void *data, size_t len)
{
	return ~crc32_le(~0U, data, len);
}

/* A descriptor with the data of its kind and up to two extents. */
struct forged_fd {
	const char *name;
	const char *compatible;
	const u8 *data;
	u32 len;
	u64 extents[2];
};

/* A memfd of two pages, with owner and group 0 and without a name. */
static const u8 memfd[36] = { 0, 0x20 };
/* The same with a name of 255 bytes that is missing. */
static const u8 memfd_named[36] = { 0, 0x20, [32] = 255 };
/* A memfd of one page. */
static const u8 memfd_page[36] = { 0, 0x10 };
/* A machine number that does not exist. */
static const u8 vm_machine[12] = { [8] = 1 };
/* A guest_memfd of two pages that belongs to the VM "vm". */
static const u8 guest[22] = { 0, 0x20, [8] = 3, [16] = 2, [20] = 'v', 'm' };

/* Memfds of huge pages: of 8 KiB, which no x86-64 has, one page; and of 2 MiB, one page. */
static const u8 huge_8k[48] = { 13, [9] = 0x20, [40] = 3 };
static const u8 huge_2m[48] = { 21, [10] = 0x20, [40] = 3 };

#define HUGETLB	"fdbox,hugetlb-v1"
#define MEMFD	"fdbox,memfd-v1"
#define VM	"fdbox,kvm-vm-v1"
#define GUEST	"fdbox,guest-memfd-v1"

/*
 * An extent of one page is encoded as its page frame number. @kept is the first of
 * four pages, two of which KHO preserves. This extent has two pages at an address
 * where there is no memory.
 */
#define NOT_KEPT	(BIT_ULL(40) | BIT_ULL(30))

static u32 forged_fds(struct forged_fd *fds, u64 kept)
{
	const struct forged_fd records[] = {
		{ "memfd-short", MEMFD, memfd, 35 },
		{ "memfd-name", MEMFD, memfd_named, 36 },
		{ "memfd-few", MEMFD, memfd, 36, { kept } },
		{ "memfd-twice", MEMFD, memfd, 36, { kept + 1, kept + 1 } },
		{ "memfd-nowhere", MEMFD, memfd, 36, { NOT_KEPT } },
		{ "memfd-in-use", MEMFD, memfd, 36, { kept + 2, kept + 3 } },
		{ "memfd-order", MEMFD, memfd, 36, { BIT_ULL(58) | kept } },
		{ "vm-short", VM, vm_machine, 11 },
		{ "vm-machine", VM, vm_machine, 12 },
		{ "guest-short", GUEST, guest, 19 },
		{ "guest-name", GUEST, guest, 21 },
		{ "guest-few", GUEST, guest, 22, { kept } },
		{ "guest-alone", GUEST, guest, 22, { kept, kept + 1 } },
		{ "huge-short", HUGETLB, huge_8k, 47 },
		{ "huge-order", HUGETLB, huge_8k, 48, { kept, kept + 1 } },
		{ "huge-few", HUGETLB, huge_2m, 48 },
		{ "huge-size", HUGETLB, huge_8k, 48, { BIT_ULL(58) | kept } },
		{ "memfd-good", MEMFD, memfd_page, 36, { kept } },
	};
	const struct forged_fd carried = { "fd", "fdbox,forged-v1", NULL, 0, { NOT_KEPT } };
	const struct forged_fd one = { "fd", "fdbox,forged-v1", NULL, 0, { kept } };
	const struct forged_fd blocks[] = {
		{ "memory", MEMFD, memfd, 36, { kept, kept + 1 } },
		{ "again", MEMFD, memfd_page, 36, { kept + 1 } },
	};

	if (is("records")) {
		memcpy(fds, records, sizeof(records));
		return ARRAY_SIZE(records);
	}
	if (is("blocks")) {
		memcpy(fds, blocks, sizeof(blocks));
		return ARRAY_SIZE(blocks);
	}
	fds[0] = is("carried") ? carried : one;
	if (is("version"))
		fds[0].extents[1] = kept + 1;
	fds[1] = fds[0];
	fds[1].extents[0] = 0;
	return is("fd-twice") ? 2 : 1;
}

/* Appends an empty box of the same name and returns the length. */
static u32 fill_box(u8 *bx)
{
	put_unaligned_le32(BOX_LEN, bx);
	put_unaligned_le32(0600, bx + 8);
	strscpy(bx + 24, "forged", 256);
	return BOX_LEN;
}

/* Writes the box "forged" and returns the length. */
static u32 fill_body(u8 *body, u64 kept, u32 *extents)
{
	struct forged_fd fds[20];
	u32 len, i, at, nr = forged_fds(fds, kept);
	u8 *bx, *fd;

	for (i = 0, *extents = 0; i < nr; i++)
		for (at = 0; at < 2 && fds[i].extents[at]; at++)
			put_unaligned_le64(fds[i].extents[at], body + 8 * (*extents)++);
	bx = body + 8 * *extents;
	put_unaligned_le32(nr, bx + 4);
	put_unaligned_le32(0600, bx + 8);
	strscpy(bx + 24, is("name") ? "a/b" : "forged", 256);
	for (i = 0, fd = bx + BOX_LEN, *extents = 0; i < nr; i++, fd += len) {
		len = FD_LEN + ALIGN(fds[i].len, 8);
		at = !!fds[i].extents[0] + !!fds[i].extents[1];
		put_unaligned_le32(len, fd);
		put_unaligned_le32(fds[i].len, fd + 4);
		put_unaligned_le64(*extents, fd + 8);
		put_unaligned_le64(is("trailing") ? 0 : at, fd + 16);
		strscpy(fd + 24, fds[i].name, 256);
		strscpy(fd + 24 + 256, fds[i].compatible, 48);
		if (fds[i].len)
			memcpy(fd + FD_LEN, fds[i].data, fds[i].len);
		*extents += at;
	}
	put_unaligned_le32(fd - bx, bx);
	if (is("box-twice"))
		fd += fill_box(fd);
	if (is("extent"))
		put_unaligned_le64(0, body);
	return fd - body;
}

static void fill_root(u8 *root, const u8 *body, u32 len, u32 extents,
		      const struct kho_vmalloc *vm)
{
	memcpy(root, is("magic") ? "FDBOXNOT" : "FDBOXKHO", 8);
	put_unaligned_le32(is("version") ? 99 : 1, root + 8);
	put_unaligned_le32(ROOT_LEN, root + 12);
	put_unaligned_le64(is("body-short") ? 1 << 20 : len, root + 16);
	put_unaligned_le32(sum(body, len), root + 24);
	put_unaligned_le32(is("box-twice") ? 2 : 1, root + 28);
	put_unaligned_le64(extents, root + 32);
	memcpy(root + 40, vm, sizeof(*vm));
	strscpy(root + 56, "forged", 64);
	put_unaligned_le32(sum(root, ROOT_LEN - 4), root + ROOT_LEN - 4);
	if (is("root"))
		root[60] ^= 1;
}

/* The memory is not freed, because it is handed over to the next kernel. */
static int forge(void)
{
	struct kho_vmalloc vm = {};
	struct page *page;
	u8 *root, *body;
	u32 len, extents;
	int err;

	if (!kho_is_enabled())
		return -EOPNOTSUPP;
	page = alloc_pages(GFP_KERNEL, 2);
	root = kho_alloc_preserve(PAGE_SIZE);
	body = vzalloc(BODY_MAX);
	if (!page || IS_ERR(root) || !body)
		return -ENOMEM;
	memset(page_address(page), PATTERN, 2 * PAGE_SIZE);
	/* One by one, so that KHO has two blocks of order 0. */
	err = kho_preserve_pages(page, 1) ?: kho_preserve_pages(page + 1, 1);
	err = err ?: kho_preserve_vmalloc(body, &vm);
	if (err)
		return err;
	len = fill_body(body, page_to_pfn(page), &extents);
	fill_root(root, body, len, extents, &vm);
	if (is("body"))
		body[8 + 24] ^= 1;
	return kho_add_subtree("fdbox", root, is("root-short") ? 100 : ROOT_LEN);
}

static int verify(void)
{
	struct kho_vmalloc vm;
	phys_addr_t phys;
	const u8 *root, *body;
	size_t len;

	if (kho_retrieve_subtree("fdbox", &phys, &len) || len != ROOT_LEN)
		return -EILSEQ;
	root = phys_to_virt(phys);
	if (get_unaligned_le32(root + 8) != 99 || strcmp(root + 56, "forged") ||
	    get_unaligned_le32(root + ROOT_LEN - 4) != sum(root, ROOT_LEN - 4))
		return -EILSEQ;
	memcpy(&vm, root + 40, sizeof(vm));
	body = kho_restore_vmalloc(&vm);
	if (!body || sum(body, get_unaligned_le64(root + 16)) != get_unaligned_le32(root + 24))
		return -EILSEQ;
	phys = PFN_PHYS(get_unaligned_le64(body));
	/* As above. */
	if (!kho_restore_pages(phys, 1) || !kho_restore_pages(phys + PAGE_SIZE, 1) ||
	    memchr_inv(phys_to_virt(phys), PATTERN, 2 * PAGE_SIZE))
		return -EILSEQ;
	return 0;
}

static int __init forge_init(void)
{
	return is("verify") ? verify() : forge();
}
module_init(forge_init);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The FDBox developers");
MODULE_DESCRIPTION("Leaves broken FDBox handovers, for tests");
