// The exponential function as a polynomial, so that loops over it vectorise.
#ifndef PEFT_EXPONENTIAL_H
#define PEFT_EXPONENTIAL_H

#include "elements.h"

// e^x for x <= 0, to 2 units in the last place.
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

#endif
