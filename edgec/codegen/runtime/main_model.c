/* SPDX-License-Identifier: 0BSD
   The schedule of @NAME@: one small function for each step, which calls a kernel with addresses that never change. */
#include "@NAME@.h"

typedef struct frame {
  const char* weights;
  char* prepared;
  char* arena;
  char* state;
  const void* const* in;
  void* const* out;
@FRAME_UNITS@} frame;

@KERNELS@

@STEPS@

static const struct {
  edgec_task run;
  int32_t tasks;
@ROUNDS@} steps[] = {
@TABLE@
};

/* The beginning of the file of weights: format, size and which program they are for. */
static const uint8_t weights_header[40] = {@HEADER@};

const edgec_info @NAME@_info = {
  sizeof(edgec_info), EDGEC_ABI, {@ID@}, @WEIGHTS_BYTES@u, @PREPARED_BYTES@u, @ARENA_BYTES@u, @STATE_BYTES@u,
  @ALIGNMENT@, @IN_COUNT@, @OUT_COUNT@, @STEP_COUNT@
};

@RUN_PIPELINE@@UNITS@static int32_t check_weights(const void* weights) {
  size_t i;
  if (weights == NULL) return @NAME@_NULL_ARG;
  if ((uintptr_t)weights % @ALIGNMENT@ != 0) return @NAME@_ALIGN;
  for (i = 0; i < sizeof weights_header; i++)
    if (((const uint8_t*)weights)[i] != weights_header[i]) return @NAME@_WEIGHTS;
  return @NAME@_OK;
}

static int32_t check_memory(const void* memory, size_t bytes) {
  if (bytes == 0) return @NAME@_OK;
  if (memory == NULL) return @NAME@_NULL_ARG;
  return (uintptr_t)memory % @ALIGNMENT@ == 0 ? @NAME@_OK : @NAME@_ALIGN;
}

static int32_t check_ports(const @NAME@_args* a) {
  static const int64_t in_dims[] = {@IN_DIMS@};
  static const int64_t out_dims[] = {@OUT_DIMS@};
  int32_t i;
  if ((@IN_COUNT@ > 0 && a->in == NULL) || (@OUT_COUNT@ > 0 && a->out == NULL)) return @NAME@_NULL_ARG;
@CHECKS@
  for (i = 0; a->in_dims != NULL && i < @IN_RANKS@; i++)
    if (a->in_dims[i] != in_dims[i]) return @NAME@_DIM;
  for (i = 0; a->out_dims != NULL && i < @OUT_RANKS@; i++)
    a->out_dims[i] = out_dims[i];
  return @NAME@_OK;
}

int32_t @NAME@_run_args(const @NAME@_args* a) {
  frame f;
  uint32_t i, end@STAGES@;
  int32_t code;
  if (a == NULL) return @NAME@_NULL_ARG;
  if (a->size < sizeof(@NAME@_args) || a->abi != EDGEC_ABI || a->level != 0 || a->flags != 0) return @NAME@_ABI;
@QUICK_CHECK_CPU@  if ((code = check_weights(a->weights)) != 0) return code;
  if ((code = check_memory(a->prepared, @PREPARED_BYTES@)) != 0) return code;
  if ((code = check_memory(a->arena, @ARENA_BYTES@)) != 0) return code;
  if ((code = check_memory(a->state, @STATE_BYTES@)) != 0) return code;
  if ((code = check_ports(a)) != 0) return code;
@CHECK_UNITS@  if (a->first_step > @STEP_COUNT@ || a->step_count > @STEP_COUNT@ - a->first_step) return @NAME@_STEP;

  f.weights = (const char*)a->weights + 64;
  f.prepared = (char*)a->prepared;
  f.arena = (char*)a->arena;
  f.state = (char*)a->state;
  f.in = a->in;
  f.out = a->out;
@BIND_UNITS@  end = a->step_count != 0 ? a->first_step + a->step_count : @STEP_COUNT@;
  for (i = a->first_step; i < end; i++) {
@IF_PARALLEL@      code = a->rt->parallel_for(a->rt->ctx, steps[i].run, &f, steps[i].tasks);
    else
      code = steps[i].run(&f, 0, steps[i].tasks@TIMES_ROUNDS@);
    if (code != 0) return code < 0 ? @NAME@_INDEX : code;
  }
  return @NAME@_OK;
}

@PREPARE@
const char* @NAME@_strerror(int32_t code) {
  switch (code) {
@MESSAGES@
    default: return NULL;
  }
}

@CHECK_CPU@
