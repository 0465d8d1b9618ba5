// Attention over a cache of keys and values.
#include <math.h>
#include <stdlib.h>

#include "elements.h"
#include "exponential.h"
#include "kernels.h"
#include "vectors.h"

typedef struct {
  const float *queries, *keys, *values;
  size_t query_stride, stride, width, rows;
  float scale;
} span;

// Scores of all rows against the keys from `from` to `to`, `total` apart.
#define SCORES(name, lanes, target)                                                                              \
  target static void name(const span *s, size_t from, size_t to, size_t total, float *scores) {                  \
    _Pragma("clang fp contract(fast)") float block[256 * lanes];                                                 \
    for (size_t p = from; p < to; p += lanes) {                                                                  \
      const size_t present = to - p < lanes ? to - p : lanes;                                                    \
      for (size_t d = 0; d < s->width; d += lanes) {                                                             \
        v##lanes r[lanes];                                                                                       \
        _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) r[i] = *(const v##lanes *)(           \
            s->keys + (p + (i < (int)present ? i : 0)) * s->stride + d);                                         \
        TRANSPOSE_##lanes(r);                                                                                    \
        _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) * (v##lanes *)(block + (d + i) * lanes) = \
            r[i];                                                                                                \
      }                                                                                                          \
      for (size_t row = 0; row < s->rows; row += 4) {                                                            \
        const float *q[4];                                                                                       \
        for (size_t i = 0; i < 4; i++)                                                                           \
          q[i] = s->queries + (row + i < s->rows ? row + i : row) * s->query_stride;                             \
        v##lanes sum[4] = {{0}};                                                                                 \
        for (size_t d = 0; d < s->width; d++) {                                                                  \
          const v##lanes k = *(const v##lanes *)(block + d * lanes);                                             \
          _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++) sum[i] += q[i][d] * k;                  \
        }                                                                                                        \
        for (size_t i = 0; i < 4 && row + i < s->rows; i++) {                                                    \
          float line[lanes];                                                                                     \
          memcpy(line, &sum[i], sizeof line);                                                                    \
          for (size_t c = 0; c < present; c++) scores[(row + i) * total + p + c] = line[c] * s->scale;           \
        }                                                                                                        \
      }                                                                                                          \
    }                                                                                                            \
  }

// Sums of values, each row's own shares, for `lanes` x 4 features at a time.
#define MIX(name, lanes, target)                                                                                  \
  target static void name(const span *s, size_t from, size_t to, size_t total, const float *shares, float *out) { \
    _Pragma("clang fp contract(fast)") for (size_t d = 0; d < s->width; d += lanes) {                             \
      for (size_t row = 0; row < s->rows; row += 4) {                                                             \
        const float *share[4];                                                                                    \
        for (size_t i = 0; i < 4; i++) share[i] = shares + (row + i < s->rows ? row + i : row) * total;           \
        v##lanes sum[4] = {{0}};                                                                                  \
        for (size_t p = from; p < to; p++) {                                                                      \
          const v##lanes v = *(const v##lanes *)(s->values + p * s->stride + d);                                  \
          _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++) sum[i] += share[i][p] * v;               \
        }                                                                                                         \
        for (size_t i = 0; i < 4 && row + i < s->rows; i++)                                                       \
          *(v##lanes *)(out + (row + i) * s->query_stride + d) = sum[i];                                          \
      }                                                                                                           \
    }                                                                                                             \
  }

// A row of scores becomes shares of one; what lies outside first to last becomes zero.
#define SHARES(name, target)                                                                           \
  target static void name(float *scores, size_t total, size_t first, size_t last) {                    \
    _Pragma("clang fp contract(fast) reassociate(on)") float largest = -INFINITY, sum = 0;             \
    for (size_t p = first; p < last; p++) largest = scores[p] > largest ? scores[p] : largest;         \
    for (size_t p = first; p < last; p++) scores[p] = exponential(scores[p] - largest);                \
    for (size_t p = first; p < last; p++) sum += scores[p];                                            \
    const float factor = 1 / sum;                                                                      \
    for (size_t p = first; p < last; p++) scores[p] *= factor;                                         \
    for (size_t p = 0; p < first; p++) scores[p] = 0;                                                  \
    for (size_t p = last; p < total; p++) scores[p] = 0;                                               \
  }

#define ALL(level, lanes, target) \
  SCORES(scores_##level, lanes, target) MIX(mix_##level, lanes, target) SHARES(shares_##level, target)

ALL(generic, 8, NO_TARGET)
#if defined(__x86_64__)
ALL(v4, 16, V4_TARGET)
ALL(v3, 8, V3_TARGET)
#endif

static int level(void) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return 4;
  if (__builtin_cpu_supports("x86-64-v3")) return 3;
#endif
  return 0;
}

// Any width, a plain loop.
static void attend_plainly(const span *s, size_t row, size_t first, size_t last, float *scores, float *out) {
  const float *query = s->queries + row * s->query_stride;
  for (size_t p = first; p < last; p++) {
    float sum = 0;
    for (size_t d = 0; d < s->width; d++) sum += query[d] * s->keys[p * s->stride + d];
    scores[p] = sum * s->scale;
  }
  shares_generic(scores, last, first, last);
  for (size_t d = 0; d < s->width; d++) {
    float sum = 0;
    for (size_t p = first; p < last; p++) sum += scores[p] * s->values[p * s->stride + d];
    out[row * s->query_stride + d] = sum;
  }
}

void kernels_attend(const float *queries, size_t query_stride, size_t rows, const float *keys, const float *values,
                    size_t stride, size_t width, size_t before, size_t total, size_t window, float scale,
                    float *scores, float *out) {
  const span s = {queries, keys, values, query_stride, stride, width, rows, scale};
  const int chosen = level();
  const size_t lanes = chosen == 4 ? 16 : 8;
#define FIRST(row) (before == SIZE_MAX || window == 0 || before + (row) + 1 <= window ? 0 : before + (row) + 1 - window)
#define LAST(row) (before == SIZE_MAX ? total : before + (row) + 1)
  if (width % lanes || width > 256) {
    for (size_t row = 0; row < rows; row++) attend_plainly(&s, row, FIRST(row), LAST(row), scores, out);
    return;
  }
  const size_t from = FIRST(0), to = LAST(rows - 1);
#if defined(__x86_64__)
  if (chosen == 4) {
    scores_v4(&s, from, to, total, scores);
    for (size_t row = 0; row < rows; row++) shares_v4(scores + row * total, to, FIRST(row), LAST(row));
    mix_v4(&s, from, to, total, scores, out);
    return;
  }
  if (chosen == 3) {
    scores_v3(&s, from, to, total, scores);
    for (size_t row = 0; row < rows; row++) shares_v3(scores + row * total, to, FIRST(row), LAST(row));
    mix_v3(&s, from, to, total, scores, out);
    return;
  }
#endif
  scores_generic(&s, from, to, total, scores);
  for (size_t row = 0; row < rows; row++) shares_generic(scores + row * total, to, FIRST(row), LAST(row));
  mix_generic(&s, from, to, total, scores, out);
}
