// Mixing of several tensors into one: sums in f64 that are rounded once, the choice of elements by magnitude, and the votes of signs.
// Inputs lie `stride` floats apart; what is said to be a change is an input minus the base, or the input itself without one.
#include "dispatch.h"
#include "elements.h"
#include "kernels.h"

enum { part = 256 };

#define PARTS(start, length) \
  for (size_t start = 0, length = count < part ? count : part; start < count; \
       start += part, length = count - start < part ? count - start : part)

DISPATCHED void kernels_mix_sum(const float *x, size_t stride, size_t inputs, const double *factors, size_t count,
                                float *out) {
  PARTS(start, length) {
    double sum[part] = {0};
    for (size_t i = 0; i < inputs; i++) {
      const float *from = x + i * stride + start;
      for (size_t j = 0; j < length; j++) sum[j] += factors[i] * from[j];
    }
    for (size_t j = 0; j < length; j++) out[start + j] = (float)sum[j];
  }
}

// factor * change where it is kept, 0 elsewhere.
ELEMENT void changes(const kernels_changes *mix, size_t input, size_t start, size_t length, double *values) {
  const float *x = mix->x + input * mix->stride + start;
  const double factor = mix->factors[input];
  if (mix->base)
    for (size_t j = 0; j < length; j++) values[j] = factor * ((double)x[j] - mix->base[start + j]);
  else
    for (size_t j = 0; j < length; j++) values[j] = factor * x[j];
  if (!mix->chosen[input]) return;
  const uint8_t *keep = mix->keep + input * mix->stride + start;
  for (size_t j = 0; j < length; j++) values[j] = keep[j] ? values[j] : 0;
}

DISPATCHED void kernels_mix_changes(const kernels_changes *mix, size_t count, float *out) {
  PARTS(start, length) {
    double values[part], vote[part] = {0}, sum[part] = {0}, divisor[part] = {0};
    if (mix->elects)
      for (size_t i = 0; i < mix->inputs; i++) {
        changes(mix, i, start, length, values);
        for (size_t j = 0; j < length; j++) vote[j] += values[j];
      }
    for (size_t i = 0; i < mix->inputs; i++) {
      changes(mix, i, start, length, values);
      const double weight = mix->weights[i];
      if (mix->elects)
        for (size_t j = 0; j < length; j++) {
          const int agrees = vote[j] >= 0 ? values[j] > 0 : values[j] < 0;
          sum[j] += agrees ? values[j] : 0;
          divisor[j] += agrees ? weight : 0;
        }
      else
        for (size_t j = 0; j < length; j++) {
          sum[j] += values[j];
          divisor[j] += weight;
        }
    }
    if (mix->normalizes)
      for (size_t j = 0; j < length; j++)
        sum[j] /= divisor[j] < 1e-8 && divisor[j] > -1e-8 ? 1 : divisor[j];
    if (mix->base)
      for (size_t j = 0; j < length; j++) out[start + j] = (float)(mix->base[start + j] + mix->scale * sum[j]);
    else
      for (size_t j = 0; j < length; j++) out[start + j] = (float)(mix->scale * sum[j]);
  }
}

// The bits of the change's magnitude, rounded to f32: their order is that of the magnitudes.
ELEMENT void magnitudes(const float *base, const float *x, size_t length, uint32_t *bits) {
  if (base)
    for (size_t j = 0; j < length; j++) bits[j] = bits_of(x[j] - base[j]) & 0x7FFFFFFF;
  else
    for (size_t j = 0; j < length; j++) bits[j] = bits_of(x[j]) & 0x7FFFFFFF;
}

DISPATCHED void kernels_count_magnitudes(const float *base, const float *x, size_t count, uint64_t *counts) {
  PARTS(start, length) {
    uint32_t bits[part];
    magnitudes(base ? base + start : 0, x + start, length, bits);
    for (size_t j = 0; j < length; j++) counts[bits[j] >> 16]++;
  }
}

DISPATCHED void kernels_count_lower_halves(const float *base, const float *x, size_t count, uint32_t upper,
                                           uint64_t *counts) {
  PARTS(start, length) {
    uint32_t bits[part], found = 0;
    magnitudes(base ? base + start : 0, x + start, length, bits);
    for (size_t j = 0; j < length; j++) found += bits[j] >> 16 == upper;
    if (!found) continue;
    for (size_t j = 0; j < length; j++)
      if (bits[j] >> 16 == upper) counts[bits[j] & 0xFFFF]++;
  }
}

DISPATCHED void kernels_keep_band(const float *base, const float *x, size_t count, kernels_band *band, uint8_t *keep) {
  const uint32_t low = band->low, high = band->high;
  PARTS(start, length) {
    uint32_t bits[part], edges = 0;
    magnitudes(base ? base + start : 0, x + start, length, bits);
    for (size_t j = 0; j < length; j++) {
      keep[start + j] = bits[j] > low && bits[j] < high;
      edges += bits[j] == low || bits[j] == high;
    }
    if (!edges) continue;
    for (size_t j = 0; j < length; j++) {
      if (bits[j] == low) {
        keep[start + j] = band->low_seen >= band->low_from && band->low_seen < band->low_to;
        band->low_seen++;
      } else if (bits[j] == high) {
        keep[start + j] = band->high_seen < band->high_to;
        band->high_seen++;
      }
    }
  }
}

DISPATCHED void kernels_magnitude_sums(const float *base, const float *x, const uint8_t *keep, size_t count,
                                       double *all, double *kept) {
  double lanes[8] = {0}, chosen[8] = {0};
  size_t j = 0;
  for (; j + 8 <= count; j += 8)
    for (size_t k = 0; k < 8; k++) {
      const double change = base ? (double)x[j + k] - base[j + k] : x[j + k], size = change < 0 ? -change : change;
      lanes[k] += size;
      chosen[k] += keep[j + k] ? size : 0;
    }
  for (; j < count; j++) {
    const double change = base ? (double)x[j] - base[j] : x[j], size = change < 0 ? -change : change;
    lanes[0] += size;
    chosen[0] += keep[j] ? size : 0;
  }
  for (size_t k = 0; k < 8; k++) {
    *all += lanes[k];
    *kept += chosen[k];
  }
}

DISPATCHED double kernels_change_product(const float *base, const float *x, const float *y, size_t count) {
  double lanes[8] = {0};
  size_t j = 0;
  if (base) {
    for (; j + 8 <= count; j += 8)
      for (size_t k = 0; k < 8; k++)
        lanes[k] += ((double)x[j + k] - base[j + k]) * ((double)y[j + k] - base[j + k]);
    for (; j < count; j++) lanes[0] += ((double)x[j] - base[j]) * ((double)y[j] - base[j]);
  } else {
    for (; j + 8 <= count; j += 8)
      for (size_t k = 0; k < 8; k++) lanes[k] += (double)x[j + k] * y[j + k];
    for (; j < count; j++) lanes[0] += (double)x[j] * y[j];
  }
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}
