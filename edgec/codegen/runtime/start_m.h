/* SPDX-License-Identifier: 0BSD
   As much of an operating system and of the C library as runner.c needs, on an emulated microcontroller of Arm: the emulator opens,
   reads and writes files of the machine that it runs on (semihosting). */
#include <stddef.h>
#include <stdint.h>

enum { O_RDONLY = 0, O_WRONLY = 1, PROT_READ = 1, PROT_WRITE = 2, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20 };
#define MAP_FAILED ((void*)-1)
enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20, EXITED = 0x20026 };

static uint32_t ask(uint32_t operation, const void* block) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void* r1 __asm__("r1") = block;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static int open(const char* path, int flags) {
  uint32_t block[3] = {(uint32_t)path, flags == O_RDONLY ? 1 : 5, 0}; /* "rb" or "wb" */
  while (path[block[2]] != 0) block[2]++;
  return (int)ask(SYS_OPEN, block);
}

static int stream(int file) {
  static int opened[2];
  if (file > 1) return file;
  if (opened[file] == 0) opened[file] = open(file == 0 ? "/dev/stdin" : "/dev/stdout", file);
  return opened[file];
}

static long move(uint32_t operation, int file, const void* data, size_t bytes) {
  uint32_t block[3];
  block[0] = (uint32_t)stream(file);
  block[1] = (uint32_t)data;
  block[2] = bytes;
  return (long)(bytes - ask(operation, block)); /* it answers how many are left */
}

static long read(int file, void* data, size_t bytes) { return move(SYS_READ, file, data, bytes); }
static long write(int file, const void* data, size_t bytes) { return move(SYS_WRITE, file, data, bytes); }

extern unsigned char memory_start[], memory_end[], stack_top[];

static void* mmap(void* at, size_t bytes, int protection, int flags, int file, long offset) {
  static size_t used;
  unsigned char* p = memory_start + used;
  (void)at, (void)protection, (void)flags, (void)file, (void)offset;
  bytes = (bytes + 4095) / 4096 * 4096;
  if (bytes > (size_t)(memory_end - p)) return MAP_FAILED;
  used += bytes;
  return p;
}

static void _exit(int code) {
  uint32_t block[2] = {EXITED, (uint32_t)code};
  for (;;) ask(SYS_EXIT_EXTENDED, block);
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

int main(int argc, char** argv);

static void begin(void) {
  char* words[] = {"runner", @WEIGHTS@, "1"};
  _exit(main(3, words));
}

void reset(void) {
  *(volatile uint32_t*)0xE000ED88 |= 0xFu << 20; /* CPACR: switch on what computes floating point, where there is such a unit */
  __asm__ volatile("dsb\n isb" ::: "memory");
  begin();
}

static void fault(void) { _exit(70); }

__attribute__((section(".vectors"), used)) static const void* const vectors[16] = {
  stack_top, (void*)reset, (void*)fault, (void*)fault, (void*)fault, (void*)fault, (void*)fault, (void*)fault,
  0, 0, 0, (void*)fault, (void*)fault, 0, (void*)fault, (void*)fault};
