/* Several threads run one model at the same time, all on one pool and each with an arena of its own; every result must have the same bits.

     crowd WEIGHTS INPUT... */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgec_rt.h"
#include "model.h" /* MODEL(x) is NAME_x; IN_PORTS, OUT_PORTS: {bytes, bytes of an element} */

enum { USERS = 3, ROUNDS = 40 };
typedef struct { size_t bytes, align; } port;
static const port in_ports[] = {IN_PORTS}, out_ports[] = {OUT_PORTS};
enum { INPUTS = sizeof in_ports / sizeof in_ports[0], OUTPUTS = sizeof out_ports / sizeof out_ports[0] };
typedef struct { void* outs[OUTPUTS]; edgec_rt* rt; int rounds, wrong; } user;

static void *weights, *prepared, *ins[INPUTS];
static user first;

static void* memory(size_t bytes) {
  void* p = NULL;
  if (posix_memalign(&p, 64, bytes + 1) != 0) abort();
  memset(p, 0xFF, bytes + 1);
  return p;
}

static void* work(void* context) {
  user* u = context;
  MODEL(args) args;
  int i, round;
  memset(&args, 0, sizeof args);
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = weights;
  args.prepared = prepared;
  args.arena = memory(MODEL(ARENA_BYTES));
  args.in = (const void* const*)ins;
  args.out = u->outs;
  args.rt = u->rt;
  for (i = 0; i < OUTPUTS; i++) u->outs[i] = memory(out_ports[i].bytes);
  for (round = 0; round < u->rounds; round++) {
    u->wrong += MODEL(run_args)(&args) != 0;
    for (i = 0; i < OUTPUTS && u != &first; i++) u->wrong += memcmp(u->outs[i], first.outs[i], out_ports[i].bytes) != 0;
  }
  free(args.arena);
  for (i = 0; i < OUTPUTS && u != &first; i++) free(u->outs[i]);
  return NULL;
}

static void* read_file(const char* path, size_t bytes) {
  FILE* file = fopen(path, "rb");
  void* data = memory(bytes);
  if (file == NULL || fread(data, 1, bytes, file) != bytes) abort();
  fclose(file);
  return data;
}

int main(int argc, char** argv) {
  static user users[USERS];
  pthread_t thread[USERS];
  int i, threads, wrong;
  if (argc != 2 + INPUTS) return 2;
  weights = read_file(argv[1], MODEL(WEIGHTS_BYTES));
  prepared = memory(MODEL(PREPARED_BYTES));
  if (MODEL(prepare)(weights, prepared) != 0) return 4;
  for (i = 0; i < INPUTS; i++) ins[i] = read_file(argv[2 + i], in_ports[i].bytes);
  first.rounds = 1; /* alone, without a pool */
  work(&first);
  wrong = first.wrong;
  for (threads = 1; threads <= 4; threads *= 2) {
    edgec_rt* rt = edgec_rt_create(threads);
    if (rt == NULL) return 3;
    for (i = 0; i < USERS; i++) {
      users[i].rt = rt;
      users[i].rounds = ROUNDS;
      pthread_create(&thread[i], NULL, work, &users[i]);
    }
    for (i = 0; i < USERS; i++) {
      pthread_join(thread[i], NULL);
      wrong += users[i].wrong;
    }
    edgec_rt_destroy(rt);
  }
  for (i = 0; i < INPUTS; i++) free(ins[i]);
  for (i = 0; i < OUTPUTS; i++) free(first.outs[i]);
  free(weights);
  free(prepared);
  printf("%d\n", wrong);
  return wrong != 0;
}
