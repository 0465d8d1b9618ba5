// Element kernels for the merge: dtype conversion and the low-rank update of a block of rows.
//
// Half-precision values are passed as their 16-bit patterns. Pointers need the alignment of their type only.
// Source and destination never overlap unless they are the same pointer. NaN becomes a quiet NaN; conversions that
// narrow round to nearest, ties to even, and overflow to infinity.
#ifndef PEFT_KERNELS_H
#define PEFT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/// Name of the instruction-set level in use: "x86-64-v4", "x86-64-v3" or "generic".
const char *kernels_level(void);

void kernels_bf16_to_f32(const uint16_t *source, float *destination, size_t count);
void kernels_f16_to_f32(const uint16_t *source, float *destination, size_t count);
void kernels_f32_to_bf16(const float *source, uint16_t *destination, size_t count);
void kernels_f32_to_f16(const float *source, uint16_t *destination, size_t count);

// The same conversions, one element at a time: the definition that the loops above are tested against.
float kernels_bf16_to_f32_reference(uint16_t bits);
float kernels_f16_to_f32_reference(uint16_t bits);
uint16_t kernels_f32_to_bf16_reference(float value);
uint16_t kernels_f32_to_f16_reference(float value);

/// Rows of `left` are packed in groups of this many rows; see `kernels_pack_left`.
enum { kernels_row_group = 6 };

/// Packs left [rows, rank] (row-major, `stride` floats between rows), multiplied by `scale`, as groups of
/// `kernels_row_group` rows: within a group, rank-major. The last group is padded with zeros.
/// `packed` holds ceil(rows / group) * group * rank floats.
void kernels_pack_left(const float *left, size_t rows, size_t rank, size_t stride, float scale, float *packed);

// W [rows, columns] += left [rows, rank] x right [rank, columns], in place, row-major and dense.
// The product is summed in f32 with k ascending from zero, then added to W, then rounded once to W's type.
void kernels_update_bf16(uint16_t *w, size_t rows, size_t columns, const float *packed_left, const float *right,
                         size_t rank);
void kernels_update_f16(uint16_t *w, size_t rows, size_t columns, const float *packed_left, const float *right,
                        size_t rank);
void kernels_update_f32(float *w, size_t rows, size_t columns, const float *packed_left, const float *right,
                        size_t rank);

// The same update as a plain loop: the definition.
void kernels_update_bf16_reference(uint16_t *w, size_t rows, size_t columns, const float *packed_left,
                                   const float *right, size_t rank);
void kernels_update_f16_reference(uint16_t *w, size_t rows, size_t columns, const float *packed_left,
                                  const float *right, size_t rank);
void kernels_update_f32_reference(float *w, size_t rows, size_t columns, const float *packed_left, const float *right,
                                  size_t rank);

// Square sums in f64 of w [rows, columns], row-major and dense: of each row, or added to `sums` for each column.
void kernels_row_square_sums(const float *w, size_t rows, size_t columns, double *sums);
void kernels_add_column_square_sums(const float *w, size_t rows, size_t columns, double *sums);

// Multiplies each row, or each column, of w [rows, columns] by its factor.
void kernels_scale_rows(float *w, size_t rows, size_t columns, const float *factors);
void kernels_scale_columns(float *w, size_t rows, size_t columns, const float *factors);

// True if no element is infinite or a NaN: none whose exponent's bits, given in their place, are all ones.
int kernels_all_finite_16(const uint16_t *words, size_t count, uint16_t exponent);
int kernels_all_finite_32(const uint32_t *words, size_t count, uint32_t exponent);
int kernels_all_finite_64(const uint64_t *words, size_t count, uint64_t exponent);

/// Threads that share loops: one for each core that the process may use, or PEFT_THREADS.
size_t kernels_threads(void);

/// Ends the threads that wait for loops. The next loop starts them again. Does nothing within a loop's body.
void kernels_stop_threads(void);

/// Calls body(context, i) for each i below count, on all threads. Within a body it runs on the calling thread alone.
void kernels_parallel(size_t count, void (*body)(void *, size_t), void *context);

/// How weights are stored.
enum { kernels_f32, kernels_f16, kernels_bf16 };

/// Outputs that one task of a projection takes.
enum { kernels_chunk = 64 };

/// y [tokens, out] = x [tokens, in] x W^T, W [out, in]; or x x W, W [in, out], if transposed. Sums in f32, their order unspecified.
/// With a bf16 W [out, in] and more than four tokens, x is rounded to bf16 where the machine multiplies bf16, unless `exact` is set.
void kernels_project(int format, const void *w, size_t out, size_t in, int transposed, int exact, const float *x,
                     size_t tokens, float *y);

/// out = softmax(scale * queries . keys) . values for `rows` queries of one head, `query_stride` floats apart, as out is.
///
/// Keys and values are `stride` floats apart. Query i sees the positions up to before + i, and no more than `window` of them if that is
/// not 0; all `total` positions if `before` is SIZE_MAX. `scores` holds rows x total floats.
void kernels_attend(const float *queries, size_t query_stride, size_t rows, const float *keys, const float *values,
                    size_t stride, size_t width, size_t before, size_t total, size_t window, float scale,
                    float *scores, float *out);

// Norms of rows of `width`: y = x / sqrt(mean x^2 + epsilon) * (w + plus), or (x - mean) / sqrt(variance + epsilon) * w + b, where w and
// b may be null. The gradients add to dx what g, the gradient of y, means for x.
void kernels_rms_norm(const float *x, const float *w, float plus, size_t rows, size_t width, float epsilon, float *y);
void kernels_rms_norm_gradient(const float *x, const float *w, float plus, const float *g, size_t rows, size_t width,
                               float epsilon, float *dx);
