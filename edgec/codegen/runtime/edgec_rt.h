/* SPDX-License-Identifier: 0BSD
   A small thread pool for models made by edgec. One pool can serve any number of models and calling threads. */
#ifndef EDGEC_RT_H
#define EDGEC_RT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

@ABI@
/* A pool in which the calling thread and `threads` - 1 others share the work; NULL when there is not enough memory or
   threads cannot be started. */
edgec_rt* edgec_rt_create(int32_t threads);

/* Ends the pool's threads. No run may be using it any more. */
void edgec_rt_destroy(edgec_rt* rt);

#ifdef __cplusplus
}
#endif
#endif
