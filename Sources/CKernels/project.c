// y = x · W for the layers of a running model: W as it is stored, sums in f32.
//
// For few tokens each weight is read once, row by row, and the product is bound by memory. For many, panels of W are widened
// and laid out so that a tile of tokens by two vectors of outputs stays in registers while k runs.
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "elements.h"
#include "kernels.h"
#include "vectors.h"

enum { few_tokens = 4, panel_depth = 1024 };

#define LOAD_f32(lanes, p) (*(const v##lanes *)(p))
#define LOAD_f16(lanes, p) __builtin_convertvector(*(const h##lanes *)(p), v##lanes)
#define LOAD_bf16(lanes, p) ((v##lanes)(__builtin_convertvector(*(const u##lanes *)(p), w##lanes) << 16))
#define ELEMENT_f32 float
#define ELEMENT_f16 uint16_t
#define ELEMENT_bf16 uint16_t

typedef struct {
  const void *w;
  const float *x;
  float *y;
  size_t out, in, tokens;
  // Packed tokens: groups of rows, k-major within a group.
  float *packed;
  size_t group;
} work;

// The sum of a vector's elements, by halves.
#define TOTAL_8(v)                                                                             \
  ({                                                                                           \
    const v8 all_ = (v);                                                                       \
    const v8 half_ = all_ + __builtin_shufflevector(all_, all_, 4, 5, 6, 7, 0, 1, 2, 3);       \
    const v8 quarter_ = half_ + __builtin_shufflevector(half_, half_, 2, 3, 0, 1, 6, 7, 4, 5); \
    quarter_[0] + quarter_[1];                                                                 \
  })
#define TOTAL_16(v)                                                                      \
  ({                                                                                     \
    const v16 wide_ = (v);                                                               \
    TOTAL_8(__builtin_shufflevector(wide_, wide_, 0, 1, 2, 3, 4, 5, 6, 7) +              \
            __builtin_shufflevector(wide_, wide_, 8, 9, 10, 11, 12, 13, 14, 15));        \
  })

// Chunks of rows, each against up to four tokens: W [out, in]. One row after the other, as the memory streams best.
#define FEW(name, format, lanes, target)                                                                       \
  target static void name(void *context, size_t chunk) {                                                       \
    _Pragma("clang fp contract(fast)") const work *job = context;                                              \
    const size_t in = job->in, first = chunk * kernels_chunk;                                                  \
    const size_t last = first + kernels_chunk < job->out ? first + kernels_chunk : job->out;                   \
    for (size_t row = first; row < last; row++) {                                                              \
      const ELEMENT_##format *w = (const ELEMENT_##format *)job->w + row * in;                                 \
      for (size_t t = 0; t < job->tokens; t++) {                                                               \
        const float *x = job->x + t * in;                                                                      \
        v##lanes sum[4] = {{0}};                                                                               \
        size_t k = 0;                                                                                          \
        for (; k + 4 * lanes <= in; k += 4 * lanes) {                                                          \
          _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++) sum[i] +=                             \
              LOAD_##format(lanes, w + k + i * lanes) * *(const v##lanes *)(x + k + i * lanes);                \
        }                                                                                                      \
        v##lanes all = (sum[0] + sum[1]) + (sum[2] + sum[3]);                                                  \
        for (; k + lanes <= in; k += lanes) all += LOAD_##format(lanes, w + k) * *(const v##lanes *)(x + k);   \
        float total = TOTAL_##lanes(all);                                                                      \
        for (; k < in; k++) total += format##_load(w[k]) * x[k];                                               \
        job->y[t * job->out + row] = total;                                                                    \
      }                                                                                                        \
    }                                                                                                          \
  }

