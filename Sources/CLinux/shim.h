// System calls whose glibc wrappers Swift's Glibc module does not show. Includes no header that defines types which the
// Glibc module defines too.
#ifndef PEFT_LINUX_SHIM_H
#define PEFT_LINUX_SHIM_H

#include <stddef.h>
#include <sys/syscall.h>

extern long syscall(long number, ...);

/// renameat2(2) with RENAME_EXCHANGE: exchanges two paths in one step. Returns 0, or -1 with errno.
static inline int rename_exchanging(const char *one, const char *other) {
  const int current_directory = -100;
  const unsigned exchange = 2;
  return (int)syscall(SYS_renameat2, current_directory, one, current_directory, other, exchange);
}

/// copy_file_range(2) without flags. Advances both offsets; returns the bytes copied, or -1 with errno.
static inline long copy_range(int source, long long *from, int target, long long *to, size_t count) {
  return syscall(SYS_copy_file_range, source, from, target, to, count, 0u);
}

#endif
