/* SPDX-License-Identifier: 0BSD
   Runs @NAME@ for a program at the other end of two pipes, in an emulator or on another machine:   runner WEIGHTS THREADS
   First it answers the code of @NAME@_check_cpu and the missing feature. Then each request is a letter and three numbers:
     i INDEX BYTES 0       the bytes of an input follow
     p 0 0 0               fill arena and outputs with NaN
     r FIRST COUNT 0       run steps; answers the error code and whether memory around the arena is intact
     o INDEX 0 0           answers the bytes of an output
     a OFFSET BYTES 0      answers bytes of the arena
     s OFFSET BYTES 0      answers bytes of the state
     t RUNS 0 0            answers an error code, and the nanoseconds of so many runs (with EDGEC_HOSTED)
   Where the model starts a unit, the other end is asked in the middle of `r`: -1, the number of the unit, the number of the kernel, how
   many operands are read, how many are written; bytes of each with what it holds, bytes of each that is written. It answers those.
   Without EDGEC_HOSTED it needs no C library, and has one thread. */
#include "@NAME@.h"
#ifdef EDGEC_HOSTED
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "edgec_rt.h"
#else
#include "start.h"
#endif

enum { INPUTS = @IN_COUNT@, OUTPUTS = @OUT_COUNT@, GUARD = 4096, GUARD_BYTE = 0xA5, POISON = 0xFF };
static const struct {
  const char* name;
  size_t bytes;
} in_ports[] = {@IN_PORTS@}, out_ports[] = {@OUT_PORTS@};

static void* memory(size_t bytes) {
  unsigned char* p = mmap(NULL, bytes + 2 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) _exit(2);
  memset(p, GUARD_BYTE, GUARD);
  memset(p + GUARD + bytes, GUARD_BYTE, GUARD);
  return p + GUARD;
}

static int intact(const unsigned char* p, size_t bytes) {
  int i;
  for (i = 0; i < GUARD; i++)
    if (p[i - GUARD] != GUARD_BYTE || p[bytes + (size_t)i] != GUARD_BYTE) return 0;
  return 1;
}

static void get(int file, void* data, size_t bytes) {
  char* p = data;
  while (bytes > 0) {
    long n = read(file, p, bytes);
    if (n <= 0) _exit(0);
    p += n;
    bytes -= (size_t)n;
  }
}

static void put(const void* data, size_t bytes) {
  const char* p = data;
  while (bytes > 0) {
    long n = write(1, p, bytes);
    if (n <= 0) _exit(3);
    p += n;
    bytes -= (size_t)n;
  }
}

#ifdef EDGEC_HOSTED
static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void timed(@NAME@_args* args, int32_t code, uint64_t runs) {
  uint64_t i, *spent = malloc((size_t)runs * sizeof *spent + 1);
  if (spent == NULL) _exit(2);
  args->first_step = args->step_count = 0;
  for (i = 0; i < runs; i++) {
    uint64_t start = now();
    if (code == 0) code = @NAME@_run_args(args);
    spent[i] = now() - start;
  }
  put(&code, sizeof code);
  put(spent, (size_t)runs * sizeof *spent);
  free(spent);
}
#endif

#ifdef @NAME@_UNITS
static int32_t launch(void* ctx, const edgec_launch* what, const edgec_operand* operands) {
  struct { int32_t mark, unit; uint64_t kernel, reads, writes; } ask;
  uint32_t i;
  memset(&ask, 0, sizeof ask);
  ask.mark = -1;
  ask.unit = (int32_t)(size_t)ctx;
  ask.kernel = what->number;
  for (i = 0; i < what->operands; i++) ask.writes += operands[i].writes;
  ask.reads = what->operands - ask.writes;
  put(&ask, sizeof ask);
  for (i = 0; i < what->operands; i++) {
    if (operands[i].writes) continue;
    put(&operands[i].bytes, 8);
    put(operands[i].host, (size_t)operands[i].bytes);
  }
  for (i = 0; i < what->operands; i++)
    if (operands[i].writes) put(&operands[i].bytes, 8);
  for (i = 0; i < what->operands; i++)
    if (operands[i].writes) get(0, operands[i].host, (size_t)operands[i].bytes);
  return 0;
}

static int32_t finish(void* ctx) {
  (void)ctx;
  return 0;
}
#endif

int main(int argc, char** argv) {
#ifdef @NAME@_UNITS
  static edgec_device units[@NAME@_UNITS];
  static const edgec_device* devices[@NAME@_UNITS];
#endif
  void *in[INPUTS + 1], *out[OUTPUTS + 1];
  struct { int32_t code; char what[64]; } hello;
  const char* missing = NULL;
  @NAME@_args args;
  void* weights;
  int32_t code, i;
  if (argc != 3) return 2;
  memset(&hello, 0, sizeof hello);
  memset(&args, 0, sizeof args);
  hello.code = @NAME@_check_cpu(&missing);
  for (i = 0; missing != NULL && missing[i] != 0 && i < 63; i++) hello.what[i] = missing[i];
  put(&hello, sizeof hello);
  if (hello.code != 0) return 0;
  for (i = 0; i < INPUTS; i++) in[i] = memory(in_ports[i].bytes);
  for (i = 0; i < OUTPUTS; i++) out[i] = memory(out_ports[i].bytes);
  weights = memory(@NAME@_WEIGHTS_BYTES);
  get(open(argv[1], O_RDONLY), weights, @NAME@_WEIGHTS_BYTES);
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = weights;
  args.prepared = memory(@NAME@_PREPARED_BYTES);
  args.arena = memory(@NAME@_ARENA_BYTES);
  args.state = memory(@NAME@_STATE_BYTES);
  args.in = (const void* const*)in;
  args.out = out;
#ifdef EDGEC_HOSTED
  args.rt = edgec_rt_create(atoi(argv[2]));
#endif
#ifdef @NAME@_UNITS
  for (i = 0; i < @NAME@_UNITS; i++) {
    units[i].size = sizeof(edgec_device);
    units[i].version = EDGEC_DEVICE;
    units[i].ctx = (void*)(size_t)i;
    units[i].launch = launch;
    units[i].finish = finish;
    devices[i] = &units[i];
  }
  args.devices = devices;
#endif
  code = @NAME@_prepare(args.weights, args.prepared);
  for (;;) {
    char letter;
    uint64_t n[3];
    int32_t answer[2];
    get(0, &letter, 1);
    get(0, n, sizeof n);
    switch (letter) {
      case 'i': get(0, in[n[0]], in_ports[n[0]].bytes); break;
      case 'p':
        memset(args.arena, POISON, @NAME@_ARENA_BYTES);
        for (i = 0; i < OUTPUTS; i++) memset(out[i], POISON, out_ports[i].bytes);
        break;
      case 'r':
        args.first_step = (uint32_t)n[0];
        args.step_count = (uint32_t)n[1];
        answer[0] = code != 0 ? code : @NAME@_run_args(&args);
        answer[1] = intact(args.arena, @NAME@_ARENA_BYTES);
        put(answer, sizeof answer);
        break;
      case 'o': put(out[n[0]], out_ports[n[0]].bytes); break;
      case 'a': put((char*)args.arena + n[0], n[1]); break;
      case 's': put((char*)args.state + n[0], n[1]); break;
#ifdef EDGEC_HOSTED
      case 't': timed(&args, code, n[0]); break;
#endif
      default: return 2;
    }
  }
}
