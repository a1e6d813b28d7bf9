/* SPDX-License-Identifier: 0BSD
   Runs @NAME@ for a program at the other end of two pipes, in an emulator:   runner WEIGHTS THREADS
   First it answers the code of @NAME@_check_cpu and the missing feature. Then each request is a letter and three numbers:
     i INDEX BYTES 0       the bytes of an input follow
     p 0 0 0               fill arena and outputs with NaN
     r FIRST COUNT 0       run steps; answers the error code and whether memory around the arena is intact
     o INDEX 0 0           answers the bytes of an output
     a OFFSET BYTES 0      answers bytes of the arena
     s OFFSET BYTES 0      answers bytes of the state */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "@NAME@.h"
#include "edgec_rt.h"

enum { INPUTS = @IN_COUNT@, OUTPUTS = @OUT_COUNT@, GUARD = 4096, GUARD_BYTE = 0xA5, POISON = 0xFF };
static const struct {
  const char* name;
  size_t bytes;
} in_ports[] = {@IN_PORTS@}, out_ports[] = {@OUT_PORTS@};

static void* memory(size_t bytes) {
  unsigned char* p = aligned_alloc(GUARD, (bytes + 3 * GUARD - 1) / GUARD * GUARD);
  if (p == NULL) exit(2);
  memset(p, GUARD_BYTE, bytes + 2 * GUARD);
  memset(p + GUARD, 0, bytes);
  return p + GUARD;
}

static int intact(const unsigned char* p, size_t bytes) {
  int i;
  for (i = 0; i < GUARD; i++)
    if (p[i - GUARD] != GUARD_BYTE || p[bytes + (size_t)i] != GUARD_BYTE) return 0;
  return 1;
}

static void get(void* data, size_t bytes) {
  if (fread(data, 1, bytes, stdin) != bytes) exit(0);
}

static void put(const void* data, size_t bytes) {
  if (fwrite(data, 1, bytes, stdout) != bytes) exit(3);
}

int main(int argc, char** argv) {
  void *in[INPUTS + 1] = {NULL}, *out[OUTPUTS + 1] = {NULL};
  char what[64] = {0};
  const char* missing = NULL;
  @NAME@_args args = {0};
  FILE* file;
  int32_t code, i;
  if (argc != 3) return 2;
  code = @NAME@_check_cpu(&missing);
  if (missing != NULL) strncpy(what, missing, sizeof what - 1);
  put(&code, sizeof code);
  put(what, sizeof what);
  fflush(stdout);
  if (code != 0) return 0;
  for (i = 0; i < INPUTS; i++) in[i] = memory(in_ports[i].bytes);
  for (i = 0; i < OUTPUTS; i++) out[i] = memory(out_ports[i].bytes);
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = memory(@NAME@_WEIGHTS_BYTES);
  args.prepared = memory(@NAME@_PREPARED_BYTES);
  args.arena = memory(@NAME@_ARENA_BYTES);
  args.state = memory(@NAME@_STATE_BYTES);
  args.in = (const void* const*)in;
  args.out = out;
  args.rt = edgec_rt_create(atoi(argv[2]));
  file = fopen(argv[1], "rb");
  if (file == NULL || fread((void*)args.weights, 1, @NAME@_WEIGHTS_BYTES, file) != @NAME@_WEIGHTS_BYTES) return 2;
  fclose(file);
  code = @NAME@_prepare(args.weights, args.prepared);
  for (;;) {
    char letter;
    uint64_t n[3];
    get(&letter, 1);
    get(n, sizeof n);
    switch (letter) {
      case 'i':
        get(in[n[0]], in_ports[n[0]].bytes);
        continue;
      case 'p':
        memset(args.arena, POISON, @NAME@_ARENA_BYTES);
        for (i = 0; i < OUTPUTS; i++) memset(out[i], POISON, out_ports[i].bytes);
        continue;
      case 'r': {
        int32_t answer[2];
        args.first_step = (uint32_t)n[0];
        args.step_count = (uint32_t)n[1];
        answer[0] = code != 0 ? code : @NAME@_run_args(&args);
        answer[1] = intact(args.arena, @NAME@_ARENA_BYTES);
        put(answer, sizeof answer);
        break;
      }
      case 'o': put(out[n[0]], out_ports[n[0]].bytes); break;
      case 'a': put((char*)args.arena + n[0], n[1]); break;
      case 's': put((char*)args.state + n[0], n[1]); break;
      default: return 2;
    }
    fflush(stdout);
  }
}
