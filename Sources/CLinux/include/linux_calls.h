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

/// memfd_create(2): a file in memory, closed when a program is started. Returns a descriptor, or -1 with errno.
int linux_memory_file(const char *name);

/// Starts a program that ends with the calling thread: the kernel kills it when the thread ends, however that happens.
/// It blocks and ignores no signal and has a process group of its own, so that only the caller ends it.
///
/// `words` ends with a null pointer. `ends` becomes the caller's ends of the program's standard input (a socket, so that
/// writing to one that has ended is an error and no signal), output and error. Returns the process, or -1 with errno.
/// A program that does not exist ends with 127.
pid_t linux_start(char *const *words, int *ends);

/// Sends bytes to a socket without SIGPIPE. Returns the bytes sent, or -1 with errno.
int64_t linux_send(int socket, const void *bytes, size_t count);

/// A mapping of a file that is watched for the file's being cut.
typedef struct linux_mapping linux_mapping;

/// Watches a mapping of `count` bytes. Returns NULL where there is no memory for it.
linux_mapping *linux_watch_mapping(const void *start, size_t count);

/// Ends the watch, before the mapping goes.
void linux_forget_mapping(linux_mapping *mapping);

/// The offset from which on the file was not there when it was read; -1 if it always was.
int64_t linux_mapping_cut(linux_mapping *mapping);

/// Lets zeros stand for what a watched mapping's file no longer holds, instead of SIGBUS ending the process. A SIGBUS of another
/// origin does what it did before. Returns 0, or -1 with errno.
int linux_handle_cut_mappings(void);

#endif
