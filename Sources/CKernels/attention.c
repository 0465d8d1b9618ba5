// Attention of one query over a cache of keys and values, and the row-wise functions of a running model.
#include <math.h>

#include "elements.h"
#include "kernels.h"

// e^x for x <= 0, to 2 units in the last place; a polynomial, so that loops over it vectorise.
ELEMENT float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = __builtin_floorf(x * 1.44269504f + 0.5f);
  const float r = x - n * 0.693359375f - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

#define ATTEND_BODY                                                                                   \
  _Pragma("clang fp contract(fast) reassociate(on)") float largest = -INFINITY;                        \
  for (size_t p = first; p < last; p++) {                                                              \
    const float *key = keys + p * stride;                                                              \
    float sum = 0;                                                                                     \
    for (size_t d = 0; d < width; d++) sum += query[d] * key[d];                                       \
    scores[p - first] = sum * scale;                                                                   \
  }                                                                                                    \
  const size_t count = last - first;                                                                   \
  for (size_t p = 0; p < count; p++) largest = scores[p] > largest ? scores[p] : largest;              \
  float total = 0;                                                                                     \
  for (size_t p = 0; p < count; p++) scores[p] = exponential(scores[p] - largest);                     \
  for (size_t p = 0; p < count; p++) total += scores[p];                                               \
  for (size_t d = 0; d < width; d++) out[d] = 0;                                                       \
  for (size_t p = 0; p < count; p++) {                                                                 \
    const float *value = values + (first + p) * stride;                                                \
    const float share = scores[p];                                                                     \
    for (size_t d = 0; d < width; d++) out[d] += share * value[d];                                     \
  }                                                                                                    \
  for (size_t d = 0; d < width; d++) out[d] /= total;

#define ATTEND_ARGUMENTS                                                                                       \
  const float *query, const float *keys, const float *values, size_t first, size_t last, size_t stride, size_t width, \
      float scale, float *scores, float *out
#define ATTEND_NAMES query, keys, values, first, last, stride, width, scale, scores, out

static void attend_generic(ATTEND_ARGUMENTS) { ATTEND_BODY }
#if defined(__x86_64__)
__attribute__((target("arch=x86-64-v4"), min_vector_width(512))) static void attend_v4(ATTEND_ARGUMENTS) { ATTEND_BODY }
__attribute__((target("arch=x86-64-v3"))) static void attend_v3(ATTEND_ARGUMENTS) { ATTEND_BODY }
#endif

void kernels_attend(ATTEND_ARGUMENTS) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return attend_v4(ATTEND_NAMES);
  if (__builtin_cpu_supports("x86-64-v3")) return attend_v3(ATTEND_NAMES);
#endif
  attend_generic(ATTEND_NAMES);
}
