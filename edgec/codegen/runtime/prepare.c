static const struct {
  edgec_task run;
  int32_t tasks;
  uint64_t spent; /* weights that nobody reads any more, in bytes from the first that only preparing reads */
} preparations[] = {
@TABLE@
};

int32_t @NAME@_prepare_with(const void* weights, void* prepared, const edgec_rt* rt,
                            void (*release)(void* ctx, const void* from, uint64_t bytes), void* ctx) {
  frame f;
  uint32_t i;
  int32_t code = @NAME@_check_cpu(NULL);
  if (code == 0) code = check_weights(weights);
  if (code == 0) code = check_memory(prepared, @PREPARED_BYTES@);
  if (code != 0) return code;
  f.weights = (const char*)weights + 64;
  f.prepared = (char*)prepared;
  for (i = 0; i < @COUNT@; i++) {
    if (rt != NULL && preparations[i].tasks > 1)
      code = rt->parallel_for(rt->ctx, preparations[i].run, &f, preparations[i].tasks);
    else
      code = preparations[i].run(&f, 0, preparations[i].tasks);
    if (code != 0) return code < 0 ? @NAME@_INDEX : code;
    if (release != NULL && preparations[i].spent != 0) release(ctx, f.weights + @SPENT@, preparations[i].spent);
  }
  return @NAME@_OK;
}

int32_t @NAME@_prepare(const void* weights, void* prepared) {
  return @NAME@_prepare_with(weights, prepared, NULL, NULL, NULL);
}
