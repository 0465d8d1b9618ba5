// What training needs besides products: norms, rotations, activations, softmax and the loss, forwards and backwards.
// Sums are f32 in an order that the compiler chooses for the vector width; a row is always summed by one thread.
#include <math.h>

#include "dispatch.h"
#include "elements.h"
#include "exponential.h"
#include "kernels.h"

#define FAST _Pragma("clang fp contract(fast) reassociate(on)")

// Before a loop whose result may stand where its input stood: elements depend on those of their own place alone.
#define IN_PLACE _Pragma("clang loop vectorize(assume_safety)")

DISPATCHED void kernels_rms_norm(const float *x, const float *w, float plus, size_t rows, size_t width, float epsilon,
                                 float *y) {
  FAST for (size_t i = 0; i < rows; i++, x += width, y += width) {
    float squares = 0;
    for (size_t j = 0; j < width; j++) squares += x[j] * x[j];
    const float factor = 1 / sqrtf(squares / (float)width + epsilon);
    IN_PLACE for (size_t j = 0; j < width; j++) y[j] = x[j] * factor * (w[j] + plus);
  }
}

DISPATCHED void kernels_rms_norm_gradient(const float *x, const float *w, float plus, const float *g, size_t rows,
                                          size_t width, float epsilon, float *dx) {
  FAST for (size_t i = 0; i < rows; i++, x += width, g += width, dx += width) {
    float squares = 0, product = 0;
    for (size_t j = 0; j < width; j++) {
      squares += x[j] * x[j];
      product += g[j] * (w[j] + plus) * x[j];
    }
    const float factor = 1 / sqrtf(squares / (float)width + epsilon);
    const float share = product * factor * factor / (float)width;
    for (size_t j = 0; j < width; j++) dx[j] += factor * (g[j] * (w[j] + plus) - x[j] * share);
  }
}

DISPATCHED void kernels_layer_norm(const float *x, const float *w, const float *b, size_t rows, size_t width,
                                   float epsilon, float *y) {
  FAST for (size_t i = 0; i < rows; i++, x += width, y += width) {
    float sum = 0, squares = 0;
    for (size_t j = 0; j < width; j++) sum += x[j];
    const float mean = sum / (float)width;
    for (size_t j = 0; j < width; j++) squares += (x[j] - mean) * (x[j] - mean);
    const float factor = 1 / sqrtf(squares / (float)width + epsilon);
    IN_PLACE for (size_t j = 0; j < width; j++) y[j] = (x[j] - mean) * factor * (w ? w[j] : 1) + (b ? b[j] : 0);
  }
}

DISPATCHED void kernels_layer_norm_gradient(const float *x, const float *w, const float *g, size_t rows, size_t width,
                                            float epsilon, float *dx) {
  FAST for (size_t i = 0; i < rows; i++, x += width, g += width, dx += width) {
    float sum = 0, squares = 0, total = 0, product = 0;
    for (size_t j = 0; j < width; j++) sum += x[j];
    const float mean = sum / (float)width;
    for (size_t j = 0; j < width; j++) {
      const float u = g[j] * (w ? w[j] : 1);
      squares += (x[j] - mean) * (x[j] - mean);
      total += u;
      product += u * (x[j] - mean);
    }
    const float factor = 1 / sqrtf(squares / (float)width + epsilon);
    const float first = total / (float)width, second = product * factor * factor / (float)width;
    for (size_t j = 0; j < width; j++)
      dx[j] += factor * (g[j] * (w ? w[j] : 1) - first - (x[j] - mean) * second);
  }
}

DISPATCHED void kernels_norm_parameters(int centred, const float *x, const float *g, size_t rows, size_t width,
                                        float epsilon, float *dw, float *db) {
  FAST for (size_t i = 0; i < rows; i++, x += width, g += width) {
    float sum = 0, squares = 0;
    if (centred)
      for (size_t j = 0; j < width; j++) sum += x[j];
    const float mean = sum / (float)width;
    for (size_t j = 0; j < width; j++) squares += (x[j] - mean) * (x[j] - mean);
    const float factor = 1 / sqrtf(squares / (float)width + epsilon);
    for (size_t j = 0; j < width; j++) dw[j] += g[j] * (x[j] - mean) * factor;
    if (db)
      for (size_t j = 0; j < width; j++) db[j] += g[j];
  }
}

