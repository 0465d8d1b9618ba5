// y = x · W for the layers of a running model: W as it is stored, sums in f32.
//
// For few tokens each weight is read once, row by row, and the product is bound by memory. For many, panels of W are widened
// and laid out so that a tile of tokens by two vectors of outputs stays in registers while k runs.
#include <stdlib.h>

#include "elements.h"
#include "kernels.h"

enum { few_tokens = 4, panel_depth = 1024 };

typedef float v8 __attribute__((vector_size(32), aligned(4)));
typedef float v16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t u8 __attribute__((vector_size(16), aligned(2)));
typedef uint16_t u16 __attribute__((vector_size(32), aligned(2)));
typedef uint32_t w8 __attribute__((vector_size(32)));
typedef uint32_t w16 __attribute__((vector_size(64)));
typedef _Float16 h8 __attribute__((vector_size(16), aligned(2)));
typedef _Float16 h16 __attribute__((vector_size(32), aligned(2)));

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
  const float *packed;
} work;

// 8 vectors of 8: rows become columns.
#define TRANSPOSE_8(r) \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 4) continue;                                                                 \
    const v8 a = r[i], b = r[i + 4];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);   \
    r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 2) continue;                                                                 \
    const v8 a = r[i], b = r[i + 2];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);   \
    r[i + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 8; i++) {                          \
    if (i & 1) continue;                                                                 \
    const v8 a = r[i], b = r[i + 1];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);   \
    r[i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);   \
  }

// 16 vectors of 16: rows become columns.
#define TRANSPOSE_16(r) \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 8) continue;                                                                 \
    const v16 a = r[i], b = r[i + 8];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);   \
    r[i + 8] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 4) continue;                                                                 \
    const v16 a = r[i], b = r[i + 4];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);   \
    r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 2) continue;                                                                 \
    const v16 a = r[i], b = r[i + 2];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);   \
    r[i + 2] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);   \
  } \
  _Pragma("clang loop unroll(full)") for (int i = 0; i < 16; i++) {                          \
    if (i & 1) continue;                                                                 \
    const v16 a = r[i], b = r[i + 1];                                                      \
    r[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);   \
    r[i + 1] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);   \
  }

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
          float tile[2 * lanes];                                                                              \
          memcpy(tile, &sum[i], sizeof tile);                                                                 \
          for (size_t c = 0; c < present; c++) y[c] = start ? y[c] + tile[c] : tile[c];                       \
        }                                                                                                     \
      }                                                                                                       \
    }                                                                                                         \
    free(wide);                                                                                               \
  }

typedef void (*body)(void *, size_t);
typedef struct {
  body few[2], many[2];
} variants;

#define ALL(format, lanes, group, level, target)                   \
  FEW(few_##format##_##level, format, lanes, target)               \
  FEW_TRANSPOSED(tfew_##format##_##level, format, lanes, target)   \
  MANY(many_##format##_##level, format, lanes, group, 0, target)   \
  MANY(tmany_##format##_##level, format, lanes, group, 1, target)  \
  static const variants format##_##level = {{few_##format##_##level, tfew_##format##_##level}, \
                                            {many_##format##_##level, tmany_##format##_##level}};

#define FORMATS(lanes, group, level, target) \
  ALL(f32, lanes, group, level, target)      \
  ALL(f16, lanes, group, level, target)      \
  ALL(bf16, lanes, group, level, target)

#define NO_TARGET
FORMATS(8, 6, generic, NO_TARGET)
#if defined(__x86_64__)
FORMATS(16, 12, v4, __attribute__((target("arch=x86-64-v4"), min_vector_width(512))))
FORMATS(8, 6, v3, __attribute__((target("arch=x86-64-v3"))))
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

void kernels_project(int format, const void *w, size_t out, size_t in, int transposed, const float *x, size_t tokens,
                     float *y) {
  if (!out || !tokens) return;
  size_t lanes, group;
  const variants *chosen = variants_for(format, &lanes, &group);
  work job = {w, x, y, out, in, tokens, 0};
  if (tokens <= few_tokens) {
    kernels_parallel((out + kernels_chunk - 1) / kernels_chunk, chosen->few[transposed != 0], &job);
    return;
  }
  float *packed = aligned_alloc(64, ((tokens + group - 1) / group * group * in * sizeof(float) + 63) / 64 * 64);
  if (!packed) abort();
  for (size_t token = 0; token < tokens; token += group)
    for (size_t i = 0; i < group; i++)
      for (size_t k = 0; k < in; k++)
        packed[token * in + k * group + i] = token + i < tokens ? x[(token + i) * in + k] : 0;
  job.packed = packed;
  kernels_parallel((out + 2 * lanes - 1) / (2 * lanes), chosen->many[transposed != 0], &job);
  free(packed);
}
