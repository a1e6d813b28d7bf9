/* Steps that follow each other through a sequence, each some rounds behind the one before it. */
typedef struct pipeline {
  frame* f;
  uint32_t first;
  int32_t turn;
} pipeline;

/* Runs the next round of steps begin..end-1 of a pipeline, if they have begun and are not done yet. */
static int32_t run_stages(void* args, int32_t begin, int32_t end) {
  const pipeline* p = (const pipeline*)args;
  int32_t i, code = 0, round = p->turn + steps[p->first].behind;
  for (i = 0; i < end && code == 0; i++) {
    round -= steps[p->first + (uint32_t)i].behind;
    if (i >= begin && round >= 0 && round < steps[p->first].rounds)
      code = steps[p->first + (uint32_t)i].run(p->f, round, round + 1);
  }
  return code;
}

/* How many of the steps from `first` to `end` may run side by side. */
static uint32_t stages_from(uint32_t first, uint32_t end) {
  uint32_t next = first + 1;
  while (next < end && steps[next].behind != 0) next++;
  return next - first;
}

static int32_t run_pipeline(const edgec_rt* rt, frame* f, uint32_t first, uint32_t stages) {
  pipeline p;
  int32_t turns = steps[first].rounds, code = 0;
  uint32_t i;
  for (i = 1; i < stages; i++) turns += steps[first + i].behind;
  p.f = f;
  p.first = first;
  for (p.turn = 0; p.turn < turns && code == 0; p.turn++) code = rt->parallel_for(rt->ctx, run_stages, &p, (int32_t)stages);
  return code;
}

