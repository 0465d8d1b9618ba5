// Mappings whose file is cut while they are read. The kernel says so with SIGBUS; the handler puts zero pages where the file's
// were, so that the reader goes on, and marks the mapping, so that whoever uses it learns that what was read is not the file.
#define _GNU_SOURCE
#include "linux_calls.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct linux_mapping {
  // Written before the entry is linked or given out, and zero while no mapping uses it: the handler may read at any time.
  _Atomic uintptr_t start, end;
  // The least offset at which the file was not there, plus one; zero if it always was.
  _Atomic uintptr_t cut;
  // Never changes once linked: entries are used again and never freed, so the handler's walk is safe.
  struct linux_mapping *next;
};

static _Atomic(struct linux_mapping *) first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static int is_installed;

linux_mapping *linux_watch_mapping(const void *start, size_t count) {
  pthread_mutex_lock(&lock);
  struct linux_mapping *entry = atomic_load(&first);
  while (entry && atomic_load(&entry->start)) entry = entry->next;
  struct linux_mapping *fresh = entry ? NULL : calloc(1, sizeof *fresh);
  if (!entry) entry = fresh;
  if (entry) {
    atomic_store(&entry->cut, 0);
    atomic_store(&entry->end, (uintptr_t)start + count);
    atomic_store(&entry->start, (uintptr_t)start);
  }
  if (fresh) {
    fresh->next = atomic_load(&first);
    atomic_store(&first, fresh);
  }
  pthread_mutex_unlock(&lock);
  return entry;
}

void linux_forget_mapping(linux_mapping *mapping) {
  // The start goes first: an entry without one is free, and the handler passes it by.
  atomic_store(&mapping->start, 0);
}

int64_t linux_mapping_cut(linux_mapping *mapping) { return (int64_t)atomic_load(&mapping->cut) - 1; }

static void handle(int number, siginfo_t *info, void *context) {
  int saved = errno;
  uintptr_t address = (uintptr_t)info->si_addr;
  // A signal that a process sent has no address of ours.
  for (struct linux_mapping *entry = info->si_code > 0 ? atomic_load(&first) : NULL; entry; entry = entry->next) {
    uintptr_t start = atomic_load(&entry->start), end = atomic_load(&entry->end);
    if (!start || address < start || address >= end) continue;
    uintptr_t page = address & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    // All that follows in one step: what lies behind the cut is not there either.
    void *zeros = mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED) break;
    uintptr_t offset = page - start + 1, known = atomic_load(&entry->cut);
    while ((!known || offset < known) && !atomic_compare_exchange_weak(&entry->cut, &known, offset)) {}
    errno = saved;
    return;
  }
  errno = saved;
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    // The access is tried again, and ends the process as it would have without this handler.
    signal(number, SIG_DFL);
    if (info->si_code <= 0) raise(number);
  }
}

int linux_handle_cut_mappings(void) {
  pthread_mutex_lock(&lock);
  int result = 0;
  if (!is_installed) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    result = sigaction(SIGBUS, &action, &previous);
    is_installed = result == 0;
  }
  pthread_mutex_unlock(&lock);
  return result;
}
