/// The product of sizes that a file or a configuration states; nil if it does not fit an Int, or a size is below zero.
///
/// The one way to multiply what nothing else has bounded. The extents of a `TensorEntry` are: its reader multiplied them.
package func checkedProduct(_ sizes: some Sequence<Int>) -> Int? {
  var product = 1
  var isZero = false
  for size in sizes {
    if size < 0 { return nil }
    // A size of zero hides no product that does not fit.
    if size == 0 {
      isZero = true
      continue
    }
    let (next, overflows) = product.multipliedReportingOverflow(by: size)
    if overflows { return nil }
    product = next
  }
  return isZero ? 0 : product
}

/// As for a sequence; nil if a size is not known.
package func checkedProduct(_ sizes: Int?...) -> Int? {
  sizes.contains(nil) ? nil : checkedProduct(sizes.lazy.compactMap { $0 })
}
