/* CUDA's driver interface on a CPU, as far as edgec_cuda.c needs it. It is compiled with the kernels of one model (kernels.cu) and a
   list of them (kernels.inc: rows `{"name", function, whether its items wait for one another}`). */
#include "kernels.cu"

#include <stdlib.h>
#include <vector>

struct kernel {
  const char* name;
  void (*run)(void**);
  bool waits;
};
#include "kernels.inc"

struct item {
  const kernel* what;
  void** parameters;
  unsigned group, number, size;
};

static void run(const item& i) {
  blockIdx.x = i.group;
  threadIdx.x = i.number;
  blockDim.x = i.size;
  i.what->run(i.parameters);
}

static void* thread(void* p) {
  run(*(const item*)p);
  return NULL;
}

static int depth = 0; /* of contexts that are current */

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) { *count = getenv("MOCK_NO_DEVICE") ? 0 : 1; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &depth; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxPushCurrent_v2(void* context) { depth++; return context == &depth ? 0 : 201; }
int cuCtxPopCurrent_v2(void** context) { depth--; *context = &depth; return 0; }
int cuCtxSynchronize() { return depth == 1 ? 0 : 201; }
int cuModuleLoadData(void** module, const void* image) { *module = &depth; return memcmp(image, "\x7f" "ELF", 4) == 0 ? 0 : 200; }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
  for (const kernel& k : kernels)
    if (strcmp(k.name, name) == 0) { *function = (void*)&k; return 0; }
  return 500;
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) { *address = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256); return 0; }
int cuMemFree_v2(uint64_t address) { free((void*)address); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) { memcpy((void*)to, from, bytes); return depth == 1 ? 0 : 201; }
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) { memcpy(to, (void*)from, bytes); return depth == 1 ? 0 : 201; }
int cuGetErrorString(int code, const char** text) { *text = code == 200 ? "device kernel image is invalid" : "mock"; return 0; }
int cuLaunchKernel(void* function, unsigned groups, unsigned, unsigned, unsigned size, unsigned, unsigned, unsigned, void*,
                   void** parameters, void**) {
  const kernel* what = (const kernel*)function;
  if (depth != 1) return 201;
  for (unsigned g = 0; g < groups; g++) {
    std::vector<item> items;
    for (unsigned i = 0; i < size; i++) items.push_back({what, parameters, g, i, size});
    if (!what->waits) {
      for (const item& i : items) run(i);
      continue;
    }
    std::vector<pthread_t> threads(size);
    pthread_barrier_init(&mock_barrier, NULL, size);
    for (unsigned i = 0; i < size; i++) pthread_create(&threads[i], NULL, thread, &items[i]);
    for (pthread_t t : threads) pthread_join(t, NULL);
    pthread_barrier_destroy(&mock_barrier);
  }
  return 0;
}
}
