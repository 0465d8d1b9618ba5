// A pool of threads that share one loop at a time. A layer is done in microseconds, so idle threads spin a little before they
// sleep.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels.h"

enum { most_threads = 64, spins = 4000 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;  // one loop at a time
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static size_t threads = 1;
static atomic_size_t generation, next, finished;
static size_t total;
static void (*current)(void *, size_t);
static void *argument;
static _Thread_local int inside;

static inline void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

static void work_off(void) {
  for (;;) {
    const size_t index = atomic_fetch_add(&next, 1);
    if (index >= total) return;
    current(argument, index);
  }
}

static void *run(void *unused) {
  (void)unused;
  inside = 1;
  size_t seen = 0;
  for (;;) {
    for (int i = 0; i < spins && atomic_load(&generation) == seen; i++) pause_briefly();
    if (atomic_load(&generation) == seen) {
      pthread_mutex_lock(&sleeping);
      while (atomic_load(&generation) == seen) pthread_cond_wait(&wake, &sleeping);
      pthread_mutex_unlock(&sleeping);
    }
    seen = atomic_load(&generation);
    work_off();
    atomic_fetch_add(&finished, 1);
  }
  return 0;
}

static void start(void) {
  // The cores that this process may use, which can be fewer than the machine has.
  cpu_set_t allowed;
  const long cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : sysconf(_SC_NPROCESSORS_ONLN);
  const char *asked = getenv("PEFT_THREADS");
  long wanted = asked ? strtol(asked, 0, 10) : cores;
  if (wanted < 1) wanted = 1;
  if (wanted > most_threads) wanted = most_threads;
  for (long i = 1; i < wanted; i++) {
    pthread_t thread;
    if (pthread_create(&thread, 0, run, 0) == 0) {
      pthread_detach(thread);
      threads++;
    }
  }
}

size_t kernels_threads(void) {
  pthread_once(&once, start);
  return threads;
}

void kernels_parallel(size_t count, void (*body)(void *, size_t), void *context) {
  if (count <= 1 || inside || kernels_threads() == 1) {
    for (size_t i = 0; i < count; i++) body(context, i);
    return;
  }
  pthread_mutex_lock(&turn);
  current = body;
  argument = context;
  total = count;
  atomic_store(&next, 0);
  atomic_store(&finished, 0);
  pthread_mutex_lock(&sleeping);
  atomic_fetch_add(&generation, 1);
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&sleeping);
  inside = 1;
  work_off();
  inside = 0;
  for (int i = 0; atomic_load(&finished) < threads - 1; i++) {
    if (i < spins) pause_briefly();
    else sched_yield();
  }
  pthread_mutex_unlock(&turn);
}
