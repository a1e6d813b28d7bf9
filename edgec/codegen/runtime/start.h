/* SPDX-License-Identifier: 0BSD
   As much of Linux and of the C library as runner.c needs, so that it can be linked for a processor without its library. */
#include <stddef.h>
#include <stdint.h>

enum { O_RDONLY = 0, PROT_READ = 1, PROT_WRITE = 2, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20 };
#define MAP_FAILED ((void*)-1)

#if defined(__x86_64__)
enum { SYS_READ = 0, SYS_WRITE = 1, SYS_MMAP = 9, SYS_EXIT = 231, SYS_OPENAT = 257 };
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");

static long ask(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
enum { SYS_OPENAT = 56, SYS_READ = 63, SYS_WRITE = 64, SYS_EXIT = 94, SYS_MMAP = 222 };
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl begin\n");

static long ask(long number, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#else
#error "this processor needs a C library to run models in an emulator"
#endif

static long read(int file, void* data, size_t bytes) { return ask(SYS_READ, file, (long)data, (long)bytes, 0, 0, 0); }
static long write(int file, const void* data, size_t bytes) { return ask(SYS_WRITE, file, (long)data, (long)bytes, 0, 0, 0); }
static int open(const char* path, int flags) { return (int)ask(SYS_OPENAT, -100, (long)path, flags, 0, 0, 0); }
static void* mmap(void* at, size_t bytes, int protection, int flags, int file, long offset) {
  long result = ask(SYS_MMAP, (long)at, (long)bytes, protection, flags, file, offset);
  return result < 0 && result > -4096 ? MAP_FAILED : (void*)result;
}
static void _exit(int code) {
  for (;;) ask(SYS_EXIT, code, 0, 0, 0, 0, 0);
}

void* memset(void* to, int byte, size_t bytes) {
  unsigned char* p = to;
  while (bytes-- > 0) *p++ = (unsigned char)byte;
  return to;
}

void* memmove(void* to, const void* from, size_t bytes) {
  unsigned char* p = to;
  const unsigned char* q = from;
  size_t i;
  if (p < q)
    for (i = 0; i < bytes; i++) p[i] = q[i];
  else
    for (i = bytes; i > 0; i--) p[i - 1] = q[i - 1];
  return to;
}

void* memcpy(void* to, const void* from, size_t bytes) { return memmove(to, from, bytes); }

static unsigned long* facts; /* pairs that Linux puts behind the environment */
unsigned long getauxval(unsigned long type) {
  unsigned long* p;
  for (p = facts; p[0] != 0; p += 2)
    if (p[0] == type) return p[1];
  return 0;
}

int main(int argc, char** argv);

void begin(unsigned long* stack) {
  int argc = (int)stack[0];
  facts = stack + argc + 2;
  while (*facts++ != 0) {}
  _exit(main(argc, (char**)(stack + 1)));
}