// The same for W [in, out]: chunks of columns.
#define FEW_TRANSPOSED(name, format, lanes, target)                                                           \
  target static void name(void *context, size_t chunk) {                                                      \
    _Pragma("clang fp contract(fast)") const work *job = context;                                             \
    const size_t out = job->out, first = chunk * kernels_chunk, last = first + kernels_chunk < out            \
                                                                         ? first + kernels_chunk              \
                                                                         : out;                               \
    const ELEMENT_##format *w = job->w;                                                                       \
    for (size_t t = 0; t < job->tokens; t++) {                                                                \
      const float *x = job->x + t * job->in;                                                                  \
      float *y = job->y + t * out;                                                                            \
      size_t j = first;                                                                                       \
      for (; j + 4 * lanes <= last; j += 4 * lanes) {                                                         \
        v##lanes sum[4] = {{0}};                                                                              \
        for (size_t k = 0; k < job->in; k++)                                                                  \
          _Pragma("clang loop unroll(full)") for (int i = 0; i < 4; i++) sum[i] +=                            \
              LOAD_##format(lanes, w + k * out + j + i * lanes) * x[k];                                       \
        for (int i = 0; i < 4; i++) *(v##lanes *)(y + j + i * lanes) = sum[i];                                \
      }                                                                                                       \
      for (; j < last; j++) {                                                                                 \
        float total = 0;                                                                                      \
        for (size_t k = 0; k < job->in; k++) total += format##_load(w[k * out + j]) * x[k];                   \
        y[j] = total;                                                                                         \
      }                                                                                                       \
    }                                                                                                         \
  }

// A panel of outputs against all tokens. `transposed` is a constant: W is [in, out].
#define MANY(name, format, lanes, group, transposed, target)                                                  \
  target static void name(void *context, size_t panel) {                                                      \
    _Pragma("clang fp contract(fast)") const work *job = context;                                             \
    const size_t in = job->in, out = job->out, first = panel * 2 * lanes;                                     \
    const size_t present = out - first < 2 * lanes ? out - first : 2 * lanes;                                 \
    const ELEMENT_##format *w = job->w;                                                                       \
    float *wide = aligned_alloc(64, panel_depth * 2 * lanes * sizeof(float));                                 \
    if (!wide) abort();                                                                                       \
    for (size_t start = 0; start < in; start += panel_depth) {                                                \
      const size_t depth = in - start < panel_depth ? in - start : panel_depth;                               \
      for (size_t half = 0; half < 2; half++) {                                                               \
        const size_t row = first + half * lanes;                                                              \
        size_t k = 0;                                                                                         \
        if (row + lanes <= out)                                                                               \
          for (; k + (transposed ? 1 : lanes) <= depth; k += transposed ? 1 : lanes) {                        \
            if (transposed) {                                                                                 \
              *(v##lanes *)(wide + k * 2 * lanes + half * lanes) =                                            \
                  LOAD_##format(lanes, w + (start + k) * out + row);                                          \
              continue;                                                                                       \
            }                                                                                                 \
            v##lanes r[lanes];                                                                                \
            _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) r[i] =                         \
                LOAD_##format(lanes, w + (row + i) * in + start + k);                                         \
            TRANSPOSE_##lanes(r);                                                                             \
            _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) * (v##lanes *)(wide +          \
                (k + i) * 2 * lanes + half * lanes) = r[i];                                                   \
          }                                                                                                   \
        for (; k < depth; k++)                                                                                \
          for (size_t i = 0; i < lanes; i++)                                                                  \
            wide[k * 2 * lanes + half * lanes + i] =                                                          \
                row + i >= out ? 0                                                                            \
                               : format##_load(transposed ? w[(start + k) * out + row + i]                    \
                                                          : w[(row + i) * in + start + k]);                   \
      }                                                                                                       \
      for (size_t token = 0; token < job->tokens; token += group) {                                           \
        const float *x = job->packed + token * in + start * group;                                            \
        v##lanes sum[group][2];                                                                               \
        _Pragma("clang loop unroll(full)") for (int i = 0; i < group; i++) sum[i][0] = sum[i][1] =            \
            (v##lanes){0};                                                                                    \
        for (size_t k = 0; k < depth; k++) {                                                                  \
          const v##lanes r0 = *(const v##lanes *)(wide + k * 2 * lanes);                                      \
          const v##lanes r1 = *(const v##lanes *)(wide + k * 2 * lanes + lanes);                              \
          _Pragma("clang loop unroll(full)") for (int i = 0; i < group; i++) {                                \
            sum[i][0] += x[k * group + i] * r0;                                                               \
            sum[i][1] += x[k * group + i] * r1;                                                               \
          }                                                                                                   \
        }                                                                                                     \
        const size_t rows = job->tokens - token < group ? job->tokens - token : group;                        \
        for (size_t i = 0; i < rows; i++) {                                                                   \
          float *y = job->y + (token + i) * out + first;                                                      \
          if (present == 2 * lanes) {                                                                         \
            v##lanes *to = (v##lanes *)y;                                                                     \
            to[0] = start ? to[0] + sum[i][0] : sum[i][0];                                                    \
            to[1] = start ? to[1] + sum[i][1] : sum[i][1];                                                    \
            continue;                                                                                         \
          }                                                                                                   \
          float tile[2 * lanes];                                                                              \
          memcpy(tile, &sum[i], sizeof tile);                                                                 \
          for (size_t c = 0; c < present; c++) y[c] = start ? y[c] + tile[c] : tile[c];                       \
        }                                                                                                     \
      }                                                                                                       \
    }                                                                                                         \
    free(wide);                                                                                               \
  }

