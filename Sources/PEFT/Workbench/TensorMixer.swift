internal import Glibc
internal import TensorMath

/// Mixes tensors that are too large to be held: in blocks, with as many passes over them as the rule needs.
///
/// Precision: sums in f64, rounded once to f32; what chooses elements by magnitude goes by changes in f32.
/// Memory: some hundred KiB for each tensor, and a row where a rule ranks or measures rows.
struct TensorMixer {
  /// Fills the slots of a block with those elements.
  typealias Reader = (_ elements: Range<Int>, _ block: inout MixingBlock) throws -> Void
  /// Takes the result of a block that begins with that element.
  typealias Writer = (_ block: MixingBlock, _ first: Int) throws -> Void

  let mix: TensorMix
  /// Tensors, the base aside.
  let inputs: Int
  let hasBase: Bool
  let shape: [Int]
  /// Elements of a block: so many that all slots of a usual mix stay in a second-level cache.
  var blockElements = 1 << 15

  var count: Int { shape.reduce(1, *) }

  /// - Parameter generator: where the rule's draws begin.
  /// Throws what `read` and `write` throw.
  func run(generator: TorchGenerator = TorchGenerator(seed: 0), read: Reader, write: Writer) throws {
    guard count > 0 else { return }
    switch mix {
    case .sum(let factors):
      try forEachBlock(read: read) { block, first in
        block.sum(factors)
        try write(block, first)
      }
    case .slerp(let t): try mixVectors(.whole, isRaw: true, Self.slerp(t), read, write)
    case .nuslerp(let t, let vectors): try mixVectors(vectors, isRaw: false, Self.nuslerp(t), read, write)
    case .stock(let vectors): try mixVectors(vectors, isRaw: false, Self.stock(inputs), read, write)
    case .changes(let rule): try mixChanges(rule, generator, read, write)
    }
  }

  /// Calls `body` for blocks of whole units, in memory's order.
  func forEachBlock(
    unit: Int = 1, read: Reader, _ body: (inout MixingBlock, _ first: Int) throws -> Void
  ) throws {
    let step = max(unit, blockElements / unit * unit)
    var block = MixingBlock(inputs: inputs, hasBase: hasBase, capacity: min(step, count))
    for first in stride(from: 0, to: count, by: step) {
      block.count = min(step, count - first)
      try read(first..<first + block.count, &block)
      try body(&block, first)
    }
  }

  // MARK: Rules of vectors

  /// The products of all pairs of a vector's changes, and what they make of the factors.
  private typealias Factors = (_ product: (Int, Int) -> Double) -> [Double]

  private func mixVectors(
    _ vectors: TensorMix.Vectors, isRaw: Bool, _ factors: Factors, _ read: Reader, _ write: Writer
  ) throws {
    func base(_ factors: [Double]) -> Double { hasBase && !isRaw ? 1 - factors.reduce(0, +) : 0 }
    let pairs = (0..<inputs).flatMap { one in (one..<inputs).map { (one, $0) } }
    func table(_ sums: [Double]) -> (Int, Int) -> Double {
      { one, two in sums[pairs.firstIndex { $0 == (min(one, two), max(one, two)) } ?? 0] }
    }
    switch vectors {
    case .rows where shape.count > 1:
      let width = shape[shape.count - 1]
      try forEachBlock(unit: width, read: read) { block, first in
        for start in stride(from: 0, to: block.count, by: width) {
          let row = start..<start + width
          let factors = factors(table(pairs.map { block.product($0.0, $0.1, over: row, raw: isRaw) }))
          block.sum(factors, base: base(factors), over: row)
        }
        try write(block, first)
      }
    case .columns where shape.count > 1:
      let columns = count / shape[0]
      var sums = pairs.map { _ in [Double](repeating: 0, count: columns) }
      try forEachBlock(read: read) { block, first in
        for (index, pair) in pairs.enumerated() { block.addProducts(pair.0, pair.1, to: &sums[index], first: first) }
      }
      let found = (0..<columns).map { column in factors(table(sums.map { $0[column] })) }
      let byInput = (0..<inputs).map { input in found.map { $0[input] } }
      try forEachBlock(read: read) { block, first in
        block.sum(byInput, base: hasBase ? found.map(base) : nil, first: first)
        try write(block, first)
      }
    default:
      var sums = pairs.map { _ in 0.0 }
      try forEachBlock(read: read) { block, _ in
        for (index, pair) in pairs.enumerated() { sums[index] += block.product(pair.0, pair.1, raw: isRaw) }
      }
      let factors = factors(table(sums))
      try forEachBlock(read: read) { block, first in
        block.sum(factors, base: base(factors))
        try write(block, first)
      }
    }
  }

  /// Vectors whose angle has a greater cosine are mixed on a straight line. Source: mergekit `slerp`.
  private static func slerp(_ t: Double) -> Factors {
    { product in
      let lengths = [product(0, 0), product(1, 1)].map { $0.squareRoot() > 1e-8 ? $0.squareRoot() : 1 }
      let cosine = min(1, max(-1, product(0, 1) / lengths[0] / lengths[1]))
      return abs(cosine) > 0.9995 ? [1 - t, t] : arc(cosine, t)
    }
  }

  /// As mergekit's `nuslerp`: straight only where f32 cannot tell the directions apart.
  private static func nuslerp(_ t: Double) -> Factors {
    { product in
      let lengths = [product(0, 0), product(1, 1)].map { max($0.squareRoot(), 1e-7) }
      let cosine = min(1, max(-1, product(0, 1) / lengths[0] / lengths[1]))
      let narrow = Float(cosine)
      return 1 - narrow * narrow <= 1e-16 ? [1 - t, t] : arc(cosine, t)
    }
  }

  private static func arc(_ cosine: Double, _ t: Double) -> [Double] {
    let angle = acos(cosine)
    let sine = sin(angle)
    return [sin((1 - t) * angle) / sine, sin(t * angle) / sine]
  }

  /// Source: mergekit `model_stock`; the paper's equation for the ratio.
  private static func stock(_ inputs: Int) -> Factors {
    { product in
      var cosines: [Double] = []
      for one in 0..<inputs {
        for two in one + 1..<max(inputs, one + 1) {
          let lengths = max((product(one, one) * product(two, two)).squareRoot(), 1e-6)
          cosines.append(min(1, max(-1, product(one, two) / lengths)))
        }
      }
      let cosine = cosines.reduce(0, +) / Double(max(1, cosines.count))
      let denominator = 1 + Double(inputs - 1) * cosine
      let ratio = abs(denominator) < 1e-6 ? 0 : Double(inputs) * cosine / denominator
      return [Double](repeating: ratio / Double(inputs), count: inputs)
    }
  }
}
