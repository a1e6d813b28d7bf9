/* What kernels in CUDA C++ need, on a CPU: g++ finds this instead of NVIDIA's header. A group's items run one after the other, or
   each in a thread of its own where they wait for one another. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static /* groups run one after the other */
struct place { unsigned x; };
static thread_local place blockIdx, threadIdx, blockDim;
static pthread_barrier_t mock_barrier;
static inline void __syncthreads() { pthread_barrier_wait(&mock_barrier); }

struct float4 { float x, y, z, w; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float __uint_as_float(unsigned bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline unsigned short __ushort_as_half(unsigned short bits) { return bits; }
static inline float __half2float(unsigned short h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexpf((float)fraction, -24) : ldexpf((float)(fraction + 1024), exponent - 25);
  return h >> 15 ? -size : size;
}
