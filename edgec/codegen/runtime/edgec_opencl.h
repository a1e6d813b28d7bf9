/* SPDX-License-Identifier: 0BSD
   Drives a unit of an edgec model through OpenCL. libOpenCL.so.1 is opened when a device is made: nothing has to be linked
   but the C library (and libdl where that is one of its own). */
#ifndef EDGEC_OPENCL_H
#define EDGEC_OPENCL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

@DEVICE_ABI@
/* Builds the code of a unit (text, its length) for the first GPU there is, else for any device that OpenCL knows, and copies
   the unit's weights to it. EDGEC_OPENCL_DEVICE in the environment, a part of its name, chooses another. `weights` are the bytes
   of the whole file of weights, which are not needed any more afterwards. NULL, and a sentence in `message`, when that fails. */
const edgec_device* edgec_opencl_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                        char* message, size_t message_bytes);

/* What went wrong in the function of the device that failed last; empty when none has. */
const char* edgec_opencl_error(const edgec_device* device);

/* Gives everything back; NULL is ignored. */
void edgec_opencl_destroy(const edgec_device* device);

#ifdef __cplusplus
}
#endif
#endif
