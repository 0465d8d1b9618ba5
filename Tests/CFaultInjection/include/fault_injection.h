// A library to be preloaded into the tool: the call whose number FAULT_AT gives fails with the errno FAULT_CODE.
//
// Calls that write are counted: pwrite, copy_file_range, fallocate, mkdir, renaming, and open with O_CREAT. With FAULT_COUNT, a
// path, their number is written there when the process ends.
#ifndef PEFT_FAULT_INJECTION_H
#define PEFT_FAULT_INJECTION_H

/// Calls counted so far.
int fault_injection_count(void);

#endif
