/* What models that run on more units than the CPU have in common. The same lines stand in the header of each of them. */
#ifndef EDGEC_DEVICE
#define EDGEC_DEVICE 1

/* Facts of a unit: how large its arena is, and which part of the file of weights (from its first byte) is the unit's.
   Both are 0 for a unit that works in the memory of the CPU. */
typedef struct edgec_unit {
  uint32_t size, version; /* sizeof(edgec_unit), EDGEC_DEVICE */
  const char* name;
  const char* driver;
  uint64_t arena_bytes, weights_offset, weights_bytes;
  const char* const* kernel_names;
  uint32_t kernels;
} edgec_unit;

enum { EDGEC_UNIT_WEIGHTS = 0, EDGEC_UNIT_ARENA = 1 };

/* What a kernel reads or writes: memory of the CPU when `host` is not NULL, else a place in the weights or the arena of the unit. */
typedef struct edgec_operand {
  void* host;
  uint64_t offset, bytes;
  uint32_t region, writes;
} edgec_operand;

/* A kernel (its name, and its number among those of the unit), to be run by `groups` groups of `group` work items. */
typedef struct edgec_launch {
  const char* kernel;
  uint32_t number, operands, groups, group;
} edgec_launch;

/* A unit at work, as its driver gives it: one run at a time. All functions return 0, or anything else when it does not go on.
   What was launched runs in order. `write` has taken its bytes when it returns; `read` and `finish` wait until all is done. */
typedef struct edgec_device {
  uint32_t size, version; /* sizeof(edgec_device), EDGEC_DEVICE */
  void* ctx;
  int32_t (*write)(void* ctx, uint64_t offset, const void* from, uint64_t bytes); /* to an offset in the arena of the unit */
  int32_t (*read)(void* ctx, uint64_t offset, void* to, uint64_t bytes);
  int32_t (*launch)(void* ctx, const edgec_launch* what, const edgec_operand* operands);
  int32_t (*finish)(void* ctx);
} edgec_device;

#elif EDGEC_DEVICE != 1
#error "two models in this program were built for different versions of edgec's devices: build them with the same edgec"
#endif
