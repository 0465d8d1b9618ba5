#define _GNU_SOURCE

#include "start.h"

#include <unistd.h>

// Swift's runtime reads its own path and the command line from /proc, the first in a constructor, and aborts where it cannot. A
// constructor with a priority runs before those without.
__attribute__((constructor(101))) static void require_proc(void) {
  char path[1];
  if (readlink("/proc/self/exe", path, sizeof path) >= 0 && access("/proc/self/cmdline", R_OK) == 0) return;
  static const char text[] =
      "peft-tool: /proc: not mounted, and the program's path and command line are read from it; "
      "'mount -t proc proc /proc' mounts it.\n";
  ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
  (void)written;
  _exit(2);
}
