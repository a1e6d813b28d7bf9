/* SPDX-License-Identifier: 0BSD
   Runs and times @NAME@ on raw files:   @NAME@ [-t THREADS] [-n RUNS] [INPUT... [OUTPUT...]]
   A file holds the elements of one tensor, row-major. Inputs that are not named are zero; outputs that are not named are
   not written. The weights are linked in (@NAME@_weights.S). */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200112L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "@NAME@.h"
#include "edgec_rt.h"
@INCLUDE_UNITS@
static const struct {
  const char* name;
  size_t bytes;
} in_ports[] = {@IN_PORTS@}, out_ports[] = {@OUT_PORTS@};
enum { INPUTS = @IN_COUNT@, OUTPUTS = @OUT_COUNT@ };

static void stop(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

/* One block for everything, in large pages where the system has them: each page is a fault when it is touched first. A
   large page at the end is worth its bytes when three quarters of it are used. */
static char* block(size_t bytes) {
  const size_t large = (size_t)2 << 20, whole = (bytes + large / 4) / large * large;
  const size_t size = whole > bytes ? whole : bytes;
  void* p = NULL;
  if (posix_memalign(&p, whole == 0 ? @NAME@_ALIGNMENT : large, size + 1) != 0) stop("@NAME@", "not enough memory");
#if defined(MADV_HUGEPAGE)
  if (whole > 0) madvise(p, whole, MADV_HUGEPAGE);
#endif
  return p;
}

static size_t aligned(size_t bytes) { return (bytes + @NAME@_ALIGNMENT - 1) / @NAME@_ALIGNMENT * @NAME@_ALIGNMENT; }

/* Takes the next bytes of the block. */
static void* take(char** free_bytes, size_t bytes) {
  void* p = *free_bytes;
  *free_bytes += aligned(bytes);
  return p;
}

@RELEASE@static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void move(const char* path, void* data, size_t bytes, int writes) {
  FILE* file = fopen(path, writes ? "wb" : "rb");
  if (file == NULL) stop(path, writes ? "cannot be written" : "cannot be read");
  if ((writes ? fwrite(data, 1, bytes, file) : fread(data, 1, bytes, file)) != bytes || (!writes && fgetc(file) != EOF))
    stop(path, writes ? "cannot be written" : "does not have the size of the tensor");
  if (fclose(file) != 0) stop(path, "cannot be written");
}

int main(int argc, char** argv) {
  const void* in[INPUTS + 1] = {NULL};
  void* out[OUTPUTS + 1] = {NULL};
  const char* missing = NULL;
  int threads = 1, runs = 1, i, at = 1;
  size_t bytes = aligned(@NAME@_PREPARED_BYTES) + aligned(@NAME@_ARENA_BYTES) + aligned(@NAME@_STATE_BYTES);
  char *all, *next;
  @NAME@_args args = {0};
  edgec_rt* rt;
@DECLARE_UNITS@  for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
    if (strcmp(argv[at], "-t") == 0) threads = atoi(argv[at + 1]);
    else if (strcmp(argv[at], "-n") == 0) runs = atoi(argv[at + 1]);
    else stop(argv[at], "is not an option; there are -t THREADS and -n RUNS");
  }
  if (argc - at > INPUTS + OUTPUTS) stop("@NAME@", "there are more files than inputs and outputs");
  if (@NAME@_check_cpu(&missing) != 0) stop("this processor lacks", missing);
  for (i = 0; i < INPUTS; i++) bytes += aligned(in_ports[i].bytes);
  for (i = 0; i < OUTPUTS; i++) bytes += aligned(out_ports[i].bytes);
  all = next = block(bytes);
  for (i = 0; i < INPUTS; i++) {
    void* data = take(&next, in_ports[i].bytes);
    if (at < argc) move(argv[at++], data, in_ports[i].bytes, 0);
    else memset(data, 0, in_ports[i].bytes);
    in[i] = data;
  }
  for (i = 0; i < OUTPUTS; i++) out[i] = take(&next, out_ports[i].bytes);
  rt = edgec_rt_create(threads);
  if (rt == NULL) stop("@NAME@", "threads cannot be started");
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = @NAME@_weights;
  args.prepared = take(&next, @NAME@_PREPARED_BYTES);
  args.arena = take(&next, @NAME@_ARENA_BYTES);
  args.state = memset(take(&next, @NAME@_STATE_BYTES), 0, @NAME@_STATE_BYTES);
  args.in = in;
  args.out = out;
  args.rt = rt;
  i = @PREPARE@;
  if (i != 0) stop("@NAME@_prepare", @NAME@_strerror(i));
@OPEN_UNITS@  for (; runs > 0; runs--) {
    double start = now();
    i = @NAME@_run_args(&args);
@EXPLAIN_UNITS@    if (i != 0) stop("@NAME@_run_args", @NAME@_strerror(i));
    printf("%.3f ms\n", now() - start);
  }
  for (i = 0; i < OUTPUTS && at < argc; i++) move(argv[at++], out[i], out_ports[i].bytes, 1);
  free(all);
  edgec_rt_destroy(rt);
@CLOSE_UNITS@  return 0;
}
