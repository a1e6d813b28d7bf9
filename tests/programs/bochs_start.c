/* What a C library would do before a program begins, for programs that tests/bochs.py runs: `program` gets the words that it is given. */
#include <stdint.h>

typedef struct { uint64_t at, info, resolver; } relocation;
extern const relocation __rela_iplt_start[] __attribute__((weak)), __rela_iplt_end[] __attribute__((weak));
void program(const uint64_t* words);

static uint64_t thread[512] __attribute__((aligned(64))); /* variables of the thread lie below its pointer to itself: errno */

/* Those of glibc rely on sizes of caches, which it would have asked for by now. */
void* memcpy(void* to, const void* from, uint64_t bytes) {
  void* p = to;
  __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(bytes) : : "memory");
  return to;
}

void* memmove(void* to, const void* from, uint64_t bytes) {
  char *last = (char*)to + bytes - 1;
  const char* f = (const char*)from + bytes - 1;
  if ((uint64_t)to - (uint64_t)from >= bytes) return memcpy(to, from, bytes);
  __asm__ volatile("std; rep movsb; cld" : "+D"(last), "+S"(f), "+c"(bytes) : : "memory");
  return to;
}

void* memset(void* to, int value, uint64_t bytes) {
  void* p = to;
  __asm__ volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(value) : "memory");
  return to;
}

int main(void) { return 0; } /* for the start files, which are linked and never run */

void begin(const uint64_t* words) {
  const relocation* r;
  uint64_t self = (uint64_t)&thread[256];
  thread[256] = thread[258] = self;
  __asm__ volatile("wrmsr" : : "c"(0xC0000100), "a"((uint32_t)self), "d"((uint32_t)(self >> 32))); /* the base of fs */
  /* Functions of which there are several forms: glibc does not know the processor yet and answers with those for every x86-64. */
  for (r = __rela_iplt_start; r < __rela_iplt_end; r++) *(uint64_t*)r->at = ((uint64_t(*)(void))r->resolver)();
  program(words);
}
