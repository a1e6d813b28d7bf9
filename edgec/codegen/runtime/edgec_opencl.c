/* SPDX-License-Identifier: 0BSD
   A unit of an edgec model through OpenCL 1.2 or later: one buffer for the arena, one for the weights, one queue that runs in
   order. Kernels take for each operand a buffer and an offset in bytes. */
#include "edgec_opencl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void* object; /* cl_platform_id, cl_device_id, cl_context, cl_command_queue, cl_program, cl_kernel, cl_mem */
enum { ALL_DEVICES = -1, GPU = 4, READ_WRITE = 1, READ_ONLY = 4, COPY_HOST = 32, DEVICE_NAME = 0x102B, BUILD_LOG = 0x1183, MOST = 16 };

/* The functions that are needed, as the library declares them. */
#define FUNCTIONS(X)                                                                                                            \
  X(clGetPlatformIDs, (uint32_t, object*, uint32_t*))                                                                           \
  X(clGetDeviceIDs, (object, uint64_t, uint32_t, object*, uint32_t*))                                                           \
  X(clGetDeviceInfo, (object, uint32_t, size_t, void*, size_t*))                                                                \
  X(clGetProgramBuildInfo, (object, object, uint32_t, size_t, void*, size_t*))                                                  \
  X(clBuildProgram, (object, uint32_t, const object*, const char*, void*, void*))                                               \
  X(clSetKernelArg, (object, uint32_t, size_t, const void*))                                                                    \
  X(clEnqueueNDRangeKernel, (object, object, uint32_t, const size_t*, const size_t*, const size_t*, uint32_t, const object*, object*)) \
  X(clEnqueueWriteBuffer, (object, object, uint32_t, size_t, size_t, const void*, uint32_t, const object*, object*))            \
  X(clEnqueueReadBuffer, (object, object, uint32_t, size_t, size_t, void*, uint32_t, const object*, object*))                   \
  X(clFinish, (object))                                                                                                         \
  X(clReleaseKernel, (object))                                                                                                  \
  X(clReleaseProgram, (object))                                                                                                 \
  X(clReleaseMemObject, (object))                                                                                               \
  X(clReleaseCommandQueue, (object))                                                                                            \
  X(clReleaseContext, (object))
#define MAKERS(X)                                                                      \
  X(clCreateContext, (const intptr_t*, uint32_t, const object*, void*, void*, int32_t*)) \
  X(clCreateCommandQueue, (object, object, uint64_t, int32_t*))                        \
  X(clCreateBuffer, (object, uint64_t, size_t, void*, int32_t*))                       \
  X(clCreateProgramWithSource, (object, uint32_t, const char**, const size_t*, int32_t*)) \
  X(clCreateKernel, (object, const char*, int32_t*))

typedef struct driver {
  edgec_device device;
  void* library;
#define DECLARE(name, parameters) int32_t(*name) parameters;
  FUNCTIONS(DECLARE)
#undef DECLARE
#define DECLARE(name, parameters) object(*name) parameters;
  MAKERS(DECLARE)
#undef DECLARE
  object id, context, queue, program, arena, weights;
  object* kernels;
  uint32_t count;
  uint64_t arena_bytes;
  char message[2048];
} driver;

/* Keeps a sentence about a function of OpenCL that failed. */
static int32_t failed(driver* d, const char* what, int32_t code) {
  if (code != 0) snprintf(d->message, sizeof d->message, "%s failed with the OpenCL error %d", what, (int)code);
  return code;
}

static int32_t say(driver* d, const char* sentence) {
  snprintf(d->message, sizeof d->message, "%s", sentence);
  return -1;
}

static int32_t write_arena(void* ctx, uint64_t offset, const void* from, uint64_t bytes) {
  driver* d = (driver*)ctx;
  if (offset > d->arena_bytes || bytes > d->arena_bytes - offset) return say(d, "a copy ends behind the arena");
  return failed(d, "clEnqueueWriteBuffer", d->clEnqueueWriteBuffer(d->queue, d->arena, 1, offset, bytes, from, 0, NULL, NULL));
}

