
/* The same on the threads of `rt`, and with word of what is no longer needed; both may be NULL. `release` is told a growing
   piece of the weights that nobody reads any more: a program whose weights are mapped can give its pages back. Runs read the
   first @NAME@_RUN_WEIGHTS_BYTES of the file of weights. */
#define @NAME@_RUN_WEIGHTS_BYTES @RUN_BYTES@
int32_t @NAME@_prepare_with(const void* weights, void* prepared, const edgec_rt* rt,
                            void (*release)(void* ctx, const void* from, uint64_t bytes), void* ctx);
