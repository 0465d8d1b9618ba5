// Norms and scaling of rows and columns, for weight-decomposed adapters. Eight running sums, always added in the same
// order, so that the result does not depend on the vector width.
#include "dispatch.h"
#include "kernels.h"

DISPATCHED void kernels_row_square_sums(const float *w, size_t rows, size_t columns, double *sums) {
  for (size_t i = 0; i < rows; i++) {
    const float *row = w + i * columns;
    double lanes[8] = {0};
    size_t j = 0;
    for (; j + 8 <= columns; j += 8)
      for (int k = 0; k < 8; k++) lanes[k] += (double)row[j + k] * row[j + k];
    for (; j < columns; j++) lanes[0] += (double)row[j] * row[j];
    sums[i] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  }
}

DISPATCHED void kernels_add_column_square_sums(const float *w, size_t rows, size_t columns, double *sums) {
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) sums[j] += (double)w[i * columns + j] * w[i * columns + j];
}

DISPATCHED void kernels_scale_rows(float *w, size_t rows, size_t columns, const float *factors) {
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) w[i * columns + j] *= factors[i];
}

DISPATCHED void kernels_scale_columns(float *w, size_t rows, size_t columns, const float *factors) {
  for (size_t i = 0; i < rows; i++)
    for (size_t j = 0; j < columns; j++) w[i * columns + j] *= factors[j];
}
