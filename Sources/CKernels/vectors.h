// Vectors of eight and sixteen floats, and what the loops over them share.
#ifndef PEFT_VECTORS_H
#define PEFT_VECTORS_H

#include <stdint.h>

typedef float v8 __attribute__((vector_size(32), aligned(4)));
typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u8 __attribute__((vector_size(16), aligned(2)));
typedef uint16_t u16 __attribute__((vector_size(32), aligned(2)));
typedef uint32_t w8 __attribute__((vector_size(32)));
typedef uint32_t w16 __attribute__((vector_size(64)));
typedef _Float16 h8 __attribute__((vector_size(16), aligned(2)));
typedef _Float16 h16 __attribute__((vector_size(32), aligned(2)));

#define NO_TARGET
// Without the width clang would split vectors of sixteen in two.
#define V4_TARGET __attribute__((target("arch=x86-64-v4"), min_vector_width(512)))
#define V3_TARGET __attribute__((target("arch=x86-64-v3")))

// 8 vectors of 8: rows become columns.
#define TRANSPOSE_8(r) \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 4) continue;                                                                 \
    const v8 a = r[i], b = r[i + 4];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);   \
    r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 2) continue;                                                                 \
    const v8 a = r[i], b = r[i + 2];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);   \
    r[i + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 1) continue;                                                                 \
    const v8 a = r[i], b = r[i + 1];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);   \
    r[i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);   \
  }

// 16 vectors of 16: rows become columns.
#define TRANSPOSE_16(r) \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 8) continue;                                                                 \
    const v16 a = r[i], b = r[i + 8];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);   \
    r[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 4) continue;                                                                 \
    const v16 a = r[i], b = r[i + 4];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);   \
    r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 2) continue;                                                                 \
    const v16 a = r[i], b = r[i + 2];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);   \
    r[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 1) continue;                                                                 \
    const v16 a = r[i], b = r[i + 1];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);   \
    r[i + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);   \
  }

#endif
