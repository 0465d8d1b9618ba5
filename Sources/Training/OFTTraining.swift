internal import LanguageModels
internal import Numerics
internal import PEFT
internal import TensorFiles

/// OFT in training: y = base(x·R), R of blocks that rotate, made of skew-symmetric Q by a cut Neumann series of the Cayley transform.
///
/// R = I + 2Q + … + 2Qⁿ⁻¹ + Qⁿ, n one less than the terms. Gradients: u = gW: dx = u·Rᵀ, dR = Σ xᵀu, dQ of the series term by term,
/// and of an entry above the diagonal the difference of dQ's two. In f64 within a block.
/// Source: peft/tuners/oft/layer.py `OFTRotationModule.forward`, `_cayley_batch`.
final class OFTTraining: LinearAdapter {
  private struct Pass: Kept {
    let rotated: [LentMatrix]
  }

  private let entries: TrainedParameter
  private let size: Int
  private let terms: Int

  init(entries: TrainedParameter, size: Int, terms: Int) {
    (self.entries, self.size, self.terms) = (entries, size, terms)
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let blocks = rotations(pass.workspace)
    let rotated = turned(x, blocks, transposed: false, pass)
    return (layer(rotated, in: pass.workspace), Pass(rotated: blocks))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    let slope = layer.inputGradient(g, in: pass.workspace)
    let count = kept.rotated.count
    var gradients = [[Double]](repeating: [Double](repeating: 0, count: size * size), count: count)
    for block in 0..<input.columns / size {
      let range = block * size..<(block + 1) * size
      let part = pass.workspace.matrix(size, size)
      part.setProduct(
        input.columns(range, in: pass.workspace), transposingFirst: true, slope.columns(range, in: pass.workspace))
      for (index, value) in part.values.enumerated() { gradients[block % count][index] += Double(value) }
    }
    for block in 0..<count {
      let matrix = SkewSeries(skew(block), size: size).gradient(gradients[block], terms: terms)
      var next = 0
      for row in 0..<size {
        for column in (row + 1)..<max(size, row + 1) {
          entries.gradient[block, next] += Float(matrix[row * size + column] - matrix[column * size + row])
          next += 1
        }
      }
    }
    return wantsInput ? turned(slope, kept.rotated, transposed: true, pass) : nil
  }

  /// The entries above the diagonal, row after row.
  private func skew(_ block: Int) -> [Double] {
    (0..<entries.value.columns).map { Double(entries.value[block, $0]) }
  }

  private func rotations(_ workspace: Workspace) -> [LentMatrix] {
    (0..<entries.value.rows).map { block in
      let matrix = workspace.matrix(size, size)
      matrix.copy(SkewSeries(skew(block), size: size).sum(terms: terms).map { Float($0) })
      return matrix
    }
  }

  /// Each stretch of `size` columns times its block; one block serves all if there is only one.
  private func turned(_ x: LentMatrix, _ blocks: [LentMatrix], transposed: Bool, _ pass: TrainingPass) -> LentMatrix {
    let result = pass.workspace.matrix(x.rows, x.columns)
    for block in 0..<x.columns / size {
      let part = pass.workspace.matrix(x.rows, size)
      part.setProduct(
        x.columns(block * size..<(block + 1) * size, in: pass.workspace), blocks[block % blocks.count],
        transposingSecond: transposed)
      result.setColumns(from: block * size, part)
    }
    return result
  }
}

/// The series I + 2Q + … + 2Qⁿ⁻¹ + Qⁿ of a skew-symmetric Q, and its gradient.
struct SkewSeries {
  private let q: [Double]
  private let size: Int

  /// - Parameter upper: the entries above the diagonal, row after row.
  init(_ upper: [Double], size: Int) {
    var (q, next) = ([Double](repeating: 0, count: size * size), 0)
    for row in 0..<size {
      for column in (row + 1)..<max(size, row + 1) {
        (q[row * size + column], q[column * size + row]) = (upper[next], -upper[next])
        next += 1
      }
    }
    (self.q, self.size) = (q, size)
  }

  /// Factors of Q, Q², … Source: `_cayley_batch`, whose last power is added once.
  private func factors(_ terms: Int) -> [Double] {
    guard terms > 1 else { return [] }
    guard terms > 2 else { return [2] }
    let last = max(3, terms - 1)
    return (1...last).map { $0 == last ? 1 : 2 }
  }

  func sum(terms: Int) -> [Double] {
    var (result, power) = (identity, identity)
    for factor in factors(terms) {
      power = product(power, q)
      for index in result.indices { result[index] += factor * power[index] }
    }
    return result
  }

  /// The gradient of Q, all of its entries taken as free, for the gradient of the sum.
  func gradient(_ g: [Double], terms: Int) -> [Double] {
    let factors = factors(terms)
    var powers = [identity]
    for _ in factors { powers.append(product(powers[powers.count - 1], q)) }
    var result = [Double](repeating: 0, count: size * size)
    for (index, factor) in factors.enumerated() {
      // Qⁿ with n = index + 1: Σ over j of (Qʲ)ᵀ g (Qⁿ⁻¹⁻ʲ)ᵀ.
      for j in 0...index {
        let part = product(product(transposed(powers[j]), g), transposed(powers[index - j]))
        for place in result.indices { result[place] += factor * part[place] }
      }
    }
    return result
  }

  private var identity: [Double] { (0..<size * size).map { $0 / size == $0 % size ? 1 : 0 } }

  private func transposed(_ a: [Double]) -> [Double] { (0..<size * size).map { a[$0 % size * size + $0 / size] } }

  private func product(_ a: [Double], _ b: [Double]) -> [Double] {
    var result = [Double](repeating: 0, count: size * size)
    for row in 0..<size {
      for inner in 0..<size {
        let factor = a[row * size + inner]
        for column in 0..<size { result[row * size + column] += factor * b[inner * size + column] }
      }
    }
    return result
  }
}

extension TrainedMethod {
  static let oft = TrainedMethod(
    type: "OFT",
    module: { reader, path throws(ModelError) in
      let name = "\(AdapterReader.stem(path)).oft_R.weight"
      guard reader.holds(name), let layer = reader.linears[path], !layer.isTransposed else { return }
      let count = reader.shape(name).last ?? 0
      let size = Int((1 + Double(1 + 8 * count).squareRoot()) / 2)
      guard size > 1, size * (size - 1) / 2 == count, layer.inFeatures % size == 0 else {
        throw .unsupported(what: "training '\(name)'", reason: "its blocks do not divide the layer's inputs.")
      }
      let shared = reader.shape(name).first == 1
      try reader.train(name, [shared ? 1 : layer.inFeatures / size, count])
      let terms = try reader.integer("num_cayley_neumann_terms", 0...64)
      reader.make {
        $1.linears[path] = OFTTraining(entries: $0.parameter(name), size: size, terms: terms)
      }
    },
    whole: { reader throws(ModelError) in
      if try reader.number("module_dropout") != 0 {
        throw .unsupported(what: "training with module_dropout", reason: "only 0 is trained here.")
      }
      guard !reader.flag("coft"), reader.flag("use_cayley_neumann") else {
        throw .unsupported(
          what: "training OFT with coft, or without use_cayley_neumann", reason: "only the free series is trained here."
        )
      }
    })
}