static int32_t read_arena(void* ctx, uint64_t offset, void* to, uint64_t bytes) {
  driver* d = (driver*)ctx;
  if (offset > d->arena_bytes || bytes > d->arena_bytes - offset) return say(d, "a copy begins or ends behind the arena");
  return failed(d, "clEnqueueReadBuffer", d->clEnqueueReadBuffer(d->queue, d->arena, 1, offset, bytes, to, 0, NULL, NULL));
}

static int32_t launch(void* ctx, const edgec_launch* what, const edgec_operand* operands) {
  driver* d = (driver*)ctx;
  size_t group = what->group, items = (size_t)what->groups * what->group;
  int32_t code = 0;
  uint32_t i;
  object kernel;
  if (what->number >= d->count) return say(d, "the code of the unit has no such kernel");
  kernel = d->kernels[what->number];
  for (i = 0; i < what->operands; i++) {
    const edgec_operand* o = &operands[i];
    if (o->host != NULL) return say(d, "an OpenCL kernel cannot reach the memory of the CPU");
    code = d->clSetKernelArg(kernel, 2 * i, sizeof(object), o->region == EDGEC_UNIT_WEIGHTS ? &d->weights : &d->arena);
    if (code == 0) code = d->clSetKernelArg(kernel, 2 * i + 1, sizeof o->offset, &o->offset);
    if (code != 0) break;
  }
  if (code == 0) code = d->clEnqueueNDRangeKernel(d->queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL);
  return failed(d, what->kernel, code);
}

static int32_t finish(void* ctx) {
  driver* d = (driver*)ctx;
  return failed(d, "clFinish", d->clFinish(d->queue));
}

