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

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;  // one loop at a time; starting and stopping take a turn too
static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static atomic_size_t threads;  // that share a loop, the caller among them; 0 before they are started
static pthread_t helpers[most_threads];
static atomic_int stopping;
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

static void *run(void *begun) {
  inside = 1;
  size_t seen = (size_t)begun;
  for (;;) {
    for (int i = 0; i < spins && atomic_load(&generation) == seen; i++) pause_briefly();
    if (atomic_load(&generation) == seen) {
      pthread_mutex_lock(&sleeping);
      while (atomic_load(&generation) == seen) pthread_cond_wait(&wake, &sleeping);
      pthread_mutex_unlock(&sleeping);
    }
    seen = atomic_load(&generation);
    if (atomic_load(&stopping)) return 0;
    work_off();
    atomic_fetch_add(&finished, 1);
  }
  return 0;
}

// Within a turn.
static void start(void) {
  if (atomic_load(&threads) > 0) return;
  // The cores that this process may use, which can be fewer than the machine has.
  cpu_set_t allowed;
  const long cores = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : sysconf(_SC_NPROCESSORS_ONLN);
  const char *asked = getenv("PEFT_THREADS");
  long wanted = asked ? strtol(asked, 0, 10) : cores;
  if (wanted < 1) wanted = 1;
  if (wanted > most_threads) wanted = most_threads;
  size_t started = 1;
  for (long i = 1; i < wanted; i++)
    if (pthread_create(&helpers[started], 0, run, (void *)atomic_load(&generation)) == 0) started++;
  atomic_store(&threads, started);
}

static void awaken(void) {
  pthread_mutex_lock(&sleeping);
  atomic_fetch_add(&generation, 1);
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&sleeping);
}

size_t kernels_threads(void) {
  if (atomic_load(&threads) == 0 && !inside) {
    pthread_mutex_lock(&turn);
    start();
    pthread_mutex_unlock(&turn);
  }
  return inside ? 1 : atomic_load(&threads);
}

void kernels_stop_threads(void) {
  if (inside) return;
  pthread_mutex_lock(&turn);
  const size_t started = atomic_load(&threads);
  atomic_store(&stopping, 1);
  if (started > 1) awaken();
  for (size_t i = 1; i < started; i++) pthread_join(helpers[i], 0);
  atomic_store(&stopping, 0);
  atomic_store(&threads, 0);
  pthread_mutex_unlock(&turn);
}

void kernels_parallel(size_t count, void (*body)(void *, size_t), void *context) {
  if (count <= 1 || inside || kernels_threads() == 1) {
    for (size_t i = 0; i < count; i++) body(context, i);
    return;
  }
  pthread_mutex_lock(&turn);
  start();
  current = body;
  argument = context;
  total = count;
  atomic_store(&next, 0);
  atomic_store(&finished, 0);
  awaken();
  inside = 1;
  work_off();
  inside = 0;
  for (int i = 0; atomic_load(&finished) < threads - 1; i++) {
    if (i < spins) pause_briefly();
    else sched_yield();
  }
  pthread_mutex_unlock(&turn);
}
