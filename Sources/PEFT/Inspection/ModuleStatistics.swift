internal import Glibc
internal import TensorFiles
internal import TensorMath

/// What the values of an adapter's modules say.
public struct ModuleStatistics: Sendable {
  /// Whether a module does something.
  public enum Health: String, Sendable {
    case ok
    /// It changes nothing yet: what a method starts from.
    case untrained
    case notFinite = "not finite"
    /// Only the base can tell, or nothing: the method is not merged.
    case unknown = "–"
  }

  /// One module, or one tensor that is stored in full.
  public struct Row: Sendable {
    public let path: String
    /// ‖ΔW‖ in the Frobenius norm, ΔW = W' - W being what a merge changes; nil where the adapter alone does not determine
    /// it, or where there is none.
    public fileprivate(set) var norm: Double?
    /// ‖ΔW‖/‖W‖; nil without a base.
    public fileprivate(set) var relativeNorm: Double?
    /// Elements of ΔW; nil where the norm is.
    public fileprivate(set) var elementCount: Double?
    /// Singular values, falling: of a LoRA those of s·B·A, all experts' together; of another method those of ΔW.
    ///
    /// Empty where ΔW is not determined, and where it has no factors and a lesser extent over 1024.
    public fileprivate(set) var singularValues: [Double]
    /// exp of the entropy of the singular values' shares: the number of directions that matter.
    ///
    /// Source: Roy and Vetterli, The effective rank, 2007.
    public fileprivate(set) var effectiveRank: Double
    public fileprivate(set) var health: Health
  }

  public let rows: [Row]
  /// True if the norms were taken with the base's weights.
  public let hasBase: Bool

  /// Reads all values of an adapter.
  ///
  /// With a base, norms are those of what the merge's own work would write, without the rounding to a half format. Without
  /// one, a ΔW that is a product of factors is not formed: its singular values are those of an r × r matrix made of the factors'
  /// triangles; a method that adds something independent of W is applied to zeros.
  /// Precision: f64. Cost: one pass over the file; O(r²·(in + out)) a module, with a base that of a merge; `workers` modules
  /// are held at once. What has no factors is held whole, up to 2²⁶ elements.
  /// Throws as `AdapterSummary.init`, `.file`; with a base what `MergePlan.init` throws.
  public init(
    directory: String, base: String? = nil, options: MergeOptions = MergeOptions(), workers: Int = 2
  ) async throws {
    let config = try PeftConfig.load(directory: directory)
    let file = try Adapter.openWeights(directory)
    let configPath = FileSystem.join(directory, PeftConfig.fileName)
    hasBase = base != nil
    var rows: [Row]
    if let method = AdapterMethod.named(config.peftType) {
      rows = try Self.rows(method, file, config, configPath)
    } else {
      rows = try await Self.loraRows(file, config, configPath, workers: workers)
    }
    if let base {
      var options = options
      options.allowRepeated = true
      let match = try AdapterMatch(base: base, adapters: [MergePlan.Input(directory)], options: options)
      rows = Self.joined(rows, try await match.moduleChanges(workers: workers), isLoRA: config.peftType == .lora)
      try await Self.addSpectra(of: match, to: &rows, workers: workers)
    }
    self.rows = rows.sorted { naturallyPrecedes($0.path, $1.path) }
  }

