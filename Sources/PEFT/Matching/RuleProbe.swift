internal import TensorFiles
internal import TensorMath

/// What the probes of an adapter's modules share.
final class ProbeBudget {
  let patterns = PatternCache()
  /// Elements of weights that may be probed: those of a large model, for vectors that say so much of its weights.
  private var left: Int

  init(_ file: SafetensorsFile) {
    left = (1 << 30) + 1000 * min(file.entries.reduce(0) { $0 + $1.byteRange.count }, 1 << 40)
  }

  /// False if so many elements are too many.
  func spend(_ count: Int) -> Bool {
    guard count <= left else { return false }
    left -= count
    return true
  }
}

/// What a method's rule does to a weight that is not at hand.
///
/// The rule is the one that a merge applies; it is applied to zeros where it adds something, and else to numbers that
/// nothing but the identity leaves as they are.
struct RuleProbe {
  /// ‖ΔW‖, where it does not depend on the weight and the weight's shape is known.
  var norm: Double?
  /// Elements of ΔW, where the norm is known.
  private(set) var elementCount: Double?
  /// What the probe was made of, where the norm is known.
  private var known: (rule: any WeightRule, shape: WeightShape)?
  /// True if it changes nothing, false if it changes something; nil where only the weight can tell.
  var isIdentity: Bool?

  /// Tries the rule of one module. Both answers are nil for a weight with more elements than are probed.
  ///
  /// - Parameter budget: what the probes of all modules spend from.
  /// - Parameter readsValues: false to make the rule only, which checks names and shapes.
  /// Cost: as a merge of the module; memory: a block of rows, or a weight where the rule needs all of it.
  /// Throws what the rule's making throws, `.tensorMissing` where tensors do not fit together, `.file`.
  init(
    _ part: Adapter.MethodPart, shared: [ExactName: TensorEntry], config: PeftConfig, configPath: String,
    file: SafetensorsFile, budget: ProbeBudget, readsValues: Bool = true
  ) throws(AdapterError) {
    guard let method = AdapterMethod.named(config.peftType), case .rule(let makeRule) = method.merging else { return }
    switch method.storedShape(StoredModule(config: config, path: part.path, tensors: part.tensors, shared: shared)) {
    case .dependsOnWeight: return
    case .linear:
      guard readsValues else { return }
      isIdentity = try Self.isZero(part, file)
    case .known(let shape, let isWhole):
      guard let count = checkedProduct(shape.output, shape.input), count > 0 else { return }
      let rule = try makeRule(
        MethodModule(
          config: config, configPath: configPath, file: file.file, path: part.path, tensors: part.tensors,
          shared: shared,
          shape: shape, moduleCount: 1, siblings: nil, largest: (shape.output, shape.input),
          patterns: budget.patterns, draws: SharedDraws()))
      guard readsValues, count <= Self.elementLimit(rule), budget.spend(count) else { return }
      let squares = try asAdapterError { () throws(TensorFileError) in try Self.changeSquares(rule, shape) }
      isIdentity = squares.change <= squares.weight * 0x1p-40
      if rule.isAdditive, rule.changesWeight, isWhole {
        norm = squares.change.squareRoot()
        elementCount = Double(count)
        known = (rule, shape)
      }
      if !squares.change.isFinite { isIdentity = nil }
    }
  }

  /// ΔW, where the norm is known. Nil too where it has no factors and is larger than is held whole, or its lesser extent is over
  /// `greatestExtent`. Throws `.file`.
  func delta(greatestExtent: Int = .max) throws(AdapterError) -> ModuleDelta? {
    guard let (rule, shape) = known else { return nil }
    return try asAdapterError { () throws(TensorFileError) in
      if let rule = rule as? any LowRankRule {
        let (left, right) = try rule.factors(Double.self)
        return ModuleDelta(blocks: [.product(left: left, right: right)])
      }
      guard shape.output * shape.input <= ModuleDelta.greatestDense, min(shape.output, shape.input) <= greatestExtent
      else {
        return nil
      }
      var values: [Double] = []
      values.reserveCapacity(shape.output * shape.input)
      try Self.eachBlock(rule, shape) { values += $1.values }
      return ModuleDelta(
        blocks: [.dense(Matrix(rows: shape.output, columns: shape.input, values: values))])
    }
  }

  /// Elements of a weight that is probed: small factors can stand for one that takes hours, or no memory holds.
  private static func elementLimit(_ rule: any WeightRule) -> Int {
    rule.needsWholeWeight || rule.changesBias ? 1 << 25 : 1 << 27
  }

  private static func isZero(_ part: Adapter.MethodPart, _ file: SafetensorsFile) throws(AdapterError) -> Bool {
    for (role, entry) in part.tensors where entry.dtype.isComputable && role != "supertuning_lora_A.weight" {
      let scan = try asAdapterError { () throws(TensorFileError) in try ValueScan(file.file, entry) }
      if !scan.isZero { return false }
    }
    return true
  }

  private static func changeSquares(
    _ rule: any WeightRule, _ shape: WeightShape
  ) throws(TensorFileError) -> (change: Double, weight: Double) {
    var (change, weight) = (0.0, 0.0)
    func add(_ before: [Double], _ after: [Double]) {
      for (old, new) in zip(before, after) {
        change += (new - old) * (new - old)
        weight += old * old
      }
    }
    if rule.changesWeight {
      try eachBlock(rule, shape) { before, after in add(before, after.values) }
    }
    if rule.changesBias {
      let values = (0..<shape.output).map { probe($0) }
      add(
        values,
        try rule.changedBias(values) {
          Matrix(rows: shape.output, columns: shape.input, values: (0..<shape.output * shape.input).map(probe))
        })
    }
    if let added = rule.addedBias {
      let values = try added.values(Double.self)
      add([Double](repeating: 0, count: values.count), values)
    }
    return (change, weight)
  }

  /// What the rule makes of zeros, where it adds something, and of numbers without a pattern, a block of rows at a time.
  private static func eachBlock(
    _ rule: any WeightRule, _ shape: WeightShape, _ body: (_ before: [Double], _ after: Matrix<Double>) -> Void
  ) throws(TensorFileError) {
    let apply = try rule.makeChange(scale: 1.0)
    let step = rule.needsWholeWeight ? shape.output : max(LowRankUpdate.rowGroup, 1 << 16 / max(1, shape.input))
    for first in stride(from: 0, to: shape.output, by: step) {
      let rows = first..<min(first + step, shape.output)
      let values = (0..<rows.count * shape.input).map { rule.isAdditive ? 0 : probe($0 + first * shape.input) }
      var block = Matrix<Double>(rows: rows.count, columns: shape.input, values: values)
      try apply(rows, &block)
      body(values, block)
    }
  }

  /// Numbers from -1 to 1 without a pattern.
  private static func probe(_ index: Int) -> Double {
    var word = UInt64(truncatingIfNeeded: index) &* 0x9E37_79B9_7F4A_7C15
    word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
    return Double(Int64(bitPattern: word ^ (word >> 27)) >> 11) * 0x1p-52
  }
}
