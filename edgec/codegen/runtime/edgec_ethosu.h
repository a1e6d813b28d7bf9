/* SPDX-License-Identifier: 0BSD
   Drives an Ethos-U NPU of an edgec model through Arm's core driver (ethosu_reserve_driver, ethosu_invoke_v3, ethosu_release_driver),
   which your program brings and sets up with ethosu_init. Nothing is allocated. The command streams were compiled by ethos-u-vela;
   where this bundle was made there was no Ethos-U, so they were not executed there. */
#ifndef EDGEC_ETHOSU_H
#define EDGEC_ETHOSU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef EDGEC_ETHOSU_DEVICES
#define EDGEC_ETHOSU_DEVICES 2 /* how many devices there can be at once */
#endif

@DEVICE_ABI@
/* Reads the code of a unit, which must lie at a multiple of 64 bytes and stay there. `weights` are not needed: constants of an NPU are
   part of its code. NULL, and a sentence in `message`, when that fails. */
const edgec_device* edgec_ethosu_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                        char* message, size_t message_bytes);

/* Memory that belongs to the NPU alone: for command streams that work in some (memory modes of Vela called Dedicated_Sram), before they
   run. It begins at a multiple of 16 bytes. */
void edgec_ethosu_fast_memory(const edgec_device* device, void* memory, size_t bytes);

/* What went wrong in the function of the device that failed last; empty when none has. */
const char* edgec_ethosu_error(const edgec_device* device);

/* Gives everything back; NULL is ignored. */
void edgec_ethosu_destroy(const edgec_device* device);

#ifdef __cplusplus
}
#endif
#endif