// One group of tokens laid out k by k. Rows past the last are copies of the first: their products are not stored.
#define PACK(name, lanes, group, target)                                                                      \
  target static void name(void *context, size_t index) {                                                      \
    const work *job = context;                                                                                \
    const size_t in = job->in, token = index * group;                                                         \
    float *packed = job->packed + token * in;                                                                 \
    const float *rows[lanes];                                                                                 \
    for (size_t i = 0; i < lanes; i++)                                                                        \
      rows[i] = job->x + (token + (i < group && token + i < job->tokens ? i : 0)) * in;                       \
    size_t k = 0;                                                                                             \
    for (; k + lanes <= in; k += lanes) {                                                                     \
      v##lanes r[lanes];                                                                                      \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) r[i] = LOAD_f32(lanes, rows[i] + k); \
      TRANSPOSE_##lanes(r);                                                                                   \
      _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++)                                      \
          memcpy(packed + (k + i) * group, &r[i], group * sizeof(float));                                     \
    }                                                                                                         \
    for (; k < in; k++)                                                                                       \
      for (size_t i = 0; i < group; i++) packed[k * group + i] = rows[i][k];                                  \
  }

#if defined(__x86_64__)
#define PAIRS_TARGET __attribute__((target("arch=x86-64-v4,avx512bf16"), min_vector_width(512)))

// One group of tokens as pairs of neighbouring inputs, rounded to bf16.
PAIRS_TARGET static void pack_pairs(void *context, size_t index) {
  const work *job = context;
  const size_t group = job->group, in = job->in, pairs = (in + 1) / 2, token = index * group;
  uint32_t *packed = (uint32_t *)job->packed + token * pairs;
  const float *rows[16];
  for (size_t i = 0; i < group; i++) rows[i] = job->x + (token + (token + i < job->tokens ? i : 0)) * in;
  for (size_t k = 0; k < pairs; k++)
    for (size_t i = 0; i < group; i++) {
      const uint32_t low = bf16_store(rows[i][2 * k]), high = 2 * k + 1 < in ? bf16_store(rows[i][2 * k + 1]) : 0;
      packed[k * group + i] = low | high << 16;
    }
}

// A panel of 32 outputs of a bf16 weight [out, in] against all tokens, two products an instruction.
PAIRS_TARGET static void many_pairs(void *context, size_t panel) {
  enum { lanes = 16, group = 12, depth_limit = panel_depth };
  const work *job = context;
  const size_t in = job->in, out = job->out, pairs = (in + 1) / 2, first = panel * 2 * lanes;
  const size_t present = out - first < 2 * lanes ? out - first : 2 * lanes;
  const uint16_t *w = job->w;
  uint32_t *wide = aligned_alloc(64, depth_limit * 2 * lanes * sizeof(uint32_t));
  if (!wide) abort();
  for (size_t start = 0; start < pairs; start += depth_limit) {
    const size_t depth = pairs - start < depth_limit ? pairs - start : depth_limit;
    for (size_t half = 0; half < 2; half++) {
      const uint16_t *row[lanes];
      for (size_t i = 0; i < lanes; i++) {
        const size_t output = first + half * lanes + i;
        row[i] = w + (output < out ? output : out - 1) * in + 2 * start;
      }
      size_t k = 0;
      for (; 2 * (start + k + lanes) <= in && k + lanes <= depth; k += lanes) {
        v16 r[lanes];
        _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) r[i] = *(const v16 *)(row[i] + 2 * k);
        TRANSPOSE_16(r);
        _Pragma("clang loop unroll(full)") for (int i = 0; i < lanes; i++) * (v16 *)(wide + (k + i) * 2 * lanes + half * lanes) = r[i];
      }
      for (; k < depth; k++)
        for (size_t i = 0; i < lanes; i++)
          wide[k * 2 * lanes + half * lanes + i] =
              row[i][2 * k] | (uint32_t)(2 * (start + k) + 1 < in ? row[i][2 * k + 1] : 0) << 16;
    }
    for (size_t token = 0; token < job->tokens; token += group) {
      const uint32_t *x = (const uint32_t *)job->packed + token * pairs + start * group;
      __m512 sum[group][2];
      _Pragma("clang loop unroll(full)") for (int i = 0; i < group; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
      for (size_t k = 0; k < depth; k++) {
        const __m512bh r0 = (__m512bh)_mm512_loadu_si512(wide + k * 2 * lanes);
        const __m512bh r1 = (__m512bh)_mm512_loadu_si512(wide + k * 2 * lanes + lanes);
        _Pragma("clang loop unroll(full)") for (int i = 0; i < group; i++) {
          const __m512bh both = (__m512bh)_mm512_set1_epi32((int)x[k * group + i]);
          sum[i][0] = _mm512_dpbf16_ps(sum[i][0], r0, both);
          sum[i][1] = _mm512_dpbf16_ps(sum[i][1], r1, both);
        }
      }
      const size_t rows = job->tokens - token < group ? job->tokens - token : group;
      for (size_t i = 0; i < rows; i++) {
        float *y = job->y + (token + i) * out + first;
        if (present == 2 * lanes) {
          for (int part = 0; part < 2; part++) {
            float *to = y + part * lanes;
            _mm512_storeu_ps(to, start ? _mm512_add_ps(_mm512_loadu_ps(to), sum[i][part]) : sum[i][part]);
          }
          continue;
        }
        float tile[2 * lanes];
        memcpy(tile, &sum[i], sizeof tile);
        for (size_t c = 0; c < present; c++) y[c] = start ? y[c] + tile[c] : tile[c];
      }
    }
  }
  free(wide);
}
#endif

