// The Mersenne Twister in blocks, and the draws of dropout masks from it.
#include <string.h>

#include "dispatch.h"
#include "kernels.h"

enum { words = 624, shift = 397 };

#define TWIST(a, b) ((((a) & 0x80000000u) | ((b) & 0x7FFFFFFFu)) >> 1 ^ (((b) & 1) ? 0x9908B0DFu : 0))

DISPATCHED void kernels_twister_refill(uint32_t *state) {
  // The first part reads what the loop does not write; the second lags 227 words behind what it reads.
  for (size_t i = 0; i < words - shift; i++) state[i] = state[i + shift] ^ TWIST(state[i], state[i + 1]);
  for (size_t start = words - shift; start < words - 1; start += words - shift) {
    const size_t end = start + words - shift < words - 1 ? start + words - shift : words - 1;
    const uint32_t *before = state + start - (words - shift);
    _Pragma("clang loop vectorize(assume_safety)") for (size_t i = start; i < end; i++) state[i] =
        before[i - start] ^ TWIST(state[i], state[i + 1]);
  }
  state[words - 1] = state[shift - 1] ^ TWIST(state[words - 1], state[0]);
}

static inline uint32_t temper(uint32_t bits) {
  bits ^= bits >> 11;
  bits ^= (bits << 7) & 0x9D2C5680u;
  bits ^= (bits << 15) & 0xEFC60000u;
  return bits ^ (bits >> 18);
}

DISPATCHED void kernels_twister_draws(uint32_t *state, size_t *next, size_t count, uint64_t limit, uint64_t *bits) {
  uint32_t tempered[words + 1];
  size_t done = 0, held = 0;
  uint32_t carried = 0;
  while (done < count) {
    if (*next == words) {
      kernels_twister_refill(state);
      *next = 0;
    }
    // A draw may begin with the last word of a block.
    const size_t wanted = 2 * (count - done) - held, present = words - *next < wanted ? words - *next : wanted;
    tempered[0] = carried;
    if (bits)
      for (size_t i = 0; i < present; i++) tempered[held + i] = temper(state[*next + i]);
    else if (present) tempered[held + present - 1] = temper(state[*next + present - 1]);
    *next += present;
    const size_t pairs = (held + present) / 2;
    if (bits)
      for (size_t i = 0; i < pairs; i++) {
        const uint64_t value = (uint64_t)(tempered[2 * i] & 0x1FFFFF) << 32 | tempered[2 * i + 1];
        bits[(done + i) / 64] |= (uint64_t)(value < limit) << ((done + i) % 64);
      }
    done += pairs;
    held = (held + present) % 2;
    if (held) carried = tempered[2 * pairs];
  }
}

DISPATCHED void kernels_twister_keep(uint32_t *state, size_t *next, size_t count, float density,
                                     const float *densities, uint8_t *keep) {
  size_t done = 0;
  while (done < count) {
    if (*next == words) {
      kernels_twister_refill(state);
      *next = 0;
    }
    const size_t present = words - *next < count - done ? words - *next : count - done;
    for (size_t i = 0; i < present; i++) {
      const float drawn = (float)(int32_t)(temper(state[*next + i]) & 0xFFFFFF) * 0x1p-24f;
      keep[done + i] = drawn < (densities ? densities[done + i] : density);
    }
    *next += present;
    done += present;
  }
}

DISPATCHED void kernels_keep(const float *x, const uint64_t *bits, size_t first, float scale, float *out,
                             size_t count) {
  for (size_t i = 0; i < count; i++)
    out[i] = bits[(first + i) / 64] >> ((first + i) % 64) & 1 ? x[i] * scale : 0;
}
