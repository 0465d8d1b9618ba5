import Testing

@testable import TensorMath

/// Decompositions of small matrices.
struct DecompositionTests {
  @Test(arguments: [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1), (0, 3), (3, 0)])
  func aMatrixIsTheProductOfItsOrthonormalAndItsTriangularPart(rows: Int, columns: Int) throws {
    var generator = TorchGenerator(seed: 3)
    let values = (0..<rows * columns).map { _ in Double(generator.nextBits()) / 0x1p31 - 1 }
    let matrix = Matrix(rows: rows, columns: columns, values: values)
    let parts = try #require(Decompositions.orthogonalTriangular(matrix))
    let k = min(rows, columns)
    #expect(parts.q.columns == k && parts.r.rows == k)
    let product = parts.q.times(parts.r)
    #expect(zip(product.values, values).allSatisfy { abs($0 - $1) < 1e-14 })
    let gram = parts.q.times(parts.q, transposingSelf: true)
    for row in 0..<k {
      for column in 0..<k { #expect(abs(gram[row, column] - (row == column ? 1 : 0)) < 1e-14) }
      for column in 0..<min(row, columns) { #expect(parts.r[row, column] == 0) }
    }
  }

  @Test func aMatrixWithAnInfinityIsNotDecomposed() {
    let matrix = Matrix(rows: 2, columns: 1, values: [1, Double.infinity])
    #expect(Decompositions.orthogonalTriangular(matrix) == nil)
    #expect(Decompositions.singularValues(matrix) == nil)
  }
}
