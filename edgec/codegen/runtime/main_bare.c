/* SPDX-License-Identifier: 0BSD
   What a program on a microcontroller needs at least to run @NAME@: memory for inputs, outputs and what lies between them, here all
   static. Link it with @NAME@.o and @NAME@_weights.S, which puts the weights where constants are. Nothing needs a heap. */
#include "@NAME@.h"
@INCLUDE_UNITS@
static unsigned char arena[@NAME@_ARENA_BYTES + 1] __attribute__((aligned(@NAME@_ALIGNMENT)));
@MEMORY@
@DEVICES@
int32_t result; /* 0, or the code of an error: see @NAME@_strerror */

int main(void) {
  /* fill the inputs here */
@OPEN_UNITS@@PREPARE@  result = @NAME@_run(@ARGUMENTS@);
  /* look at the outputs here */
  return result != 0;
}
