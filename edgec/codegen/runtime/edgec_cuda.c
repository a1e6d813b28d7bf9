/* SPDX-License-Identifier: 0BSD
   A unit of an edgec model through the driver interface of CUDA: memory for the arena and for the weights, everything in the
   default stream, which runs in order. Kernels take for each operand a pointer and an offset in bytes. */
#include "edgec_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef void* object;      /* CUcontext, CUmodule, CUfunction, CUstream */
typedef uint64_t address;  /* CUdeviceptr */
enum { MOST_OPERANDS = 64 };

/* The functions that are needed, by the names that the library gives their present forms. */
#define FUNCTIONS(X)                                                                                                 \
  X(cuInit, "cuInit", (uint32_t))                                                                                    \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int32_t*))                                                                \
  X(cuDeviceGet, "cuDeviceGet", (int32_t*, int32_t))                                                                 \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (object*, int32_t))                                        \
  X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int32_t))                                            \
  X(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (object))                                                               \
  X(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (object*))                                                                \
  X(cuCtxSynchronize, "cuCtxSynchronize", (void))                                                                    \
  X(cuModuleLoadData, "cuModuleLoadData", (object*, const void*))                                                    \
  X(cuModuleUnload, "cuModuleUnload", (object))                                                                      \
  X(cuModuleGetFunction, "cuModuleGetFunction", (object*, object, const char*))                                      \
  X(cuMemAlloc, "cuMemAlloc_v2", (address*, size_t))                                                                 \
  X(cuMemFree, "cuMemFree_v2", (address))                                                                            \
  X(cuMemcpyHtoD, "cuMemcpyHtoD_v2", (address, const void*, size_t))                                                 \
  X(cuMemcpyDtoH, "cuMemcpyDtoH_v2", (void*, address, size_t))                                                       \
  X(cuLaunchKernel, "cuLaunchKernel", (object, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, object, void**, void**)) \
  X(cuGetErrorString, "cuGetErrorString", (int32_t, const char**))

typedef struct driver {
  edgec_device device;
  void* library;
#define DECLARE(name, symbol, parameters) int32_t(*name) parameters;
  FUNCTIONS(DECLARE)
#undef DECLARE
  int32_t number;
  object context, module;
  address arena, weights;
  object* kernels;
  uint32_t count;
  uint64_t arena_bytes;
  char message[1024];
} driver;

/* Keeps a sentence about a function of CUDA that failed. */
static int32_t failed(driver* d, const char* what, int32_t code) {
  const char* why = NULL;
  if (code == 0) return 0;
  if (d->cuGetErrorString(code, &why) != 0 || why == NULL) why = "an error that it does not explain";
  snprintf(d->message, sizeof d->message, "%s failed with the CUDA error %d: %s", what, (int)code, why);
  return code;
}

static int32_t say(driver* d, const char* sentence) {
  snprintf(d->message, sizeof d->message, "%s", sentence);
  return -1;
}

/* The context is made current for each call and taken away again: the thread may use CUDA for something else. */
static int32_t enter(driver* d) { return failed(d, "cuCtxPushCurrent", d->cuCtxPushCurrent(d->context)); }

static int32_t leave(driver* d, const char* what, int32_t code) {
  object context;
  failed(d, what, code);
  d->cuCtxPopCurrent(&context);
  return code;
}

static int32_t write_arena(void* ctx, uint64_t offset, const void* from, uint64_t bytes) {
  driver* d = (driver*)ctx;
  int32_t code;
  if (offset > d->arena_bytes || bytes > d->arena_bytes - offset) return say(d, "a copy ends behind the arena");
  code = enter(d);
  return code != 0 ? code : leave(d, "cuMemcpyHtoD", d->cuMemcpyHtoD(d->arena + offset, from, bytes));
}

static int32_t read_arena(void* ctx, uint64_t offset, void* to, uint64_t bytes) {
  driver* d = (driver*)ctx;
  int32_t code;
  if (offset > d->arena_bytes || bytes > d->arena_bytes - offset) return say(d, "a copy begins or ends behind the arena");
  code = enter(d);
  return code != 0 ? code : leave(d, "cuMemcpyDtoH", d->cuMemcpyDtoH(to, d->arena + offset, bytes));
}

static int32_t launch(void* ctx, const edgec_launch* what, const edgec_operand* operands) {
  driver* d = (driver*)ctx;
  uint64_t values[2 * MOST_OPERANDS];
  void* parameters[2 * MOST_OPERANDS];
  int32_t code;
  uint32_t i;
  if (what->number >= d->count) return say(d, "the code of the unit has no such kernel");
  if (what->operands > MOST_OPERANDS) return say(d, "a kernel has more operands than this driver can pass on");
  for (i = 0; i < what->operands; i++) {
    if (operands[i].host != NULL) return say(d, "a CUDA kernel cannot reach the memory of the CPU");
    values[2 * i] = operands[i].region == EDGEC_UNIT_WEIGHTS ? d->weights : d->arena;
    values[2 * i + 1] = operands[i].offset;
    parameters[2 * i] = &values[2 * i];
    parameters[2 * i + 1] = &values[2 * i + 1];
  }
  code = enter(d);
  if (code != 0) return code;
  code = d->cuLaunchKernel(d->kernels[what->number], what->groups, 1, 1, what->group, 1, 1, 0, NULL, parameters, NULL);
  return leave(d, what->kernel, code);
}