/* Finds the functions; 0 when all are there. */
static int32_t open_library(driver* d) {
  d->library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
  if (d->library == NULL) d->library = dlopen("libOpenCL.so", RTLD_NOW | RTLD_LOCAL);
  if (d->library == NULL) return say(d, "libOpenCL.so.1 is not on this machine");
#define FIND(name, parameters)                                                         \
  *(void**)&d->name = dlsym(d->library, #name);                                        \
  if (d->name == NULL) return say(d, "libOpenCL.so.1 does not have the function " #name);
  FUNCTIONS(FIND)
  MAKERS(FIND)
#undef FIND
  return 0;
}

/* The first device of a kind whose name holds `wanted`. */
static int32_t find_device(driver* d, uint64_t kind, const char* wanted) {
  object platforms[MOST], devices[MOST];
  uint32_t count = 0, found, i, k;
  char name[256];
  if (d->clGetPlatformIDs(MOST, platforms, &count) != 0) return -1;
  for (i = 0; i < count && i < MOST; i++) {
    found = 0;
    if (d->clGetDeviceIDs(platforms[i], kind, MOST, devices, &found) != 0) continue;
    for (k = 0; k < found && k < MOST; k++) {
      memset(name, 0, sizeof name);
      d->clGetDeviceInfo(devices[k], DEVICE_NAME, sizeof name - 1, name, NULL);
      if (wanted != NULL && strstr(name, wanted) == NULL) continue;
      d->id = devices[k];
      return 0;
    }
  }
  return -1;
}

static int32_t build(driver* d, const edgec_unit* unit, const char* code, size_t code_bytes) {
  int32_t error = 0;
  uint32_t i;
  size_t at;
  d->program = d->clCreateProgramWithSource(d->context, 1, &code, &code_bytes, &error);
  if (failed(d, "clCreateProgramWithSource", error) != 0) return error;
  error = d->clBuildProgram(d->program, 1, &d->id, "-cl-std=CL1.2", NULL, NULL);
  if (error != 0) {
    failed(d, "clBuildProgram", error);
    at = strlen(d->message);
    snprintf(d->message + at, sizeof d->message - at, ": ");
    d->clGetProgramBuildInfo(d->program, d->id, BUILD_LOG, sizeof d->message - at - 3, d->message + at + 2, NULL);
    return error;
  }
  d->kernels = (object*)calloc(unit->kernels + 1, sizeof(object));
  if (d->kernels == NULL) return say(d, "there is not enough memory");
  for (i = 0; i < unit->kernels; i++, d->count++) {
    d->kernels[i] = d->clCreateKernel(d->program, unit->kernel_names[i], &error);
    if (failed(d, unit->kernel_names[i], error) != 0) return error;
  }
  return 0;
}

static int32_t open_device(driver* d, const edgec_unit* unit, const char* weights, const char* code, size_t code_bytes) {
  int32_t error = open_library(d);
  const char* wanted = getenv("EDGEC_OPENCL_DEVICE");
  if (error != 0) return error;
  if (find_device(d, GPU, wanted) != 0 && find_device(d, (uint32_t)ALL_DEVICES, wanted) != 0)
    return say(d, wanted == NULL ? "OpenCL knows no device on this machine"
                                 : "OpenCL knows no device with the name that EDGEC_OPENCL_DEVICE says");
  d->context = d->clCreateContext(NULL, 1, &d->id, NULL, NULL, &error);
  if (failed(d, "clCreateContext", error) != 0) return error;
  d->queue = d->clCreateCommandQueue(d->context, d->id, 0, &error);
  if (failed(d, "clCreateCommandQueue", error) != 0) return error;
  d->arena_bytes = unit->arena_bytes;
  d->arena = d->clCreateBuffer(d->context, READ_WRITE, unit->arena_bytes + 1, NULL, &error);
  if (failed(d, "clCreateBuffer", error) != 0) return error;
  if (unit->weights_bytes != 0)
    d->weights = d->clCreateBuffer(d->context, READ_ONLY | COPY_HOST, unit->weights_bytes, (void*)(uintptr_t)(weights + unit->weights_offset), &error);
  else
    d->weights = d->clCreateBuffer(d->context, READ_ONLY, 1, NULL, &error);
  if (failed(d, "clCreateBuffer", error) != 0) return error;
  return build(d, unit, code, code_bytes);
}

const edgec_device* edgec_opencl_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                        char* message, size_t message_bytes) {
  driver* d;
  if (unit->size < sizeof(edgec_unit) || unit->version != EDGEC_DEVICE) {
    snprintf(message, message_bytes, "the driver and the model are of different versions of edgec");
    return NULL;
  }
  d = (driver*)calloc(1, sizeof(driver));
  if (d == NULL) {
    snprintf(message, message_bytes, "there is not enough memory");
    return NULL;
  }
  if (open_device(d, unit, (const char*)weights, (const char*)code, code_bytes) != 0) {
    snprintf(message, message_bytes, "%s", d->message);
    edgec_opencl_destroy(&d->device);
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

const char* edgec_opencl_error(const edgec_device* device) { return ((const driver*)device)->message; }

void edgec_opencl_destroy(const edgec_device* device) {
  driver* d = (driver*)(uintptr_t)device;
  uint32_t i;
  if (d == NULL) return;
  if (d->queue != NULL) d->clFinish(d->queue);
  for (i = 0; i < d->count; i++) d->clReleaseKernel(d->kernels[i]);
  free(d->kernels);
  if (d->program != NULL) d->clReleaseProgram(d->program);
  if (d->weights != NULL) d->clReleaseMemObject(d->weights);
  if (d->arena != NULL) d->clReleaseMemObject(d->arena);
  if (d->queue != NULL) d->clReleaseCommandQueue(d->queue);
  if (d->context != NULL) d->clReleaseContext(d->context);
  free(d); /* the library stays open: those that implement OpenCL do not like to be closed */
}