typedef void (*body)(void *, size_t);
typedef struct {
  body few[2], many[2], pack;
} variants;

#define ALL(format, lanes, group, level, target)                   \
  FEW(few_##format##_##level, format, lanes, target)               \
  FEW_TRANSPOSED(tfew_##format##_##level, format, lanes, target)   \
  MANY(many_##format##_##level, format, lanes, group, 0, target)   \
  MANY(tmany_##format##_##level, format, lanes, group, 1, target)  \
  static const variants format##_##level = {{few_##format##_##level, tfew_##format##_##level}, \
                                            {many_##format##_##level, tmany_##format##_##level}, \
                                            pack_##level};

#define FORMATS(lanes, group, level, target) \
  PACK(pack_##level, lanes, group, target)   \
  ALL(f32, lanes, group, level, target)      \
  ALL(f16, lanes, group, level, target)      \
  ALL(bf16, lanes, group, level, target)

FORMATS(8, 6, generic, NO_TARGET)
#if defined(__x86_64__)
FORMATS(16, 12, v4, V4_TARGET)
FORMATS(8, 6, v3, V3_TARGET)
#endif

#define CHOOSE(level) (format == kernels_f32 ? &f32_##level : format == kernels_f16 ? &f16_##level : &bf16_##level)

static const variants *variants_for(int format, size_t *lanes, size_t *group) {
  *lanes = 8;
  *group = 6;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) {
    *lanes = 16;
    *group = 12;
    return CHOOSE(v4);
  }
  if (__builtin_cpu_supports("x86-64-v3")) return CHOOSE(v3);
#endif
  return CHOOSE(generic);
}

void kernels_project(int format, const void *w, size_t out, size_t in, int transposed, int exact, const float *x,
                     size_t tokens, float *y) {
  if (!out || !tokens) return;
  size_t lanes, group;
  const variants *chosen = variants_for(format, &lanes, &group);
  work job = {w, x, y, out, in, tokens, 0, group};
  if (tokens <= few_tokens) {
    kernels_parallel((out + kernels_chunk - 1) / kernels_chunk, chosen->few[transposed != 0], &job);
    return;
  }
  const size_t groups = (tokens + group - 1) / group;
#if defined(__x86_64__)
  if (format == kernels_bf16 && !transposed && !exact && __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16")) {
    job.packed = aligned_alloc(64, (groups * group * ((in + 1) / 2) * sizeof(uint32_t) + 63) / 64 * 64);
    if (!job.packed) abort();
    kernels_parallel(groups, pack_pairs, &job);
    kernels_parallel((out + 31) / 32, many_pairs, &job);
    free(job.packed);
    return;
  }
#endif
  job.packed = aligned_alloc(64, (groups * group * in * sizeof(float) + 63) / 64 * 64);
  if (!job.packed) abort();
  kernels_parallel(groups, chosen->pack, &job);
  kernels_parallel((out + 2 * lanes - 1) / (2 * lanes), chosen->many[transposed != 0], &job);
  free(job.packed);
}
