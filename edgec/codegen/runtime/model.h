/* SPDX-License-Identifier: 0BSD
   @NAME@: made by edgec, for @TARGET@.
@PORTS@
   Inputs and outputs are row-major and need the alignment of their elements; f16 and bf16 are given as their bits, bool as 0 or 1. Inputs, outputs, arena, state and weights must
   not overlap. Nothing is allocated and nothing is kept between calls, so any number of threads can run the model at
   the same time, each with an arena (and outputs) of its own. */
#ifndef EDGEC_MODEL_@NAME@_H
#define EDGEC_MODEL_@NAME@_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

@ABI@
@DEVICE_ABI@#define @NAME@_WEIGHTS_BYTES @WEIGHTS_BYTES@ /* of @NAME@.weights.bin */
#define @NAME@_PREPARED_BYTES @PREPARED_BYTES@
#define @NAME@_ARENA_BYTES @ARENA_BYTES@
#define @NAME@_STATE_BYTES @STATE_BYTES@
#define @NAME@_ALIGNMENT @ALIGNMENT@ /* of weights, prepared, arena and state */
#define @NAME@_STEPS @STEPS@

enum @NAME@_error {
@ERRORS@
};

/* What a run needs. Set `size` to sizeof(@NAME@_args), `abi` to EDGEC_ABI and everything that is not needed to 0. */
typedef struct @NAME@_args {
  uint32_t size, abi;
  const void* weights;      /* the bytes of @NAME@.weights.bin */
  void* prepared;           /* @NAME@_PREPARED_BYTES, filled by @NAME@_prepare */
  void* arena;              /* @NAME@_ARENA_BYTES of working memory */
  void* state;              /* @NAME@_STATE_BYTES kept from run to run */
  const void* const* in;    /* one pointer for each input */
  void* const* out;         /* one pointer for each output */
  const int64_t* in_dims;   /* NULL, or the dims of all inputs in a row, to be checked */
  int64_t* out_dims;        /* NULL, or room for the dims of all outputs in a row */
  const edgec_rt* rt;       /* NULL: everything runs in the calling thread */
  uint32_t level, flags;    /* 0 */
  uint32_t first_step;      /* for debugging: begin at this step of the schedule, */
  uint32_t step_count;      /* and run so many; 0 means all that follow */
@ARGS_UNITS@} @NAME@_args;

/* Runs the model: 0, or an error code. It asks for the processor's instructions only where that takes no time: elsewhere
   call @NAME@_prepare or @NAME@_check_cpu once before. */
int32_t @NAME@_run_args(const @NAME@_args* args);

/* Looks at processor and weights, and fills `prepared`, once before the first run. Not needed when @NAME@_PREPARED_BYTES is 0. */
int32_t @NAME@_prepare(const void* weights, void* prepared);
@PREPARE_WITH@
/* The sentence for an error code; NULL for a code that does not exist. */
const char* @NAME@_strerror(int32_t code);

/* 0 when this processor has everything that the code uses; else @NAME@_CPU, and *missing names the first thing it lacks. */
int32_t @NAME@_check_cpu(const char** missing);

extern const edgec_info @NAME@_info;
@DECLARE_UNITS@
/* The weights, when @NAME@_weights.S is part of the program. */
extern const unsigned char @NAME@_weights[];

/* Runs the model with the given weights; `rt` may be NULL. */
static inline int32_t @NAME@_run_with(const void* weights, const edgec_rt* rt, @PARAMETER_UNITS@@PARAMETERS@) {
  const void* in[@IN_COUNT@];
  void* out[@OUT_COUNT@];
  @NAME@_args args;
@ASSIGNMENTS@
  args.size = (uint32_t)sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = weights;
  args.prepared = @PREPARED@;
  args.arena = arena;
  args.state = @STATE@;
  args.in = in;
  args.out = out;
  args.in_dims = NULL;
  args.out_dims = NULL;
  args.rt = rt;
  args.level = 0;
  args.flags = 0;
  args.first_step = 0;
  args.step_count = 0;
@ASSIGN_UNITS@  return @NAME@_run_args(&args);
}

/* Runs the model in this thread with the weights that are part of the program (@NAME@_weights.S). */
static inline int32_t @NAME@_run(@PARAMETER_UNITS@@PARAMETERS@) {
  return @NAME@_run_with(@NAME@_weights, NULL, @ARGUMENT_UNITS@@ARGUMENTS@);
}

#ifdef __cplusplus
}
#endif
#endif
