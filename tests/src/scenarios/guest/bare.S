# The instructions of a guest without a kernel: bare.rs. Entered at the kernel's 64-bit entry, with the first GiB
# identity-mapped and a stack, which is not used. Behind them are the number of other CPUs and a table of MSRs.

# Where the other CPUs have their code, 256 bytes of stack each, and three counters: how many have started, how many
# have found their number, and how many have found something else. The VMM has put nothing there.
.set OTHERS_CODE, 0x10000
.set OTHERS_STACKS, 0x30000
.set COUNTERS, 0x40000
# Messages to all CPUs but this one (AMD64 Architecture Programmer's Manual, volume 2, "Interrupt Command Register").
.set ICR, 0x830
.set INIT_OTHERS, 0xc4500
.set START_OTHERS, 0xc4600 + (OTHERS_CODE >> 12)
.set NMI_OTHERS, 0xc4400
.set SYSENTER_EIP, 0x176

.pushsection .rodata.bare_guest, "a"
bare_guest_start:
2:  mov dx, 0x3fd
    in al, dx
    test al, 1
    jnz 3f
    pause
    jmp 2b
3:  mov dx, 0x3f8
    in al, dx
    cmp al, 'w'
    je 4f
    cmp al, 'r'
    je 5f
    cmp al, 'x'
    je 6f
    cmp al, 's'
    je 8f
    cmp al, 'n'
    je 9f
    jmp 2b

# w: writes all MSRs.
4:  lea rbx, [rip + bare_guest_end + 8]
41: mov ecx, [rbx]
    test ecx, ecx
    jz 7f
    mov eax, [rbx + 8]
    mov edx, [rbx + 12]
    wrmsr
    add rbx, 16
    jmp 41b

# r: reads them, one line of sixteen digits for each.
5:  lea rbx, [rip + bare_guest_end + 8]
51: mov ecx, [rbx]
    test ecx, ecx
    jz 7f
    rdmsr
    shl rdx, 32
    mov eax, eax
    or rax, rdx
    lea r8, [rip + 52f]
    jmp bare_guest_say
52: add rbx, 16
    jmp 51b

# x: jumps to an address without memory, which KVM cannot handle.
6:  mov eax, 0x3f000000
    jmp rax

# s: starts the other CPUs, and waits for them.
8:  lea rsi, [rip + bare_guest_others]
    lea rcx, [rip + bare_guest_others_end]
    sub rcx, rsi
    mov edi, OTHERS_CODE
    cld
    rep movsb
    # The real-mode vector of NMI: segment and offset.
    lea rax, [rip + bare_guest_others_nmi]
    lea rbx, [rip + bare_guest_others]
    sub rax, rbx
    or eax, OTHERS_CODE << 12
    mov ebx, 8
    mov [rbx], eax
    # Switch the APIC on, in x2APIC mode: its registers as memory are beyond the first GiB.
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov ecx, ICR
    mov eax, INIT_OTHERS
    wrmsr
    mov eax, START_OTHERS
    wrmsr
    mov ebx, COUNTERS
81: pause
    mov eax, [rbx]
    cmp eax, [rip + bare_guest_end]
    jne 81b
    jmp 7f

# n: has the others check their numbers, and says how many have found them.
9:  mov ebx, COUNTERS
    mov qword ptr [rbx + 4], 0
    mov ecx, ICR
    mov eax, NMI_OTHERS
    xor edx, edx
    wrmsr
91: pause
    mov eax, [rbx + 4]
    add eax, [rbx + 8]
    cmp eax, [rip + bare_guest_end]
    jne 91b
    mov eax, [rbx + 4]
    lea r8, [rip + 7f]
    jmp bare_guest_say

7:  mov dx, 0x3f8
    lea rsi, [rip + bare_guest_done]
    mov ecx, 5
    cld
    rep outsb
    jmp 2b

# Says RAX, in sixteen digits, and goes on at R8.
bare_guest_say:
    mov rsi, rax
    mov ecx, 16
    mov dx, 0x3f8
1:  rol rsi, 4
    mov eax, esi
    and eax, 15
    lea rdi, [rip + bare_guest_digits]
    mov al, [rdi + rax]
    out dx, al
    dec ecx
    jnz 1b
    mov al, 10
    out dx, al
    jmp r8

bare_guest_done: .ascii "done\n"
bare_guest_digits: .ascii "0123456789abcdef"

# The other CPUs, in real mode: each keeps its APIC's number in an MSR, halts, and compares the two when an NMI comes.
.code16
bare_guest_others:
    mov eax, 1
    cpuid
    shr ebx, 24
    mov eax, ebx
    shl ax, 4
    add ax, OTHERS_STACKS >> 4
    mov ss, ax
    mov sp, 256
    mov ax, COUNTERS >> 4
    mov ds, ax
    mov ecx, SYSENTER_EIP
    mov eax, ebx
    xor edx, edx
    wrmsr
    xor di, di
    lock inc dword ptr [di]
1:  hlt
    jmp 1b
bare_guest_others_nmi:
    mov ecx, SYSENTER_EIP
    rdmsr
    mov esi, eax
    mov eax, 1
    cpuid
    shr ebx, 24
    mov di, 4
    cmp esi, ebx
    je 2f
    mov di, 8
2:  lock inc dword ptr [di]
    iret
bare_guest_others_end:
.code64
    .balign 8
bare_guest_end:
.popsection
