// Whether all elements are finite. An exponent of all ones marks an infinity or a NaN; adding what lacks to the sign bit
// moves that fact there, so that one OR over all elements gathers it.
#include "dispatch.h"
#include "kernels.h"

#define SCAN(name, Word, sign)                                            \
  DISPATCHED int name(const Word *words, size_t count, Word exponent) {   \
    const Word magnitude = (Word)(sign - 1), lack = (Word)(sign - exponent); \
    Word seen = 0;                                                        \
    for (size_t i = 0; i < count; i++) seen |= (Word)((words[i] & magnitude) + lack); \
    return (seen & sign) == 0;                                            \
  }

SCAN(kernels_all_finite_16, uint16_t, (uint16_t)0x8000)
SCAN(kernels_all_finite_32, uint32_t, (uint32_t)0x80000000)
SCAN(kernels_all_finite_64, uint64_t, (uint64_t)0x8000000000000000)
