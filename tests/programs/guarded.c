/* Runs a model with every buffer between guards, and fails at the first byte that is touched outside of one.

     guarded HOW WEIGHTS INPUT... OUTPUT...     raw files

   HOW says where a buffer lies. heap: in a block of exactly its size, which a sanitizer watches. above: it ends where a page begins
   that nobody may touch. below: it begins where such a page ends. Inputs and outputs have the alignment of their elements
   and no more. Weights and inputs cannot be written. It runs twice, on memory that is NaN at first and then what the first run left. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model.h" /* MODEL(x) is NAME_x; IN_PORTS, OUT_PORTS: {bytes, bytes of an element} */

enum { PAGE = 4096, FILL = 0xFF };
typedef struct { size_t bytes, align; } port;
typedef struct { unsigned char *data, *area; size_t bytes, pages; } block;
static const port in_ports[] = {IN_PORTS}, out_ports[] = {OUT_PORTS};
enum { INPUTS = sizeof in_ports / sizeof in_ports[0], OUTPUTS = sizeof out_ports / sizeof out_ports[0] };

static void stop(const char* what, int code) {
  fprintf(stderr, "%s: %d\n", what, code);
  exit(1);
}

static block place(const char* how, size_t bytes, size_t align) {
  block b = {NULL, NULL, bytes, 0};
  if (how[0] == 'h') {
    if (posix_memalign((void**)&b.data, align < sizeof(void*) ? sizeof(void*) : align, bytes) != 0) stop("memory", 0);
    memset(b.data, FILL, bytes);
    return b;
  }
  b.pages = (bytes + PAGE - 1) / PAGE + 2;
  b.area = mmap(NULL, b.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (b.area == MAP_FAILED) stop("memory", 0);
  memset(b.area, FILL, b.pages * PAGE);
  b.data = how[0] == 'b' ? b.area + PAGE : b.area + (b.pages - 1) * PAGE - (bytes + align - 1) / align * align;
  if (mprotect(b.area, PAGE, PROT_NONE) != 0 || mprotect(b.area + (b.pages - 1) * PAGE, PAGE, PROT_NONE) != 0) stop("guards", 0);
  return b;
}

static void freeze(block b) {
  if (b.area != NULL && b.pages > 2 && mprotect(b.area + PAGE, (b.pages - 2) * PAGE, PROT_READ) != 0) stop("read-only", 0);
}

static void give_back(block b) {
  if (b.area != NULL) munmap(b.area, b.pages * PAGE);
  else free(b.data);
}

/* The rest of the pages must be as it was. */
static void check(block b, const char* what) {
  unsigned char* p;
  if (b.area == NULL) return;
  for (p = b.area + PAGE; p < b.area + (b.pages - 1) * PAGE; p++)
    if ((p < b.data || p >= b.data + b.bytes) && *p != FILL) stop(what, (int)(p - b.data));
}

static void transfer(const char* path, block b, const char* mode) {
  FILE* file = fopen(path, mode);
  size_t done = file == NULL ? 0 : mode[0] == 'r' ? fread(b.data, 1, b.bytes, file) : fwrite(b.data, 1, b.bytes, file);
  if (file == NULL || done != b.bytes || fclose(file) != 0) stop(path, (int)done);
}

int main(int argc, char** argv) {
  block weights, prepared, arena, in[INPUTS], out[OUTPUTS];
  const void* ins[INPUTS];
  void* outs[OUTPUTS];
  MODEL(args) args;
  int i, run, code;
  if (argc != 3 + INPUTS + OUTPUTS) return 2;
  weights = place(argv[1], MODEL(WEIGHTS_BYTES), MODEL(ALIGNMENT));
  transfer(argv[2], weights, "rb");
  freeze(weights);
  prepared = place(argv[1], MODEL(PREPARED_BYTES), MODEL(ALIGNMENT));
  arena = place(argv[1], MODEL(ARENA_BYTES), MODEL(ALIGNMENT));
  for (i = 0; i < INPUTS; i++) {
    in[i] = place(argv[1], in_ports[i].bytes, in_ports[i].align);
    transfer(argv[3 + i], in[i], "rb");
    freeze(in[i]);
    ins[i] = in[i].data;
  }
  for (i = 0; i < OUTPUTS; i++) {
    out[i] = place(argv[1], out_ports[i].bytes, out_ports[i].align);
    outs[i] = out[i].data;
  }
  memset(&args, 0, sizeof args);
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = weights.data;
  args.prepared = prepared.data;
  args.arena = arena.data;
  args.in = ins;
  args.out = outs;
  code = MODEL(prepare)(args.weights, args.prepared);
  if (code != 0) stop(MODEL(strerror)(code), code);
  check(prepared, "outside the prepared memory");
  freeze(prepared);
  for (run = 0; run < 2; run++) {
    code = MODEL(run_args)(&args);
    if (code != 0) stop(MODEL(strerror)(code), code);
    check(arena, "outside the arena");
    for (i = 0; i < OUTPUTS; i++) check(out[i], "outside an output");
  }
  for (i = 0; i < OUTPUTS; i++) {
    transfer(argv[3 + INPUTS + i], out[i], "wb");
    give_back(out[i]);
  }
  for (i = 0; i < INPUTS; i++) give_back(in[i]);
  give_back(weights);
  give_back(prepared);
  give_back(arena);
  return 0;
}
