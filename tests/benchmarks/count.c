/* SPDX-License-Identifier: Apache-2.0
   A plugin of qemu that counts the instructions of a guest between marks.

     cc -O2 -shared -fPIC count.c -o count.so
     qemu-aarch64 -plugin ./count.so program

   A guest in user mode sets a mark by getpgid(0xED6E), which has no other effect. At each mark the plugin writes `mark N` to the standard error:
   the instructions since the mark before; and for each function of the program that ran, `  N name` (names end where the program is stripped).
   Declared here is what qemu-plugin.h says of plugins of version 1, because distributions leave that header out. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
  const char* target_name;
  struct { int min, cur; } version;
  bool system_emulation;
} qemu_info;
typedef void translated(plugin_id, struct qemu_plugin_tb*);
typedef void called(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated*);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int op, void* counter, uint64_t add);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, called*);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
extern const char* qemu_plugin_insn_symbol(const struct qemu_plugin_insn*);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { ADD = 0, FUNCTIONS = 16384, MARK = 0xED6E };
static struct {
  const char* name;
  uint64_t count, before;
} functions[FUNCTIONS];
static int used;

/* The counter of a function. Blocks are translated once, so a linear search costs nothing. */
static uint64_t* counter(const char* name) {
  int i;
  if (name == NULL) name = "?";
  for (i = 0; i < used; i++)
    if (strcmp(functions[i].name, name) == 0) return &functions[i].count;
  if (used == FUNCTIONS) {
    fprintf(stderr, "count.c: more than %d functions\n", FUNCTIONS);
    exit(1);
  }
  functions[used].name = strdup(name);
  return &functions[used++].count;
}

static void translate(plugin_id id, struct qemu_plugin_tb* block) {
  const char* name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, counter(name), qemu_plugin_tb_n_insns(block));
}

static void system_call(plugin_id id, unsigned cpu, int64_t number, uint64_t first, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                        uint64_t g, uint64_t h) {
  uint64_t total = 0;
  int i;
  (void)id, (void)cpu, (void)number, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if ((uint32_t)first != MARK) return;
  for (i = 0; i < used; i++) total += functions[i].count - functions[i].before;
  fprintf(stderr, "mark %llu\n", (unsigned long long)total);
  for (i = 0; i < used; i++) {
    uint64_t since = functions[i].count - functions[i].before;
    if (since != 0) fprintf(stderr, "  %llu %s\n", (unsigned long long)since, functions[i].name);
    functions[i].before = functions[i].count;
  }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const qemu_info* info, int argc, char** argv) {
  (void)argc, (void)argv;
  if (info->system_emulation) {
    fprintf(stderr, "count.c: only programs in user mode can set marks\n");
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  return 0;
}
