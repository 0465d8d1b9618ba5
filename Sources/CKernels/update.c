// W += left x right for a block of rows that fits in the cache.
//
// A tile is 6 rows by two vectors. The tile's 12 sums stay in registers while k runs over the rank; the panel of
// `right` that a column of tiles reads (rank x two vectors) stays in the first-level cache, as tiles go down the rows
// first. Each element sees the same operations in the same order whichever tile or tail it falls in.
#include <math.h>

#include "elements.h"
#include "kernels.h"

#define ROWS kernels_row_group

typedef float v8 __attribute__((vector_size(32), aligned(4)));
typedef float v16 __attribute__((vector_size(64), aligned(4)));

void kernels_pack_left(const float *left, size_t rows, size_t rank, size_t stride, float scale, float *packed) {
  for (size_t first = 0; first < rows; first += ROWS) {
    float *group = packed + first * rank;
    for (size_t k = 0; k < rank; k++)
      for (size_t i = 0; i < ROWS; i++)
        group[k * ROWS + i] = first + i < rows ? left[(first + i) * stride + k] * scale : 0;
  }
}

// The sums of one tile: `count` columns of `right` from `j`, all rows of the group.
#define TILE_SUMS(Vector, lanes)                                              \
  Vector sum[ROWS][2];                                                        \
  for (int i = 0; i < ROWS; i++) sum[i][0] = sum[i][1] = (Vector){0};         \
  for (size_t k = 0; k < rank; k++) {                                         \
    const Vector r0 = *(const Vector *)(right + k * columns + j);             \
    const Vector r1 = *(const Vector *)(right + k * columns + j + lanes);     \
    _Pragma("clang loop unroll(full)") for (int i = 0; i < ROWS; i++) {       \
      const float l = left[k * ROWS + i];                                     \
      sum[i][0] += l * r0;                                                    \
      sum[i][1] += l * r1;                                                    \
    }                                                                         \
  }

// Stores in a separate loop over a small array, so that the element conversion vectorises.
#define UPDATE_BODY(Element, Vector, lanes, load, store)                                            \
  _Pragma("clang fp contract(fast)")                                                                \
  size_t j = 0;                                                                                     \
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {                                                \
    for (size_t first = 0; first < rows; first += ROWS) {                                           \
      const float *left = packed_left + first * rank;                                               \
      TILE_SUMS(Vector, lanes)                                                                      \
      const size_t present = rows - first < ROWS ? rows - first : ROWS;                             \
      for (size_t i = 0; i < present; i++) {                                                        \
        float delta[2 * lanes];                                                                     \
        memcpy(delta, &sum[i], sizeof delta);                                                       \
        Element *row = w + (first + i) * columns + j;                                               \
        for (int c = 0; c < 2 * lanes; c++) row[c] = store(load(row[c]) + delta[c]);                \
      }                                                                                             \
    }                                                                                               \
  }                                                                                                 \
  for (; j < columns; j++) {                                                                        \
    for (size_t i = 0; i < rows; i++) {                                                             \
      const float *left = packed_left + i / ROWS * ROWS * rank + i % ROWS;                          \
      float sum = 0;                                                                                \
      for (size_t k = 0; k < rank; k++) sum += left[k * ROWS] * right[k * columns + j];             \
      w[i * columns + j] = store(load(w[i * columns + j]) + sum);                                   \
    }                                                                                               \
  }

#define ARGUMENTS(Element) \
  Element *w, size_t rows, size_t columns, const float *packed_left, const float *right, size_t rank

#if defined(__x86_64__)
#define UPDATE(name, Element, load, store)                                                                  \
  __attribute__((target("arch=x86-64-v4"))) static void name##_v4(ARGUMENTS(Element)) {                     \
    UPDATE_BODY(Element, v16, 16, load, store)                                                              \
  }                                                                                                         \
  __attribute__((target("arch=x86-64-v3"))) static void name##_v3(ARGUMENTS(Element)) {                     \
    UPDATE_BODY(Element, v8, 8, load, store)                                                                \
  }                                                                                                         \
  void name(ARGUMENTS(Element)) {                                                                           \
    if (__builtin_cpu_supports("x86-64-v4")) return name##_v4(w, rows, columns, packed_left, right, rank);  \
    if (__builtin_cpu_supports("x86-64-v3")) return name##_v3(w, rows, columns, packed_left, right, rank);  \
    name##_reference(w, rows, columns, packed_left, right, rank);                                           \
  }

const char *kernels_level(void) {
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  return "generic";
}
#else
#define UPDATE(name, Element, load, store) \
  void name(ARGUMENTS(Element)) { UPDATE_BODY(Element, v8, 8, load, store) }

const char *kernels_level(void) { return "generic"; }
#endif

UPDATE(kernels_update_bf16, uint16_t, bf16_load, bf16_store)
UPDATE(kernels_update_f16, uint16_t, f16_load, f16_store)
UPDATE(kernels_update_f32, float, f32_load, f32_store)
