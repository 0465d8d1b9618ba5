// Definitions: what the fast loops must reproduce bit for bit. Written for reading, with libm and no tricks.
#include <math.h>

#include "elements.h"
#include "kernels.h"

float kernels_bf16_to_f32_reference(uint16_t bits) { return float_of((uint32_t)bits << 16); }

float kernels_f16_to_f32_reference(uint16_t bits) {
  int exponent = (bits >> 10) & 0x1F;
  int fraction = bits & 0x3FF;
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction ? float_of(0x7F800000 | (uint32_t)fraction << 13) : INFINITY;
  } else if (exponent == 0) {
    magnitude = ldexpf((float)fraction, -24);
  } else {
    magnitude = ldexpf((float)(fraction | 0x400), exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Rounds to the nearest multiple of the target's spacing at this magnitude; nearbyint breaks ties to even.
static double round_to_spacing(double value, int fraction_bits, int least_exponent) {
  if (value == 0 || !isfinite(value)) return value;
  int exponent = ilogb(value);
  if (exponent < least_exponent) exponent = least_exponent;
  return ldexp(nearbyint(ldexp(value, fraction_bits - exponent)), exponent - fraction_bits);
}

uint16_t kernels_f32_to_bf16_reference(float value) {
  if (isnan(value)) return (uint16_t)(bits_of(value) >> 16 | 0x40);
  return (uint16_t)(bits_of((float)round_to_spacing(value, 7, -126)) >> 16);
}

uint16_t kernels_f32_to_f16_reference(float value) {
  uint16_t sign = signbit(value) ? 0x8000 : 0;
  if (isnan(value)) return sign | 0x7E00 | (uint16_t)((bits_of(value) >> 13) & 0x1FF);
  double rounded = fabs(round_to_spacing(value, 10, -14));
  if (rounded >= 65536) return sign | 0x7C00;
  if (rounded < 0x1p-14) return sign | (uint16_t)ldexp(rounded, 24);
  int exponent = ilogb(rounded);
  return sign | (uint16_t)((exponent + 15) << 10) | (uint16_t)(ldexp(rounded, 10 - exponent) - 1024);
}

#define UPDATE_REFERENCE(name, Element, load, store)                                              \
  void name(Element *w, size_t rows, size_t columns, const float *packed_left, const float *right, \
            size_t rank) {                                                                        \
    for (size_t i = 0; i < rows; i++) {                                                           \
      const float *left = packed_left + i / kernels_row_group * kernels_row_group * rank;         \
      for (size_t j = 0; j < columns; j++) {                                                      \
        float sum = 0;                                                                            \
        for (size_t k = 0; k < rank; k++)                                                         \
          sum = fmaf(left[k * kernels_row_group + i % kernels_row_group], right[k * columns + j], sum); \
        w[i * columns + j] = store(load(w[i * columns + j]) + sum);                               \
      }                                                                                           \
    }                                                                                             \
  }

UPDATE_REFERENCE(kernels_update_bf16_reference, uint16_t, kernels_bf16_to_f32_reference, kernels_f32_to_bf16_reference)
UPDATE_REFERENCE(kernels_update_f16_reference, uint16_t, kernels_f16_to_f32_reference, kernels_f32_to_f16_reference)
UPDATE_REFERENCE(kernels_update_f32_reference, float, f32_load, f32_store)