DISPATCHED void kernels_rotate(float *x, size_t columns, size_t width, const float *cosines, const float *sines,
                               float sign) {
  FAST const size_t half = width / 2;
  for (size_t head = 0; head < columns; head += width)
    for (size_t i = 0; i < half; i++) {
      const float a = x[head + i], b = x[head + half + i], s = sign * sines[i];
      x[head + i] = a * cosines[i] - b * s;
      x[head + half + i] = b * cosines[i] + a * s;
    }
}

ELEMENT float sigmoid(float x) {
  const float e = exponential(x < 0 ? x : -x);
  return (x < 0 ? e : 1) / (1 + e);
}

ELEMENT float hyperbolic_tangent(float x) {
  const float e = exponential(x < 0 ? 2 * x : -2 * x), t = (1 - e) / (1 + e);
  return x < 0 ? -t : t;
}

enum { root_two_over_pi_bits = 0x3F4C422A };

ELEMENT float value_of(int kind, float x) {
  switch (kind) {
    case kernels_silu_function: return x * sigmoid(x);
    case kernels_tanh_gelu_function:
      return 0.5f * x * (1 + hyperbolic_tangent(float_of(root_two_over_pi_bits) * (x + 0.044715f * x * x * x)));
    case kernels_gelu_function: return 0.5f * x * (1 + erff(x * 0.70710678f));
    case kernels_tanh_function: return hyperbolic_tangent(x);
    case kernels_quick_gelu_function: return x * sigmoid(1.702f * x);
    default: return x > 0 ? x : 0;
  }
}

ELEMENT float slope_of(int kind, float x) {
  switch (kind) {
    case kernels_silu_function: {
      const float s = sigmoid(x);
      return s * (1 + x * (1 - s));
    }
    case kernels_tanh_gelu_function: {
      const float c = float_of(root_two_over_pi_bits), t = hyperbolic_tangent(c * (x + 0.044715f * x * x * x));
      return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * c * (1 + 0.134145f * x * x);
    }
    case kernels_gelu_function:
      return 0.5f * (1 + erff(x * 0.70710678f)) + x * 0.39894228f * exponential(-0.5f * x * x);
    case kernels_tanh_function: {
      const float t = hyperbolic_tangent(x);
      return 1 - t * t;
    }
    case kernels_quick_gelu_function: {
      const float s = sigmoid(1.702f * x);
      return s * (1 + 1.702f * x * (1 - s));
    }
    default: return x > 0 ? 1 : 0;
  }
}

// A loop of its own for each function: a switch inside would keep it from being vectorised, as erf does. `hint` stands before
// the others.
#define EACH(kind, hint, loop)                                                                       \
  switch (kind) {                                                                                    \
    case kernels_silu_function: { enum { k = kernels_silu_function }; hint loop } break;             \
    case kernels_tanh_gelu_function: { enum { k = kernels_tanh_gelu_function }; hint loop } break;   \
    case kernels_gelu_function: { enum { k = kernels_gelu_function }; loop } break;                  \
    case kernels_tanh_function: { enum { k = kernels_tanh_function }; hint loop } break;             \
    case kernels_quick_gelu_function: { enum { k = kernels_quick_gelu_function }; hint loop } break; \
    default: { enum { k = kernels_relu_function }; hint loop } break;                                \
  }

DISPATCHED void kernels_activate(int kind, const float *a, const float *b, float *out, size_t count) {
  FAST if (b) EACH(kind, IN_PLACE, for (size_t i = 0; i < count; i++) out[i] = value_of(k, a[i]) * b[i];)
  else EACH(kind, IN_PLACE, for (size_t i = 0; i < count; i++) out[i] = value_of(k, a[i]);)
}

