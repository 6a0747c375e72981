// SPDX-License-Identifier: GPL-2.0
/*
 * For the tests: leaves a handover for fdbox.ko of the next kernel that is wrong
 * in one way, and looks whether a handover went through a kernel unharmed.
 *
 *	insmod fdbox_forge.ko how=HOW
 *
 * HOW is none of them, "magic", "short", "root", "body", "extent", "name",
 * "trailing", or "version" (a newer version, else correct), or "verify":
 * loading succeeds when this kernel was left what "version" had left, its page
 * included, and fails with EILSEQ when not.
 *
 * It writes the handover from docs/handover-abi.md, not from the module's code.
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
#define BODY_LEN	(8 + BOX_LEN + FD_LEN)
#define PATTERN		0x5a

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

/* One extent of one page, one box "forged" with one descriptor "fd". */
static void fill_body(u8 *body, struct page *page)
{
	u8 *bx = body + 8, *fd = bx + BOX_LEN;

	put_unaligned_le64(page_to_pfn(page), body);
	put_unaligned_le32(BOX_LEN + FD_LEN, bx);
	put_unaligned_le32(1, bx + 4);
	put_unaligned_le32(0600, bx + 8);
	strscpy(bx + 24, is("name") ? "a/b" : "forged", 256);
	put_unaligned_le32(FD_LEN, fd);
	put_unaligned_le64(1, fd + 16);
	strscpy(fd + 24, "fd", 256);
	strscpy(fd + 24 + 256, "fdbox,forged-v1", 48);
	if (is("extent"))
		put_unaligned_le64(0, body);
	if (is("trailing"))
		put_unaligned_le64(0, fd + 16);
}

static void fill_root(u8 *root, const u8 *body, const struct kho_vmalloc *vm)
{
	memcpy(root, is("magic") ? "FDBOXNOT" : "FDBOXKHO", 8);
	put_unaligned_le32(is("version") ? 99 : 1, root + 8);
	put_unaligned_le32(ROOT_LEN, root + 12);
	put_unaligned_le64(is("short") ? 1 << 20 : BODY_LEN, root + 16);
	put_unaligned_le32(sum(body, BODY_LEN), root + 24);
	put_unaligned_le32(1, root + 28);
	put_unaligned_le64(1, root + 32);
	memcpy(root + 40, vm, sizeof(*vm));
	strscpy(root + 56, "forged", 64);
	put_unaligned_le32(sum(root, ROOT_LEN - 4), root + ROOT_LEN - 4);
	if (is("root"))
		root[60] ^= 1;
}

/* Memory is on purpose never freed: the next kernel has it. */
static int forge(void)
{
	struct kho_vmalloc vm = {};
	struct page *page;
	u8 *root, *body;
	int err;

	if (!kho_is_enabled())
		return -EOPNOTSUPP;
	page = alloc_page(GFP_KERNEL);
	root = kho_alloc_preserve(PAGE_SIZE);
	body = vzalloc(BODY_LEN);
	if (!page || IS_ERR(root) || !body)
		return -ENOMEM;
	memset(page_address(page), PATTERN, PAGE_SIZE);
	err = kho_preserve_pages(page, 1) ?: kho_preserve_vmalloc(body, &vm);
	if (err)
		return err;
	fill_body(body, page);
	fill_root(root, body, &vm);
	if (is("body"))
		body[8 + 24] ^= 1;
	return kho_add_subtree("fdbox", root, ROOT_LEN);
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
	if (!body || sum(body, BODY_LEN) != get_unaligned_le32(root + 24))
		return -EILSEQ;
	phys = PFN_PHYS(get_unaligned_le64(body));
	if (!kho_restore_pages(phys, 1) || memchr_inv(phys_to_virt(phys), PATTERN, PAGE_SIZE))
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
