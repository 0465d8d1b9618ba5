internal import TensorFiles
internal import TensorMath

/// A LoRA of what training in full did to a model: of each weight's change the best approximation of some rank.
///
/// alpha = rank, so that B·A is the change itself; the factors are in f32. Weights that did not change are left out. What has no factors
/// (embeddings, heads, norms, biases) is stored in full where the options ask for it, and otherwise reported as not carried.
public struct AdapterExtraction: Sendable {
  /// What is stored in full where it differs.
  public struct Options: Sendable {
    /// Embeddings, heads, and what a larger vocabulary adds to them: as `modules_to_save`.
    public var savesEmbeddings = false
    /// Norms: as `modules_to_save`.
    public var savesNorms = false
    /// Biases: with `bias` "all".
    public var savesBiases = false

    public init() {}

    func saves(_ kind: ExtractionReport.Other.Kind) -> Bool {
      switch kind {
      case .embedding, .head: savesEmbeddings
      case .norm: savesNorms
      case .bias: savesBiases
      case .rounding, .other: false
      }
    }
  }

  private let pair: ModelPair
  private let rule: RankRule
  private let options: Options
  private let modules: [ExtractedModule]
  private let others: [ModelPair.Tensor]

  /// - Parameters:
  ///   - base: the model that the adapter is to be put on: a directory, an index or a file.
  ///   - tuned: the model that was trained from it.
  /// Throws `.notPossible` for models that are not of one kind, quantized ones, and tensors or shapes that differ beyond a vocabulary;
  /// `.baseDType`, `.ambiguous`, `.file`.
  public init(base: String, tuned: String, rule: RankRule, options: Options = Options()) throws(AdapterError) {
    let pair = try ModelPair(base: base, tuned: tuned)
    (self.pair, self.rule, self.options) = (pair, rule, options)
    var modules: [ExtractedModule] = []
    var parameters: [String] = []
    var others: [ModelPair.Tensor] = []
    for tensor in pair.tensors {
      switch tensor.role {
      case .weight(let module):
        guard let before = tensor.before else { continue }
        modules.append(ExtractedModule(module, before, tensor.after))
      case .expert(let parameter):
        if !parameters.containsExactly(parameter) { parameters.append(parameter) }
      default: others.append(tensor)
      }
    }
    let (old, new) = (NameResolver(pair.base), NameResolver(pair.tuned))
    for path in parameters {
      guard let before = try ExpertParameter(path: path, base: pair.base, resolver: old),
        let after = try ExpertParameter(path: path, base: pair.tuned, resolver: new),
        let module = ExtractedModule(before, after, in: pair)
      else {
        throw .notPossible(
          path: tuned, what: "extracting the change of the experts '\(path)'",
          reason: "their matrices do not belong together, or the two models hold them in different forms.")
      }
      modules.append(module)
    }
    (self.modules, self.others) = (modules, others)
  }

  /// What became of a module or a tensor.
  private enum Found: Sendable {
    case module(Int, [ExtractedModule.Factors])
    case other(Int, squares: Double)
    case nothing
  }

  /// Writes the adapter. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - replacing: whether something that is already at `output` goes.
  ///   - workers: weights that are decomposed at once.
  /// Memory: the factors, and for each of `workers` the change of a weight in f32. Throws `.notPossible` where nothing differs that an
  /// adapter can hold and for values that are not finite, `.file`.
  public func write(
    to output: String, replacing: Bool = false, workers: Int = 2
  ) async throws -> ExtractionReport {
    let inputs = [pair.base.path, pair.tuned.path]
    try asAdapterError { () throws(TensorFileError) in
      try OutputDirectory.check(target: output, replacing: replacing, inputs: inputs)
    }
    let found = try await decompose(workers: max(1, workers))
    let result = try ExtractedAdapter(pair, modules, others, found.factors, found.squares, options)
    try StoredAdapter.write(
      result.config, result.items, to: output, replacing: replacing, inputs: inputs
    ) { sink throws(AdapterError) in try result.fill(sink) }
    return result.report
  }

