// System calls whose glibc wrappers Swift's Glibc module does not show, or that must not run in Swift.
#ifndef PEFT_LINUX_CALLS_H
#define PEFT_LINUX_CALLS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// renameat2(2) with RENAME_EXCHANGE: exchanges two paths in one step. Returns 0, or -1 with errno.
int linux_exchange(const char *one, const char *other);

/// copy_file_range(2) without flags. Returns the bytes copied, or -1 with errno.
int64_t linux_copy_range(int source, int64_t from, int target, int64_t to, size_t count);

/// fallocate(2): sets the length and reserves the room. Returns 0, or -1 with errno.
int linux_allocate(int file, int64_t length);

/// Flags of open(2) for a file without a name in a directory.
int linux_temporary_flags(void);

/// Starts a program that ends with the calling thread: the kernel kills it when the thread ends, however that happens.
/// It blocks and ignores no signal and has a process group of its own, so that only the caller ends it.
///
/// `words` ends with a null pointer. `ends` becomes the caller's ends of the program's standard input (a socket, so that
/// writing to one that has ended is an error and no signal), output and error. Returns the process, or -1 with errno.
/// A program that does not exist ends with 127.
pid_t linux_start(char *const *words, int *ends);

/// Sends bytes to a socket without SIGPIPE. Returns the bytes sent, or -1 with errno.
int64_t linux_send(int socket, const void *bytes, size_t count);

#endif
