/* The ROM of a PC without an operating system, for Bochs: it enters 64-bit mode, loads parts of memory from a disk, calls a program,
   stores other parts and switches the machine off. Sector n of the disk is the memory at 512 n.

   At 1 MiB lies what tests/bochs.py writes there, four sectors: the words `entry`, `argument`, `page tables`, `end of the stack`, and
   two lists of pairs (first sector, sectors), each with a pair of zeros behind it: what to load, and what to store. Should the program
   not come back, port 0xE9 says why. */

        .set    HEADER, 0x100000
        .set    LISTS, HEADER + 32
        .set    ROM, 0xF0000
        .set    STATUS, 0x1F7

        .code16
start:  cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   gdt_at
        movl    $0x40620, %eax                  /* CR4: PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
        movl    %eax, %cr4
        movl    $0xD, %eax
        xorl    %ecx, %ecx
        cpuid                                   /* what state the processor can save */
        andl    $0xE7, %eax                     /* of x87, SSE, AVX and AVX-512 */
        xorl    %edx, %edx
        xorl    %ecx, %ecx
        xsetbv
        movl    $ROM + level4, %eax
        movl    %eax, %cr3
        movl    $0xC0000080, %ecx               /* EFER: long mode */
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80010023, %eax               /* CR0: paging, pages that we cannot write either, errors of the x87 as exceptions */
        movl    %eax, %cr0
        ljmpl   $8, $ROM + long

        .code64
long:   movl    $16, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        lidt    ROM + idt_at
        movl    $0x90000, %esp
        fninit
        movl    $HEADER, %edi
        movl    $HEADER / 512, %ebx
        movl    $4, %ebp
        call    read
        movl    $LISTS, %esi
        leaq    read(%rip), %r8
        call    each
        pushq   %rsi
        movq    HEADER + 16, %rax
        movq    %rax, %cr3
        movq    HEADER + 24, %rsp
        movq    HEADER + 8, %rdi
        call    *HEADER
        movl    $ROM + level4, %eax
        movq    %rax, %cr3
        movl    $0x90000 - 8, %esp
        popq    %rsi
        leaq    write(%rip), %r8
        call    each
        leaq    done(%rip), %rsi
        call    say
off:    leaq    shut(%rip), %rsi
        movl    $0x8900, %edx
1:      lodsb
        outb    %al, %dx
        jmp     1b

each:   movq    (%rsi), %rbx                    /* calls %r8 for each pair of a list at %rsi, which is behind the list afterwards */
        movq    8(%rsi), %rbp
        addq    $16, %rsi
        testq   %rbp, %rbp
        jz      1f
        movq    %rbx, %rdi
        shlq    $9, %rdi
        pushq   %rsi
        call    *%r8
        popq    %rsi
        jmp     each
1:      ret

read:   movb    $0x20, %r9b                     /* %rbp sectors from sector %rbx to %rdi */
        leaq    insw(%rip), %r10
        jmp     some
write:  movb    $0x30, %r9b
        leaq    outsw(%rip), %r10
        movq    %rdi, %rsi
some:   movl    $256, %r11d                     /* a command moves no more */
        cmpq    %r11, %rbp
        cmovbq  %rbp, %r11
        movl    $0x1F2, %edx
        movl    %r11d, %eax                     /* 0 means 256 */
        outb    %al, %dx
        movl    %ebx, %eax
        movl    $3, %ecx
1:      incl    %edx
        outb    %al, %dx
        shrl    $8, %eax
        loop    1b
        incl    %edx
        orb     $0xE0, %al                      /* the first disk, sectors counted through */
        outb    %al, %dx
        incl    %edx
        movb    %r9b, %al
        outb    %al, %dx
        addq    %r11, %rbx
        subq    %r11, %rbp
2:      movl    $STATUS, %edx
3:      inb     %dx, %al
        testb   $0x80, %al                      /* busy */
        jnz     3b
        testb   $1, %al
        jnz     failed
        testb   $8, %al                         /* ready for data */
        jz      3b
        movl    $0x1F0, %edx
        movl    $256, %ecx
        call    *%r10
        decl    %r11d
        jnz     2b
        movl    $STATUS, %edx
4:      inb     %dx, %al
        testb   $0x80, %al
        jnz     4b
        testq   %rbp, %rbp
        jnz     some
        ret
insw:   rep insw
        ret
outsw:  rep outsw
        ret
failed: leaq    disk(%rip), %rsi
        call    say
        jmp     off

say:    lodsb
        testb   %al, %al
        jz      1f
        outb    %al, $0xE9
        jmp     say
1:      ret
number: movl    $16, %ecx                       /* %rbx in hexadecimal */
1:      rolq    $4, %rbx
        movl    %ebx, %eax
        andl    $15, %eax
        leaq    digits(%rip), %rdx
        movb    (%rdx,%rax), %al
        outb    %al, $0xE9
        loop    1b
        ret

caught: leaq    raised(%rip), %rsi              /* vector, error code, address: on the stack */
        call    say
        popq    %rbx
        call    number
        leaq    code(%rip), %rsi
        call    say
        popq    %rbx
        call    number
        leaq    at(%rip), %rsi
        call    say
        popq    %rbx
        call    number
        leaq    about(%rip), %rsi
        call    say
        movq    %cr2, %rbx
        call    number
        leaq    end(%rip), %rsi
        call    say
        jmp     off

        .balign 16
stubs:  .set    vector, 0
        .rept   32
        .balign 16
        .if     !((0x60227D00 >> vector) & 1)   /* those that come with an error code are 8, 10 to 14, 17, 21, 29, 30 */
        pushq   $0
        .endif
        pushq   $vector
        jmp     caught
        .set    vector, vector + 1
        .endr

raised: .asciz  "<<exception "
code:   .asciz  " code "
at:     .asciz  " at "
about:  .asciz  " about "
end:    .asciz  ">>"
disk:   .asciz  "<<the disk does not answer>>"
done:   .asciz  "<<done>>"
shut:   .ascii  "Shutdown"
digits: .ascii  "0123456789abcdef"

        .balign 16
gdt:    .quad   0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
gdt_at: .word   23
        .long   ROM + gdt
idt_at: .word   32 * 16 - 1
        .quad   ROM + idt
        .balign 16
idt:    .set    vector, 0
        .rept   32
        .word   stubs + 16 * vector, 8, 0x8E00, 0xF, 0, 0, 0, 0
        .set    vector, vector + 1
        .endr

        .balign 4096                            /* all of the first GiB; accessed and dirty already, since a ROM cannot be written */
level4: .quad   ROM + level3 + 0x63
        .balign 4096
level3: .quad   ROM + level2 + 0x63
        .balign 4096
level2: .set    page, 0
        .rept   512
        .quad   page * 0x200000 + 0xE3
        .set    page, page + 1
        .endr

        .org    0xFFF0
        .code16
        ljmp    $0xF000, $start
        .org    0x10000
