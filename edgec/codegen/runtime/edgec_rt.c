/* SPDX-License-Identifier: 0BSD
   A thread pool in C11 and POSIX threads. Waiting threads spin for some microseconds, because a model's steps follow each
   other quickly, and then sleep. A job lives on its caller's stack: it is in the pool's list while it has tasks to
   give away, and its caller returns when no worker holds it any more.
   Each thread has a part of a job's tasks of its own and takes them in order, so that neighboring tasks, which share
   memory, meet in one core; who has none left takes the last ones of another part. */
#include "edgec_rt.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 4000, PARTS = 64 };

typedef struct job {
  edgec_task run;
  void* args;
  int32_t parts;
  atomic_uint_least64_t left[PARTS]; /* of each part, tasks that nobody has taken: the first, and behind the last << 32 */
  atomic_int code;   /* the first error */
  atomic_int users;  /* workers that hold this job; grows only under the lock */
  struct job* link;
} job;

typedef struct pool {
  edgec_rt rt; /* first, so that its address is the pool's */
  pthread_mutex_t lock;
  pthread_cond_t work, done;
  job* jobs;
  atomic_uint posted; /* changes with each job, so that spinning threads see it */
  atomic_int stop, seats;
  int32_t threads, started;
  pthread_t thread[];
} pool;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

/* Takes a fourth of what is left of a part, at its beginning or at its end; 0 when nothing is. */
static int take(atomic_uint_least64_t* left, int own, int32_t* begin, int32_t* end) {
  uint_least64_t old = atomic_load(left), rest;
  do {
    int32_t first = (int32_t)(old & UINT32_MAX), last = (int32_t)(old >> 32), count = (last - first + 3) / 4;
    if (first >= last) return 0;
    *begin = own ? first : last - count;
    *end = *begin + count;
    rest = own ? (uint_least64_t)(uint32_t)last << 32 | (uint32_t)*end : (uint_least64_t)(uint32_t)*begin << 32 | (uint32_t)first;
  } while (!atomic_compare_exchange_weak(left, &old, rest));
  return 1;
}

/* Takes tasks of a job until there are none, those of part `seat` first. */
static void help(job* j, int32_t seat) {
  int32_t i, begin, end;
  for (i = 0; i < j->parts; i++)
    while (take(&j->left[(seat + i) % j->parts], i == 0, &begin, &end)) {
      int32_t none = 0, code = atomic_load(&j->code) == 0 ? j->run(j->args, begin, end) : 0;
      if (code != 0) atomic_compare_exchange_strong(&j->code, &none, code);
    }
}

static int has_tasks(job* j) {
  int32_t i;
  for (i = 0; i < j->parts; i++) {
    uint_least64_t left = atomic_load(&j->left[i]);
    if ((left & UINT32_MAX) < left >> 32) return 1;
  }
  return 0;
}

static job* find(pool* p) {
  job* j = p->jobs;
  while (j != NULL && !has_tasks(j)) j = j->link;
  return j;
}

static void* work(void* context) {
  pool* p = context;
  int32_t seat = atomic_fetch_add(&p->seats, 1) + 1; /* the first seat is that of a job's caller */
  for (;;) {
    unsigned seen = atomic_load(&p->posted);
    int spins;
    job* j;
    pthread_mutex_lock(&p->lock);
    while ((j = find(p)) == NULL && !atomic_load(&p->stop)) {
      if (atomic_load(&p->posted) == seen) {
        pthread_mutex_unlock(&p->lock);
        for (spins = 0; spins < SPINS && atomic_load(&p->posted) == seen; spins++) relax();
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&p->posted) == seen && !atomic_load(&p->stop)) pthread_cond_wait(&p->work, &p->lock);
      }
      seen = atomic_load(&p->posted);
    }
    if (j == NULL) {
      pthread_mutex_unlock(&p->lock);
      return NULL;
    }
    atomic_fetch_add(&j->users, 1);
    pthread_mutex_unlock(&p->lock);
    help(j, seat);
    pthread_mutex_lock(&p->lock);
    if (atomic_fetch_sub(&j->users, 1) == 1) pthread_cond_broadcast(&p->done);
    pthread_mutex_unlock(&p->lock);
  }
}

static int32_t parallel_for(void* ctx, edgec_task run, void* args, int32_t tasks) {
  pool* p = ctx;
  job j, **at;
  int32_t i;
  int spins;
  if (tasks <= 1 || p->threads == 1) return run(args, 0, tasks);
  j.run = run;
  j.args = args;
  j.parts = p->threads < PARTS ? p->threads : PARTS;
  for (i = 0; i < j.parts; i++) {
    uint_least64_t first = (uint_least64_t)tasks * (uint_least64_t)i / (uint_least64_t)j.parts;
    uint_least64_t last = (uint_least64_t)tasks * (uint_least64_t)(i + 1) / (uint_least64_t)j.parts;
    atomic_init(&j.left[i], last << 32 | first);
  }
  atomic_init(&j.code, 0);
  atomic_init(&j.users, 0);
  pthread_mutex_lock(&p->lock);
  j.link = p->jobs;
  p->jobs = &j;
  atomic_fetch_add(&p->posted, 1);
  pthread_cond_broadcast(&p->work);
  pthread_mutex_unlock(&p->lock);
  help(&j, 0);
  pthread_mutex_lock(&p->lock);
  for (at = &p->jobs; *at != &j; at = &(*at)->link) {}
  *at = j.link;
  pthread_mutex_unlock(&p->lock);
  for (spins = 0; spins < SPINS && atomic_load(&j.users) != 0; spins++) relax();
  pthread_mutex_lock(&p->lock); /* also when nobody is left: the last one may still be about to unlock */
  while (atomic_load(&j.users) != 0) pthread_cond_wait(&p->done, &p->lock);
  pthread_mutex_unlock(&p->lock);
  return atomic_load(&j.code);
}

edgec_rt* edgec_rt_create(int32_t threads) {
  pool* p;
  if (threads < 1) threads = 1;
  p = calloc(1, sizeof(pool) + sizeof(pthread_t) * (size_t)threads);
  if (p == NULL) return NULL;
  p->rt.ctx = p;
  p->rt.parallel_for = parallel_for;
  p->threads = threads;
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->work, NULL);
  pthread_cond_init(&p->done, NULL);
  for (; p->started < threads - 1; p->started++)
    if (pthread_create(&p->thread[p->started], NULL, work, p) != 0) {
      edgec_rt_destroy(&p->rt);
      return NULL;
    }
  return &p->rt;
}

void edgec_rt_destroy(edgec_rt* rt) {
  pool* p = (pool*)rt;
  if (p == NULL) return;
  pthread_mutex_lock(&p->lock);
  atomic_store(&p->stop, 1);
  atomic_fetch_add(&p->posted, 1);
  pthread_cond_broadcast(&p->work);
  pthread_mutex_unlock(&p->lock);
  while (p->started > 0) pthread_join(p->thread[--p->started], NULL);
  pthread_mutex_destroy(&p->lock);
  pthread_cond_destroy(&p->work);
  pthread_cond_destroy(&p->done);
  free(p);
}
