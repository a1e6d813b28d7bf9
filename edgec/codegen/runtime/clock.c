/* SPDX-License-Identifier: 0BSD
   Runs a model in a loop of C, so that a caller in an interpreter can time it without the cost of its own calls. No part of a
   bundle: edgec compiles it where it measures. EDGEC_LANES, and EDGEC_SET for x86, name the vectors of the peak. */
#define _POSIX_C_SOURCE 200112L
#include <stdint.h>
#include <time.h>

typedef int32_t (*run_args)(const void* args);

static double now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Runs a model so many times; 0, or the first error. */
int32_t edgec_clock_repeat(run_args run, const void* args, int32_t runs) {
  int32_t code = 0;
  for (; runs > 0 && code == 0; runs--) code = run(args);
  return code;
}

/* Runs a model so many times step by step, and writes the seconds of each step. `range` is first_step and step_count in `args`.
   Behind the steps stands the time of a call that runs none. `busy` counts the processor's time for this thread alone. */
int32_t edgec_clock_steps(run_args run, const void* args, uint32_t* range, int32_t steps, int32_t runs, int32_t busy, double* seconds) {
  const clockid_t clock = busy ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  int32_t code = 0, i;
  for (; runs > 0 && code == 0; runs--) {
    for (i = 0; i <= steps && code == 0; i++) {
      double start;
      range[0] = (uint32_t)i;
      range[1] = i < steps;
      start = now(clock);
      code = run(args);
      *seconds++ = now(clock) - start;
    }
  }
  range[0] = range[1] = 0;
  return code;
}

#ifdef EDGEC_SET
#define WITH_VECTORS __attribute__((target(EDGEC_SET), noinline))
#else
#define WITH_VECTORS __attribute__((noinline))
#endif
typedef float vector __attribute__((vector_size(4 * EDGEC_LANES)));

enum { SUMS = 12 }; /* independent, enough for two units of latency six; with their factors they fit into 16 registers */

/* The seconds of `rounds` times SUMS vector multiply-accumulates, whose sums stay in registers. */
WITH_VECTORS double edgec_clock_peak(int32_t rounds, float factor, float term, float* result) {
  const vector x = factor - (vector){0}, y = term - (vector){0};
  vector a = x, b = y, c = x + y, d = a + c, e = a + d, f = a + e, g = a + f, h = a + g, i = a + h, j = a + i, k = a + j, l = a + k;
  double start = now(CLOCK_MONOTONIC);
  for (; rounds > 0; rounds--) {
    a = a * x + y;
    b = b * x + y;
    c = c * x + y;
    d = d * x + y;
    e = e * x + y;
    f = f * x + y;
    g = g * x + y;
    h = h * x + y;
    i = i * x + y;
    j = j * x + y;
    k = k * x + y;
    l = l * x + y;
  }
  start = now(CLOCK_MONOTONIC) - start;
  a += b + c + d + e + f + g + h + i + j + k + l;
  *result = a[0];
  return start;
}
