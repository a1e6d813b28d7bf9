/* SPDX-License-Identifier: 0BSD
   Drives a unit of an edgec model through CUDA's driver interface. libcuda.so.1, a part of NVIDIA's driver, is opened when a
   device is made: nothing has to be linked but the C library (and libdl where that is one of its own). */
#ifndef EDGEC_CUDA_H
#define EDGEC_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

@DEVICE_ABI@
/* Loads the code of a unit (machine code, its length) into the first GPU, or the one whose number EDGEC_CUDA_DEVICE in the
   environment says, and copies the unit's weights to it. `weights` are the bytes of the whole file of weights, which are not
   needed any more afterwards. NULL, and a sentence in `message`, when that fails. */
const edgec_device* edgec_cuda_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                      char* message, size_t message_bytes);

/* What went wrong in the function of the device that failed last; empty when none has. */
const char* edgec_cuda_error(const edgec_device* device);

/* Gives everything back; NULL is ignored. */
void edgec_cuda_destroy(const edgec_device* device);

#ifdef __cplusplus
}
#endif
#endif
