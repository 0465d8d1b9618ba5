#define _GNU_SOURCE
#include "linux_calls.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int linux_exchange(const char *one, const char *other) {
  return renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
}

int64_t linux_copy_range(int source, int64_t from, int target, int64_t to, size_t count) {
  off64_t source_offset = from, target_offset = to;
  return copy_file_range(source, &source_offset, target, &target_offset, count, 0);
}

int linux_allocate(int file, int64_t length) { return fallocate(file, 0, 0, length); }

int linux_temporary_flags(void) { return O_TMPFILE | O_RDWR | O_CLOEXEC; }