  /// The factors of each module that changed, by its place, and the squares of the change of each other tensor.
  private func decompose(
    workers: Int
  ) async throws -> (factors: [Int: [ExtractedModule.Factors]], squares: [Int: Double]) {
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    // The largest come first, so that no worker is left with one of them at the end.
    let sizes = modules.map { $0.rows * $0.columns * $0.experts.count } + others.map { $0.after.entry.elementCount }
    let order = sizes.indices.sorted { (sizes[$1], $0) < (sizes[$0], $1) }
    let job = WorkQueue<Int, Int>.Job(target: 0, pieces: order)
    return try await withThrowingTaskGroup(of: [Found].self) { group in
      for _ in 0..<workers {
        group.addTask {
          var all: [Found] = []
          var difference = WeightDifference(rows: 0, columns: 0)
          while let place = job.takePiece() {
            try Task.checkCancellation()
            all.append(try find(place, in: &difference))
          }
          return all
        }
      }
      var factors: [Int: [ExtractedModule.Factors]] = [:]
      var squares: [Int: Double] = [:]
      for try await part in group {
        for found in part {
          switch found {
          case .module(let index, let found): factors[index] = found
          case .other(let index, let sum): squares[index] = sum
          case .nothing: continue
          }
        }
      }
      return (factors, squares)
    }
  }

  private func find(_ place: Int, in difference: inout WeightDifference) throws(AdapterError) -> Found {
    guard place < modules.count else {
      let index = place - modules.count
      let sum = try others[index].changeSquares()
      return sum > 0 ? .other(index, squares: sum) : .nothing
    }
    let module = modules[place]
    var all: [ExtractedModule.Factors?] = []
    for expert in module.experts.indices {
      all.append(try module.factors(expert: expert, rule: rule, in: &difference))
    }
    guard all.contains(where: { $0 != nil }) else { return .nothing }
    // All experts of a parameter have one rank: the greatest that one of them needs.
    let rank = all.compactMap { $0?.values.count }.max() ?? 0
    if !rule.isFixed, module.experts.count > 1 {
      for expert in all.indices where rank > 0 && all[expert] != nil && all[expert]?.values.count != rank {
        all[expert] = try module.factors(expert: expert, rule: RankRule(.fixed(rank)), in: &difference)
      }
    }
    let (output, input) = (module.shapeB(rank: 1)[0], module.isTransposed ? module.rows : module.columns)
    return .module(
      place,
      all.map {
        $0 ?? .init(b: Matrix(rows: output, columns: 0), a: Matrix(rows: 0, columns: input))
      })
  }
}

extension ModelPair.Tensor {
  /// The squares of the change, summed; of rows that only one side has those of their values. Memory: a stretch.
  ///
  /// Throws `.file`, `.notPossible` for values that are not finite.
  fileprivate func changeSquares() throws(AdapterError) -> Double {
    guard let format = after.entry.dtype.format, before == nil || before?.entry.dtype.format != nil else {
      guard let before else { return 0 }
      // Of integers nothing but that they differ is worth a number.
      let isSame = try asAdapterError { () throws(TensorFileError) in
        try after.file.holdsSameBytes(after.entry.byteRange, before.entry.byteRange, of: before.file)
      }
      return isSame ? 0 : .leastNonzeroMagnitude
    }
    let common = before.map { min($0.entry.elementCount, after.entry.elementCount) } ?? 0
    var sum = 0.0
    try asAdapterError { () throws(TensorFileError) in
      var (new, old): ([UInt8], [UInt8]) = ([], [])
      let longer = before.map { $0.entry.elementCount > after.entry.elementCount ? $0 : after } ?? after
      for start in stride(from: 0, to: longer.entry.elementCount, by: ModelPair.stretch) {
        let end = min(start + ModelPair.stretch, longer.entry.elementCount)
        let shared = start..<max(start, min(end, common))
        if !shared.isEmpty, let before, let oldFormat = before.entry.dtype.format {
          try after.read(shared, format, into: &new)
          try before.read(shared, oldFormat, into: &old)
          if format != oldFormat || new != old {
            var difference = WeightDifference(rows: 1, columns: shared.count)
            difference.setRows(from: 0, after: new.span.bytes, format, before: old.span.bytes, oldFormat)
            sum += difference.squares
          }
        }
        if shared.upperBound < end, let format = longer.entry.dtype.format {
          try longer.read(shared.upperBound..<end, format, into: &new)
          sum += Double.decoded(new, format).reduce(0) { $0 + $1 * $1 }
        }
      }
    }
    guard sum.isFinite else {
      throw .notPossible(
        path: after.file.path, what: "extracting the change of '\(name)'",
        reason: "it holds values that are infinite or not a number.")
    }
    return sum
  }
}
