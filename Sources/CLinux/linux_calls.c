#define _GNU_SOURCE
#include "linux_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

int linux_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int64_t linux_send(int socket, const void *bytes, size_t count) { return send(socket, bytes, count, MSG_NOSIGNAL); }

// Runs between fork and exec: calls nothing that may take a lock.
static void become(char *const *words, pid_t parent, const int *ends) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  int moved[3];
  // Out of the way of 0 to 2, which may have been free.
  for (int i = 0; i < 3; i++) moved[i] = fcntl(ends[i], F_DUPFD_CLOEXEC, 3);
  for (int i = 0; i < 3; i++) dup2(moved[i], i);
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execvp(words[0], words);
  _exit(127);
}

pid_t linux_start(char *const *words, int *ends) {
  int pairs[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
  pid_t child = -1;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs[0]) == 0 && pipe2(pairs[1], O_CLOEXEC) == 0 &&
      pipe2(pairs[2], O_CLOEXEC) == 0) {
    const int theirs[3] = {pairs[0][1], pairs[1][1], pairs[2][1]};
    const pid_t parent = getpid();
    // The caller's handlers must not run in the child.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    child = fork();
    if (child == 0) become(words, parent, theirs);
    const int code = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = code;
  }
  const int code = errno;
  for (int i = 0; i < 3; i++) {
    if (pairs[i][1] >= 0) close(pairs[i][1]);
    if (child < 0 && pairs[i][0] >= 0) close(pairs[i][0]);
    ends[i] = child < 0 ? -1 : pairs[i][0];
  }
  errno = code;
  return child;
}
