/* Runs a model twice: alone, and with tasks that are handed out last to first. Words: weights, prepared, arena, state, two error codes,
   then inputs, outputs of the one run, outputs of the other. */
#include "model.h" /* MODEL(x) is NAME_x; IN_PORTS, OUT_PORTS: {bytes, bytes of an element} */

typedef struct { size_t bytes, align; } port;
static const port in_ports[] = {IN_PORTS}, out_ports[] = {OUT_PORTS};
enum { INPUTS = sizeof in_ports / sizeof in_ports[0], OUTPUTS = sizeof out_ports / sizeof out_ports[0] };

#ifdef ANY_PROCESSOR
int32_t MODEL(check_cpu)(const char** missing) { return missing ? 0 : 0; } /* takes the place of the model's own, which is weak */
#endif

static int32_t backwards(void* ctx, edgec_task run, void* args, int32_t tasks) {
  int32_t code = 0;
  (void)ctx;
  while (tasks-- > 0) {
    int32_t c = run(args, tasks, tasks + 1);
    if (code == 0) code = c;
  }
  return code;
}

static int32_t run(const uint64_t* words, edgec_rt* rt, const uint64_t* outputs) {
  MODEL(args) args = {0};
  args.size = sizeof args;
  args.abi = EDGEC_ABI;
  args.weights = (const void*)words[0];
  args.prepared = (void*)words[1];
  args.arena = (void*)words[2];
  args.state = (void*)words[3];
  args.in = (const void* const*)(words + 5);
  args.out = (void* const*)outputs;
  args.rt = rt;
  return MODEL(run_args)(&args);
}

void program(const uint64_t* words) {
  const char* missing = 0;
  int32_t* codes = (int32_t*)words[4];
  edgec_rt rt = {0, backwards};
  codes[0] = codes[1] = MODEL(check_cpu)(&missing);
  if (codes[0] == 0) codes[0] = codes[1] = MODEL(prepare)((const void*)words[0], (void*)words[1]);
  if (codes[0] != 0) return;
  codes[0] = run(words, 0, words + 5 + INPUTS);
  codes[1] = run(words, &rt, words + 5 + INPUTS + OUTPUTS);
}
