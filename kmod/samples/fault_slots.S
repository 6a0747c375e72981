/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The slots of fdbox_fault. A slot is called in place of a kernel function of any
 * type. It keeps all registers, and jumps to that function or returns to the caller.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/nospec-branch.h>
#include <asm/unwind_hints.h>

#include "fault.h"

	.text
	.balign FAULT_STRIDE, 0x90
SYM_CODE_START(fault_slots)
	ANNOTATE_NOENDBR
	.set slot, 0
	.rept FAULT_SLOTS
	.balign FAULT_STRIDE, 0x90
	UNWIND_HINT_FUNC
	pushq	$slot
	jmp	fault_common
	.set slot, slot + 1
	.endr
SYM_CODE_END(fault_slots)

SYM_CODE_START_LOCAL(fault_common)
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	movl	72(%rsp), %edi
	call	fault_called
	/* Replaces the number of the slot. */
	movq	%rax, 72(%rsp)
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rax
	cmpq	$0, (%rsp)
	je	1f
	ANNOTATE_UNRET_SAFE
	ret
	int3
1:	movq	fault_value(%rip), %rax
	addq	$8, %rsp
	RET
SYM_CODE_END(fault_common)
