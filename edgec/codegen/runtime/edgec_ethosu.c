/* SPDX-License-Identifier: 0BSD
   An Ethos-U NPU of an edgec model: inputs go into the memory that a command stream works in, the core driver runs it, outputs come
   back. The driver writes back and invalidates caches itself, as its ethosu_flush_dcache and ethosu_invalidate_dcache say. */
#include "edgec_ethosu.h"

#include <string.h>

/* As ethosu_driver.h of Arm's core driver declares them. */
struct ethosu_driver;
struct ethosu_driver* ethosu_reserve_driver(void);
void ethosu_release_driver(struct ethosu_driver* driver);
int ethosu_invoke_v3(struct ethosu_driver* driver, const void* stream, const int stream_bytes, uint64_t* const addresses,
                     const size_t* bytes, const int count, void* user);

enum { FORMAT = 1, HEAD = 16, ROW = 9, STREAM = 0, STREAM_BYTES, CONSTANTS, CONSTANTS_BYTES, MEMORY, FAST, INPUTS, OUTPUTS, PLACES, ALIGN = 16 };

typedef struct driver {
  edgec_device device;
  const unsigned char* code;
  uint32_t regions;
  unsigned char* fast;
  size_t fast_bytes;
  const char* message;
} driver;

static driver drivers[EDGEC_ETHOSU_DEVICES];

static int32_t say(driver* d, const char* sentence) {
  d->message = sentence;
  return -1;
}

/* The number at a place in the code. */
static uint32_t number(const unsigned char* p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Moves all inputs into memory, or all outputs out of it. */
static int32_t move(driver* d, const unsigned char* places, uint32_t count, const edgec_operand* operands, unsigned char* memory, int in) {
  uint32_t i;
  for (i = 0; i < count; i++) {
    uint32_t offset = number(places + 8 * i), bytes = number(places + 8 * i + 4);
    if (operands[i].host == NULL || operands[i].bytes < bytes) return say(d, "an operand is not where the NPU can reach it");
    if (in)
      memcpy(memory + offset, operands[i].host, bytes);
    else
      memcpy(operands[i].host, memory + offset, bytes);
  }
  return 0;
}

static int32_t launch(void* ctx, const edgec_launch* what, const edgec_operand* operands) {
  driver* d = (driver*)ctx;
  const unsigned char* row;
  const unsigned char* places;
  unsigned char* memory;
  struct ethosu_driver* npu;
  uint32_t value[ROW], i;
  uint64_t addresses[3];
  size_t sizes[3];
  int code;
  if (what->number >= d->regions) return say(d, "the code of the unit has no such command stream");
  row = d->code + HEAD + 4 * ROW * what->number;
  for (i = 0; i < ROW; i++) value[i] = number(row + 4 * i);
  if (what->operands != 1 + value[INPUTS] + value[OUTPUTS]) return say(d, "a command stream got another number of operands");
  memory = (unsigned char*)operands[what->operands - 1].host;
  if (memory == NULL || operands[what->operands - 1].bytes < value[MEMORY] || (uintptr_t)memory % ALIGN != 0)
    return say(d, "the memory of a command stream is too small, or does not begin at a multiple of 16 bytes");
  if (d->fast_bytes < value[FAST]) return say(d, "a command stream needs fast memory: call edgec_ethosu_fast_memory");
  places = d->code + value[PLACES];
  if (move(d, places, value[INPUTS], operands, memory, 1) != 0) return -1;
  addresses[0] = (uint64_t)(uintptr_t)(d->code + value[CONSTANTS]);
  sizes[0] = value[CONSTANTS_BYTES];
  addresses[1] = (uint64_t)(uintptr_t)memory;
  sizes[1] = value[MEMORY];
  addresses[2] = value[FAST] != 0 ? (uint64_t)(uintptr_t)d->fast : addresses[1];
  sizes[2] = value[FAST] != 0 ? value[FAST] : value[MEMORY];
  npu = ethosu_reserve_driver();
  if (npu == NULL) return say(d, "ethosu_reserve_driver gave no NPU: was ethosu_init called?");
  code = ethosu_invoke_v3(npu, d->code + value[STREAM], (int)value[STREAM_BYTES], addresses, sizes, 3, NULL);
  ethosu_release_driver(npu);
  if (code != 0) return say(d, "ethosu_invoke_v3 reported an error");
  return move(d, places + 8 * value[INPUTS], value[OUTPUTS], operands + value[INPUTS], memory, 0);
}

static int32_t no_write(void* ctx, uint64_t offset, const void* from, uint64_t bytes) {
  (void)offset;
  (void)from;
  (void)bytes;
  return say((driver*)ctx, "an Ethos-U has no arena of its own");
}

static int32_t no_read(void* ctx, uint64_t offset, void* to, uint64_t bytes) { return no_write(ctx, offset, to, bytes); }

static int32_t finish(void* ctx) {
  (void)ctx; /* ethosu_invoke_v3 has waited */
  return 0;
}

/* What is wrong with the code of a unit; NULL when nothing is. */
static const char* check(const edgec_unit* unit, const unsigned char* code, size_t code_bytes) {
  if (unit->size < sizeof(edgec_unit) || unit->version != EDGEC_DEVICE) return "the driver and the model are of different versions of edgec";
  if (code_bytes < HEAD || memcmp(code, "EDGECNPU", 8) != 0 || number(code + 8) != FORMAT) return "the code is not that of an Ethos-U";
  if ((uintptr_t)code % 64 != 0) return "the code does not begin at a multiple of 64 bytes";
  if (number(code + 12) != unit->kernels) return "the code has another number of command streams than the model";
  return NULL;
}

const edgec_device* edgec_ethosu_create(const edgec_unit* unit, const void* weights, const void* code, size_t code_bytes,
                                        char* message, size_t message_bytes) {
  const char* wrong = check(unit, (const unsigned char*)code, code_bytes);
  driver* d = NULL;
  size_t i;
  (void)weights;
  for (i = 0; wrong == NULL && d == NULL && i < EDGEC_ETHOSU_DEVICES; i++)
    if (drivers[i].code == NULL) d = &drivers[i];
  if (d == NULL) {
    if (wrong == NULL) wrong = "there are EDGEC_ETHOSU_DEVICES devices already";
    for (i = 0; i + 1 < message_bytes && wrong[i] != 0; i++) message[i] = wrong[i];
    if (message_bytes != 0) message[i] = 0;
    return NULL;
  }
  d->code = (const unsigned char*)code;
  d->regions = unit->kernels;
  d->fast = NULL;
  d->fast_bytes = 0;
  d->message = "";
  d->device.size = sizeof(edgec_device);
  d->device.version = EDGEC_DEVICE;
  d->device.ctx = d;
  d->device.write = no_write;
  d->device.read = no_read;
  d->device.launch = launch;
  d->device.finish = finish;
  return &d->device;
}

void edgec_ethosu_fast_memory(const edgec_device* device, void* memory, size_t bytes) {
  driver* d = (driver*)(uintptr_t)device;
  d->fast = (unsigned char*)memory;
  d->fast_bytes = bytes;
}

const char* edgec_ethosu_error(const edgec_device* device) { return ((const driver*)device)->message; }

void edgec_ethosu_destroy(const edgec_device* device) {
  driver* d = (driver*)(uintptr_t)device;
  if (d != NULL) d->code = NULL;
}
