// A library to be preloaded into the tool: the call whose number FAULT_AT gives fails with the errno FAULT_CODE.
//
// Calls that write are counted: pwrite, copy_file_range, fallocate, mkdir, renaming, and open with O_CREAT. With FAULT_COUNT, a
// path, their number is written there when the process ends.
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

// True if this call is the one that is to fail.
static int fails(void) {
  static atomic_int wanted = -1;
  if (atomic_load(&wanted) < 0) {
    const char *text = getenv("FAULT_AT");
    atomic_store(&wanted, text ? atoi(text) : 0);
  }
  if (atomic_fetch_add(&calls, 1) + 1 != atomic_load(&wanted)) return 0;
  const char *code = getenv("FAULT_CODE");
  errno = code ? atoi(code) : EIO;
  return 1;
}

__attribute__((destructor)) static void report(void) {
  const char *path = getenv("FAULT_COUNT");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return;
  fprintf(file, "%d", atomic_load(&calls));
  fclose(file);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
  return fails() ? -1 : REAL(pwrite)(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
  return fails() ? -1 : REAL(pwrite64)(file, bytes, count, offset);
}

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *target, size_t count, unsigned flags) {
  return fails() ? -1 : REAL(copy_file_range)(from, start, to, target, count, flags);
}

int fallocate(int file, int mode, off_t offset, off_t count) {
  return fails() ? -1 : REAL(fallocate)(file, mode, offset, count);
}

int fallocate64(int file, int mode, off64_t offset, off64_t count) {
  return fails() ? -1 : REAL(fallocate64)(file, mode, offset, count);
}

int mkdir(const char *path, mode_t mode) { return fails() ? -1 : REAL(mkdir)(path, mode); }

int rename(const char *from, const char *to) { return fails() ? -1 : REAL(rename)(from, to); }

int renameat2(int from, const char *source, int to, const char *target, unsigned flags) {
  return fails() ? -1 : REAL(renameat2)(from, source, to, target, flags);
}

static int opens(const char *path, int flags, mode_t mode, const char *name) {
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
  return (flags & O_CREAT) && fails() ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return opens(path, flags, mode, "open");
}

int open64(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return opens(path, flags, mode, "open64");
}
