/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Takes a CPU from a SIPI to the first instruction of a 64-bit kernel, or only
 * lets it respond. The code is copied to a page below 1 MiB, and never runs where
 * it is linked. The boot protocol requires flat segments with these selectors,
 * RSI, and identity mappings of everything that is loaded.
 */
#include <asm/msr-index.h>
#include <asm/processor-flags.h>

#define CODE32	0x08
#define CODE64	0x10
#define DATA	0x18

/* The offset of a symbol in the page. */
#define AT(symbol)	(symbol - boat_trampoline)
/* The members of struct boat_trampoline. */
#define ENTRY		AT(boat_trampoline_data)
#define PARAMS		(AT(boat_trampoline_data) + 8)
#define PAGE_TABLE	(AT(boat_trampoline_data) + 16)
#define BASE		(AT(boat_trampoline_data) + 20)
#define TO_32_BIT	(AT(boat_trampoline_data) + 24)
#define TO_64_BIT	(AT(boat_trampoline_data) + 32)
#define SAYS		(AT(boat_trampoline_data) + 40)

	.section .rodata
	.balign 16
	.globl boat_trampoline
	.code16
boat_trampoline:
	cli
	cld
	movw	%cs, %ax
	movw	%ax, %ds
	movl	$1, (SAYS)
	movl	(ENTRY), %eax
	orl	(ENTRY + 4), %eax
	jz	.Lhalt
	movl	(BASE), %ebx
	lgdtl	(AT(.Lgdt_pointer))
	movl	$(X86_CR0_PE | X86_CR0_ET), %eax
	movl	%eax, %cr0
	ljmpl	*(TO_32_BIT)
.Lhalt:
	hlt
	jmp	.Lhalt

	.globl boat_trampoline_32
	.code32
boat_trampoline_32:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	movl	%eax, %ss
	movl	$X86_CR4_PAE, %eax
	movl	%eax, %cr4
	movl	PAGE_TABLE(%ebx), %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	movl	$(1 << _EFER_LME), %eax
	xorl	%edx, %edx
	wrmsr
	movl	$(X86_CR0_PG | X86_CR0_NE | X86_CR0_ET | X86_CR0_PE), %eax
	movl	%eax, %cr0
	ljmpl	*TO_64_BIT(%ebx)

	.globl boat_trampoline_64
	.code64
boat_trampoline_64:
	movl	%ebx, %ebx		/* its upper half is undefined here */
	movl	$2, SAYS(%rbx)
	movq	PARAMS(%rbx), %rsi
	movq	ENTRY(%rbx), %rax
	xorl	%ebx, %ebx
	xorl	%ebp, %ebp
	xorl	%edi, %edi
	jmp	*%rax

	.balign 16
.Lgdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* CODE32 */
	.quad	0x00af9b000000ffff	/* CODE64 */
	.quad	0x00cf93000000ffff	/* DATA */
.Lgdt_end:
	.globl boat_trampoline_gdt
boat_trampoline_gdt:
.Lgdt_pointer:
	.word	.Lgdt_end - .Lgdt - 1
	.long	AT(.Lgdt)		/* relative to the page; made absolute with the rest */

	.balign 16
	.globl boat_trampoline_data
boat_trampoline_data:
	.fill	48, 1, 0
	.globl boat_trampoline_end
boat_trampoline_end:

	.section .note.GNU-stack, "", @progbits
