/* Runs one kernel twice, as tests/kernel_harness.py wants it: all tasks in one call, then task by task in reverse order, or round by
   round. Words: how many operands, the span, whether there are rounds; for each time the operands and where its code goes. */
#include <stdint.h>

int32_t kernel();

static int32_t call(uint64_t n, const uint64_t* word, int32_t b, int32_t e) {
  void* const* p = (void* const*)word;
  switch (n) { CALLS }
  return -1;
}

void program(const uint64_t* words) {
  const uint64_t n = words[0];
  const int32_t span = (int32_t)words[1], rounds = (int32_t)words[2];
  const uint64_t *whole = words + 3, *parts = whole + n + 1;
  int32_t i, code = 0;
  *(int32_t*)whole[n] = call(n, whole, 0, span);
  for (i = 0; i < span; i++) {
    int32_t t = rounds ? i : span - 1 - i, c = call(n, parts, t, t + 1);
    if (code == 0) code = c;
  }
  *(int32_t*)parts[n] = code;
}
