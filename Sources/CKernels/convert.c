#include "dispatch.h"
#include "elements.h"
#include "kernels.h"

#define CONVERSION(name, From, To, load, store)                                 \
  DISPATCHED void name(const From *source, To *destination, size_t count) {     \
    for (size_t i = 0; i < count; i++) destination[i] = store(load(source[i])); \
  }

CONVERSION(kernels_bf16_to_f32, uint16_t, float, bf16_load, f32_store)
CONVERSION(kernels_f16_to_f32, uint16_t, float, f16_load, f32_store)
CONVERSION(kernels_f32_to_bf16, float, uint16_t, f32_load, bf16_store)
CONVERSION(kernels_f32_to_f16, float, uint16_t, f32_load, f16_store)