static int32_t finish(void* ctx) {
  driver* d = (driver*)ctx;
  int32_t code = enter(d);
  return code != 0 ? code : leave(d, "cuCtxSynchronize", d->cuCtxSynchronize());
}

/* Finds the functions; 0 when all are there. */
static int32_t open_library(driver* d) {
  d->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (d->library == NULL) return say(d, "libcuda.so.1 is not on this machine");
#define FIND(name, symbol, parameters)         \
  *(void**)&d->name = dlsym(d->library, symbol); \
  if (d->name == NULL) return say(d, "libcuda.so.1 does not have the function " symbol);
  FUNCTIONS(FIND)
#undef FIND
  return 0;
}

/* What needs the context to be current. */
static int32_t fill(driver* d, const edgec_unit* unit, const char* weights, const void* code) {
  uint32_t i;
  int32_t error = failed(d, "cuModuleLoadData", d->cuModuleLoadData(&d->module, code));
  if (error == 0) error = failed(d, "cuMemAlloc", d->cuMemAlloc(&d->arena, unit->arena_bytes + 1));
  if (error == 0) error = failed(d, "cuMemAlloc", d->cuMemAlloc(&d->weights, unit->weights_bytes + 1));
  if (error == 0 && unit->weights_bytes != 0)
    error = failed(d, "cuMemcpyHtoD", d->cuMemcpyHtoD(d->weights, weights + unit->weights_offset, unit->weights_bytes));
  if (error != 0) return error;
  d->arena_bytes = unit->arena_bytes;
  d->kernels = (object*)calloc(unit->kernels + 1, sizeof(object));
  if (d->kernels == NULL) return say(d, "there is not enough memory");
  for (i = 0; i < unit->kernels; i++, d->count++) {
    error = failed(d, unit->kernel_names[i], d->cuModuleGetFunction(&d->kernels[i], d->module, unit->kernel_names[i]));
    if (error != 0) return error;
  }
  return 0;
}

static int32_t open_device(driver* d, const edgec_unit* unit, const char* weights, const void* code) {
  const char* wanted = getenv("EDGEC_CUDA_DEVICE");
  int32_t count = 0, error = open_library(d);
  object context;
  if (error != 0) return error;
  if (failed(d, "cuInit", d->cuInit(0)) != 0) return -1;
  if (failed(d, "cuDeviceGetCount", d->cuDeviceGetCount(&count)) != 0) return -1;
  d->number = wanted != NULL ? atoi(wanted) : 0;
  if (d->number < 0 || d->number >= count)
    return say(d, wanted != NULL ? "CUDA knows no device with the number that EDGEC_CUDA_DEVICE says" : "CUDA knows no device on this machine");
  if (failed(d, "cuDeviceGet", d->cuDeviceGet(&d->number, d->number)) != 0) return -1;
  if (failed(d, "cuDevicePrimaryCtxRetain", d->cuDevicePrimaryCtxRetain(&d->context, d->number)) != 0) return -1;
  if (enter(d) != 0) return -1;
  error = fill(d, unit, weights, code);
  d->cuCtxPopCurrent(&context);
  return error;
}

const edgec_device* edgec_cuda_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                      char* message, size_t message_bytes) {
  driver* d;
  (void)code_bytes; /* machine code says how long it is */
  if (unit->size < sizeof(edgec_unit) || unit->version != EDGEC_DEVICE) {
    snprintf(message, message_bytes, "the driver and the model are of different versions of edgec");
    return NULL;
  }
  d = (driver*)calloc(1, sizeof(driver));
  if (d == NULL) {
    snprintf(message, message_bytes, "there is not enough memory");
    return NULL;
  }
  if (open_device(d, unit, (const char*)weights, code) != 0) {
    snprintf(message, message_bytes, "%s", d->message);
    edgec_cuda_destroy(&d->device);
    return NULL;
  }
  d->device.size = sizeof(edgec_device);
  d->device.version = EDGEC_DEVICE;
  d->device.ctx = d;
  d->device.write = write_arena;
  d->device.read = read_arena;
  d->device.launch = launch;
  d->device.finish = finish;
  return &d->device;
}

const char* edgec_cuda_error(const edgec_device* device) { return ((const driver*)device)->message; }

void edgec_cuda_destroy(const edgec_device* device) {
  driver* d = (driver*)(uintptr_t)device;
  object context;
  if (d == NULL) return;
  if (d->context != NULL && d->cuCtxPushCurrent(d->context) == 0) {
    d->cuCtxSynchronize();
    if (d->module != NULL) d->cuModuleUnload(d->module);
    if (d->weights != 0) d->cuMemFree(d->weights);
    if (d->arena != 0) d->cuMemFree(d->arena);
    d->cuCtxPopCurrent(&context);
  }
  if (d->context != NULL) d->cuDevicePrimaryCtxRelease(d->number);
  free(d->kernels);
  free(d); /* the library stays open: other parts of the program may use it */
}
