/* What all edgec models have in common. The same lines stand in the header of each model. */
#ifndef EDGEC_ABI
#define EDGEC_ABI 1

/* Runs tasks begin..end-1 of something; 0 or an error code. */
typedef int32_t (*edgec_task)(void* args, int32_t begin, int32_t end);

/* How a model runs things in parallel: run all `tasks`, in any order and on any threads, then return 0 or the error
   code of one that failed. `ctx` is yours. Results do not depend on how the tasks are split. */
typedef struct edgec_rt {
  void* ctx;
  int32_t (*parallel_for)(void* ctx, edgec_task run, void* args, int32_t tasks);
} edgec_rt;

/* Facts of a model. `id` is also in its file of weights. Sizes are bytes. */
typedef struct edgec_info {
  uint32_t size, abi;
  uint8_t id[16];
  uint64_t weights_bytes, prepared_bytes, arena_bytes, state_bytes;
  uint32_t alignment; /* of weights, prepared, arena and state */
  uint32_t inputs, outputs, steps;
} edgec_info;

#elif EDGEC_ABI != 1
#error "two models in this program were built for different versions of the edgec ABI: build them with the same edgec"
#endif
