// One element of each storage type to and from f32. Included by the loops; bit tricks only, so that the compiler can
// vectorise them.
#ifndef PEFT_ELEMENTS_H
#define PEFT_ELEMENTS_H

#include <stdint.h>
#include <string.h>

#define ELEMENT static inline __attribute__((always_inline))

ELEMENT uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

ELEMENT float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

ELEMENT float bf16_load(uint16_t bits) { return float_of((uint32_t)bits << 16); }

ELEMENT uint16_t bf16_store(float value) {
  uint32_t bits = bits_of(value);
  uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x0040;
  return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}

// Shifting the exponent by 112 and multiplying by 2^-112 scales normals and subnormals alike.
ELEMENT float f16_load(uint16_t bits) {
  uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
  uint32_t magnitude = (uint32_t)(bits & 0x7FFF);
  float finite = float_of(magnitude << 13) * 0x1p112f;
  uint32_t special = (magnitude << 13) | 0x7F800000;
  return float_of(sign | (magnitude >= 0x7C00 ? special : bits_of(finite)));
}

ELEMENT uint16_t f16_store(float value) {
  uint32_t bits = bits_of(value);
  uint32_t sign = (bits >> 16) & 0x8000;
  uint32_t magnitude = bits & 0x7FFFFFFF;
  // Normal result: rebias the exponent, round the 13 dropped bits to nearest even. A carry may reach infinity.
  uint32_t normal = (magnitude - 0x38000000 + 0x0FFF + ((magnitude >> 13) & 1)) >> 13;
  // Subnormal result: adding 0.5 makes the floating-point unit round at 2^-24.
  uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000;
  uint32_t overflow = 0x7C00;
  uint32_t quiet = 0x7E00 | ((magnitude >> 13) & 0x01FF);
  uint32_t result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x477FF000 ? overflow : result;
  result = magnitude > 0x7F800000 ? quiet : result;
  return (uint16_t)(sign | result);
}

ELEMENT float f32_load(float value) { return value; }
ELEMENT float f32_store(float value) { return value; }

#endif