void kernels_layer_norm(const float *x, const float *w, const float *b, size_t rows, size_t width, float epsilon,
                        float *y);
void kernels_layer_norm_gradient(const float *x, const float *w, const float *g, size_t rows, size_t width,
                                 float epsilon, float *dx);

/// Adds to dw and, if it is not null, db what g means for a norm's parameters. `centred` is 1 for the norm with a mean.
void kernels_norm_parameters(int centred, const float *x, const float *g, size_t rows, size_t width, float epsilon,
                             float *dw, float *db);

/// Turns the first half of each `width` columns of one row against the second; sign -1 turns back.
void kernels_rotate(float *x, size_t columns, size_t width, const float *cosines, const float *sines, float sign);

/// Functions between a feed-forward part's products.
enum {
  kernels_relu_function, kernels_silu_function, kernels_tanh_gelu_function, kernels_gelu_function,
  kernels_tanh_function, kernels_quick_gelu_function
};

/// out = f(a) * b, or f(a) if b is null.
void kernels_activate(int kind, const float *a, const float *b, float *out, size_t count);

/// Puts the gradients of a and b, if it is not null, in their places; g is that of the result.
void kernels_activate_gradient(int kind, const float *g, float *a, float *b, size_t count);

/// e^x / sum e^x, in place.
void kernels_softmax(float *x, size_t count);

/// dp = scale * p * (dp - sum p * dp): the gradient through a softmax whose result is p, in place.
void kernels_softmax_gradient(const float *p, float *dp, float scale, size_t count);

/// The loss of one row of logits, -log softmax(logits)[target], mixed with the mean over all targets by `smoothing`. Logits become
/// their gradient times `share`. `target` is below `count`.
double kernels_cross_entropy(float *logits, size_t count, size_t target, float smoothing, float share);

/// y += scale * x.
void kernels_add(const float *x, float scale, float *y, size_t count);

/// The sum of squares, in f64.
double kernels_square_sum(const float *x, size_t count);

/// One step of AdamW: 1 - lr * decay, 1 - beta1, 1 - beta2, beta2, sqrt(1 - beta2^t), epsilon and -lr / (1 - beta1^t), each rounded to f32.
typedef struct {
  float decay, first, second, kept, correction, epsilon, rate;
} kernels_adamw_step;

/// Every result is rounded to f32, with two fused multiply-adds, as torch's fused kernel does it bit for bit.
void kernels_adamw(const kernels_adamw_step *step, float *p, const float *g, float *m, float *v, size_t count);

/// The next 624 words of the Mersenne Twister, untempered, in place.
void kernels_twister_refill(uint32_t *state);

/// One bit for each of `count` draws of two words: 1 where the lower 53 of their 64 bits are below `limit`. `next` is the place in `state`.
/// `bits` may be null, to pass over draws; it must be zero otherwise.
void kernels_twister_draws(uint32_t *state, size_t *next, size_t count, uint64_t limit, uint64_t *bits);

/// out = x * scale where the bit from `first` on is 1, otherwise 0.
void kernels_keep(const float *x, const uint64_t *bits, size_t first, float scale, float *out, size_t count);

/// One byte for each of `count` draws of one word: 1 where the lower 24 of its 32 bits, as a number below 1, are less than `density`.
/// With `densities`, each draw has its own.
void kernels_twister_keep(uint32_t *state, size_t *next, size_t count, float density, const float *densities,
                          uint8_t *keep);

// Mixing of several tensors. Inputs lie `stride` floats apart; a change is an input minus the base, or the input itself where the base
// is null.

/// out = sum of factors[i] * input i, in f64, rounded once.
void kernels_mix_sum(const float *x, size_t stride, size_t inputs, const double *factors, size_t count, float *out);

/// How changes are mixed. `keep` lies as the inputs do and counts for those that are `chosen` only.
typedef struct {
  const float *base, *x;
  const uint8_t *keep, *chosen;
  /// What a change is multiplied by, and what it counts in the divisor.
  const double *factors, *weights;
  size_t stride, inputs;
  double scale;
  /// 1 to take only changes with the sign of their sum, and to divide by the weights of those that are taken.
  int elects, normalizes;
} kernels_changes;

/// out = base + scale * sum of factors[i] * change i, in f64, rounded once. A divisor within 1e-8 of zero counts as 1.
void kernels_mix_changes(const kernels_changes *mix, size_t count, float *out);

/// Adds to counts[32768] how many changes have each upper half of their magnitude's bits in f32.
void kernels_count_magnitudes(const float *base, const float *x, size_t count, uint64_t *counts);

/// Adds to counts[65536] how many of those with that upper half have each lower half.
void kernels_count_lower_halves(const float *base, const float *x, size_t count, uint32_t upper, uint64_t *counts);

/// Magnitudes, as bits, between two bounds. Of those that are the bounds the ones with these places in memory's order are kept.
typedef struct {
  uint32_t low, high;
  uint64_t low_from, low_to, high_to;
  uint64_t low_seen, high_seen;
} kernels_band;

/// keep[j] = 1 where the change's magnitude lies in the band. Calls follow each other in memory's order.
void kernels_keep_band(const float *base, const float *x, size_t count, kernels_band *band, uint8_t *keep);

/// Adds the magnitudes of all changes, and of those kept.
void kernels_magnitude_sums(const float *base, const float *x, const uint8_t *keep, size_t count, double *all,
                            double *kept);

/// The sum of the products of two inputs' changes, in f64.
double kernels_change_product(const float *base, const float *x, const float *y, size_t count);

#endif