DISPATCHED void kernels_activate_gradient(int kind, const float *g, float *a, float *b, size_t count) {
  FAST if (b) EACH(kind, , for (size_t i = 0; i < count; i++) {
    const float x = a[i];
    a[i] = g[i] * b[i] * slope_of(k, x);
    b[i] = g[i] * value_of(k, x);
  })
  else EACH(kind, , for (size_t i = 0; i < count; i++) a[i] = g[i] * slope_of(k, a[i]);)
}

// The greatest of a row, in lanes of their own: a comparison is no sum that the compiler may reorder.
ELEMENT float greatest_of(const float *x, size_t count) {
  float lanes[16], greatest = -INFINITY;
  for (int k = 0; k < 16; k++) lanes[k] = -INFINITY;
  size_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int k = 0; k < 16; k++) lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k];
  for (; i < count; i++) greatest = x[i] > greatest ? x[i] : greatest;
  for (int k = 0; k < 16; k++) greatest = lanes[k] > greatest ? lanes[k] : greatest;
  return greatest;
}

DISPATCHED void kernels_softmax(float *x, size_t count) {
  FAST const float greatest = greatest_of(x, count);
  float sum = 0;
  for (size_t i = 0; i < count; i++) {
    x[i] = exponential(x[i] - greatest);
    sum += x[i];
  }
  const float share = 1 / sum;
  for (size_t i = 0; i < count; i++) x[i] *= share;
}

DISPATCHED void kernels_softmax_gradient(const float *p, float *dp, float scale, size_t count) {
  FAST float sum = 0;
  for (size_t i = 0; i < count; i++) sum += p[i] * dp[i];
  for (size_t i = 0; i < count; i++) dp[i] = scale * p[i] * (dp[i] - sum);
}

DISPATCHED double kernels_cross_entropy(float *logits, size_t count, size_t target, float smoothing, float share) {
  FAST const float greatest = greatest_of(logits, count);
  double all = 0, total = 0;
  const float aimed = logits[target];
  // Partial sums of one stretch in f32, of all in f64.
  for (size_t start = 0; start < count; start += 1024) {
    const size_t end = start + 1024 < count ? start + 1024 : count;
    float sum = 0, plain = 0;
    if (smoothing > 0)
      for (size_t i = start; i < end; i++) plain += logits[i] - greatest;
    for (size_t i = start; i < end; i++) {
      logits[i] = exponential(logits[i] - greatest);
      sum += logits[i];
    }
    all += sum;
    total += plain;
  }
  const double normaliser = log(all);
  const float factor = (float)(share / all), even = smoothing / (float)count * share;
  for (size_t i = 0; i < count; i++) logits[i] = logits[i] * factor - even;
  logits[target] -= (1 - smoothing) * share;
  const double loss = normaliser - (aimed - greatest);
  return smoothing > 0 ? (1 - smoothing) * loss + smoothing * (normaliser - total / (double)count) : loss;
}

DISPATCHED void kernels_add(const float *x, float scale, float *y, size_t count) {
  FAST for (size_t i = 0; i < count; i++) y[i] += scale * x[i];
}

DISPATCHED double kernels_square_sum(const float *x, size_t count) {
  double lanes[8] = {0};
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int k = 0; k < 8; k++) lanes[k] += (double)x[i + k] * x[i + k];
  for (; i < count; i++) lanes[0] += (double)x[i] * x[i];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

DISPATCHED void kernels_adamw(const kernels_adamw_step *step, float *p, const float *g, float *m, float *v,
                              size_t count) {
  _Pragma("clang fp contract(off)") const kernels_adamw_step s = *step;
  for (size_t i = 0; i < count; i++) {
    const float kept = s.decay == 1 ? p[i] : p[i] * s.decay;
    m[i] = __builtin_fmaf(g[i] - m[i], s.first, m[i]);
    v[i] = __builtin_fmaf(s.second * g[i], g[i], s.kept * v[i]);
    p[i] = kept + (s.rate * m[i]) / (sqrtf(v[i]) / s.correction + s.epsilon);
  }
}
