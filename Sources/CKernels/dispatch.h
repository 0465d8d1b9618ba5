// One binary for all processors: the loader picks the version of a marked function that fits the machine.
#ifndef PEFT_DISPATCH_H
#define PEFT_DISPATCH_H

#if defined(__x86_64__) && !__has_feature(thread_sanitizer)
#define DISPATCHED __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DISPATCHED
#endif

#endif
