internal import TensorFiles
internal import TensorMath

/// A rule whose change is a product of two factors of low rank, although a merge computes it in another way.
protocol FactoredRule: WeightRule {
  /// left `[out, r]` and right `[r, in]` with ΔW = left · right; nil where the stored form has no such factors.
  func changeFactors() throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>)?
}