  /// The rows with what the base tells of them.
  private static func joined(_ rows: [Row], _ changes: [ModuleChange], isLoRA: Bool) -> [Row] {
    let known = Dictionary(rows.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    return changes.map { change in
      var row =
        known[change.path]
        ?? Row(
          path: change.path, norm: nil, elementCount: nil, singularValues: [], effectiveRank: 0, health: .unknown)
      guard let squares = change.changeSquares else { return row }
      row.norm = squares.squareRoot()
      row.elementCount = change.elementCount
      row.relativeNorm = change.weightSquares > 0 ? (squares / change.weightSquares).squareRoot() : nil
      // Started as parts of the weight, f32 tensors give it back but for their rounding; a bare LoRA of zeros leaves DoRA's
      // magnitudes, which are rounded as the weight is.
      var slack = change.isAdditive ? 0 : 0x1p-16
      if isLoRA, !change.isAdditive, row.singularValues.first == 0 {
        slack = change.dtype.format?.roundingStep ?? slack
      }
      row.health =
        !squares.isFinite
        ? .notFinite
        : squares <= slack * slack * change.weightSquares ? .untrained : row.health == .notFinite ? .notFinite : .ok
      return row
    }
  }

  /// Gives rows that have none the singular values of what the match changes.
  private static func addSpectra(of match: AdapterMatch, to rows: inout [Row], workers: Int) async throws {
    let wanted = rows.indices.filter { rows[$0].singularValues.isEmpty && rows[$0].health == .ok }
    guard !wanted.isEmpty else { return }
    let places = match.deltaPlaces()
    let paths = wanted.map { rows[$0].path }
    let found = try await withThrowingTaskGroup(of: [(Int, [Double])].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: paths.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            let delta = try match.delta(
              at: places[ExactName(paths[index])] ?? [], greatestExtent: ModuleDelta.greatestExtent)
            return (wanted[index], delta?.spectrum()?.values ?? [])
          }
        }
      }
      var all: [(Int, [Double])] = []
      for try await part in group { all += part }
      return all
    }
    for (index, values) in found {
      rows[index].singularValues = values
      rows[index].effectiveRank = effectiveRank(values)
    }
  }

  // MARK: LoRA

  private static func loraRows(
    _ file: SafetensorsFile, _ config: PeftConfig, _ configPath: String, workers: Int
  ) async throws -> [Row] {
    let products = try StoredProduct.all(file, config, configPath)
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    return try await withThrowingTaskGroup(of: [Row].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: products.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            return try Self.row(products[index])
          }
        }
      }
      var all: [Row] = []
      for try await part in group { all += part }
      return all
    }
  }

  private static func row(_ product: StoredProduct) throws(AdapterError) -> Row {
    let delta = try product.delta()
    let found = delta.spectrum()
    let norm = found?.squares.squareRoot()
    let values = found?.values ?? []
    return Row(
      path: product.path, norm: product.isDetermined ? norm : nil, elementCount: delta.elementCount,
      singularValues: values, effectiveRank: effectiveRank(values),
      health: norm.map { $0 == 0 ? .untrained : product.isDetermined ? .ok : .unknown } ?? .notFinite)
  }

  private static func effectiveRank(_ values: [Double]) -> Double {
    let sum = values.reduce(0, +)
    guard sum > 0, sum.isFinite else { return 0 }
    return exp(
      -values.reduce(0) { total, value in value > 0 ? total + value / sum * log(value / sum) : total })
  }

  // MARK: Other methods

  private static func rows(
    _ method: AdapterMethod, _ file: SafetensorsFile, _ config: PeftConfig, _ configPath: String
  ) throws(AdapterError) -> [Row] {
    let parts = try MethodParts(file, config, method)
    let budget = ProbeBudget(file)
    var rows: [Row] = []
    for part in parts.modules {
      // What cannot be tried is not judged here: `Validation` says what is wrong with it.
      let probe = try? RuleProbe(
        part, shared: parts.shared, config: config, configPath: configPath, file: file, budget: budget)
      let isFinite = try isFinite(part.tensors.values, file)
      let values =
        isFinite ? try probe?.delta(greatestExtent: ModuleDelta.greatestExtent)?.spectrum()?.values ?? [] : []
      rows.append(
        Row(
          path: part.path, norm: isFinite ? probe?.norm : nil, elementCount: probe?.elementCount,
          singularValues: values, effectiveRank: effectiveRank(values),
          health: !isFinite ? .notFinite : probe?.isIdentity.map { $0 ? .untrained : .ok } ?? .unknown))
    }
    if parts.modules.isEmpty {
      for (name, entry) in parts.shared {
        let isFinite = try isFinite([entry], file)
        rows.append(
          Row(
            path: name.text, norm: nil, elementCount: nil, singularValues: [], effectiveRank: 0,
            health: isFinite ? .unknown : .notFinite))
      }
    }
    return rows
  }

  private static func isFinite(
    _ entries: some Sequence<TensorEntry>, _ file: SafetensorsFile
  ) throws(AdapterError) -> Bool {
    for entry in entries where entry.dtype.isComputable {
      let scan = try asAdapterError { () throws(TensorFileError) in try ValueScan(file.file, entry) }
      if scan.nonFiniteCount > 0 { return false }
    }
    return true
  }
}

extension FloatFormat {
  /// The greatest relative distance of a value from its rounding.
  fileprivate var roundingStep: Double {
    switch self {
    case .bf16: 0x1p-8
    case .f16: 0x1p-11
    case .f32, .f64: 0x1p-20
    }
  }
}

extension ValueScan {
  /// Looks at all values of a tensor, a megabyte at a time. Traps if its dtype is not computable.
  init(_ file: OpenFile, _ entry: TensorEntry) throws(TensorFileError) {
    self.init()
    guard let format = entry.dtype.format else { return }
    for start in stride(from: entry.byteRange.lowerBound, to: entry.byteRange.upperBound, by: 1 << 20) {
      let bytes = try file.bytes(start..<min(start + 1 << 20, entry.byteRange.upperBound))
      add(bytes.span.bytes, format)
    }
  }
}
