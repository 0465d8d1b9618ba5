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
    /// Singular values of s·B·A, falling; of experts, all experts' together. Empty for other methods.
    public let singularValues: [Double]
    /// exp of the entropy of the singular values' shares: the number of directions that matter.
    ///
    /// Source: Roy and Vetterli, The effective rank, 2007.
    public let effectiveRank: Double
    public fileprivate(set) var health: Health
  }

  public let rows: [Row]
  /// True if the norms were taken with the base's weights.
  public let hasBase: Bool

  /// Reads all values of an adapter.
  ///
  /// With a base, norms are those of what the merge's own work would write, without the rounding to a half format. Without
  /// one, ΔW = s·B·A is not formed: its singular values are those of an r × r matrix made of BᵀB and A·Aᵀ; a method that
  /// adds something independent of W is applied to zeros.
  /// Precision: f64. Cost: one pass over the file; O(r²·(in + out)) a module, with a base that of a merge; `workers` modules
  /// are held at once.
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
      let plan = try MergePlan(base: base, adapter: directory, options: options)
      rows = Self.joined(rows, try await plan.moduleChanges(workers: workers), isLoRA: config.peftType == .lora)
    }
    self.rows = rows.sorted { naturallyPrecedes($0.path, $1.path) }
  }

  /// The rows with what the base tells of them.
  private static func joined(_ rows: [Row], _ changes: [ModuleChange], isLoRA: Bool) -> [Row] {
    let known = Dictionary(rows.map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    return changes.map { change in
      var row =
        known[change.path]
        ?? Row(path: change.path, norm: nil, singularValues: [], effectiveRank: 0, health: .unknown)
      guard let squares = change.changeSquares else { return row }
      row.norm = squares.squareRoot()
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

  // MARK: LoRA

  private static func loraRows(
    _ file: SafetensorsFile, _ config: PeftConfig, _ configPath: String, workers: Int
  ) async throws -> [Row] {
    let scaling = try LoRAScaling(config, path: configPath)
    let isDetermined = config.isDeterminedWithoutBase
    var jobs: [Job] = []
    for (name, tensors) in AdapterName.loraModules(in: file) {
      let path = name.text
      guard let a = tensors[.a] ?? tensors[.embeddingA], let b = tensors[.b] ?? tensors[.embeddingB],
        a.shape.count >= 2, b.shape.count >= 2, a.shape[0] == b.shape[1],
        a.elementCount > 0, b.elementCount > 0, a.dtype.isComputable, b.dtype.isComputable
      else { continue }
      // The kernel of B is 1 throughout: what follows its rank has no place in the product.
      guard b.shape.dropFirst(2).allSatisfy({ $0 == 1 }) else {
        throw AdapterError.rankMismatch(
          path: file.path, module: path, expectedRank: a.shape[0], shapeA: a.shape, shapeB: b.shape)
      }
      let values = try scaling.values(ofModule: path, rows: a.shape[0])
      let experts = max(1, a.shape[0] / values.rank)
      guard a.shape[0] % experts == 0 else { continue }
      jobs.append(
        Job(
          path: path, a: a, b: b, scale: values.scale, experts: experts,
          isDetermined: isDetermined && tensors[.magnitude] == nil && tensors[.diagonal] == nil))
    }
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    let pairs = jobs
    return try await withThrowingTaskGroup(of: [Row].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: pairs.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            return try Self.row(pairs[index], file.file)
          }
        }
      }
      var all: [Row] = []
      for try await part in group { all += part }
      return all
    }
  }

  private struct Job: Sendable {
    let path: String
    let a: TensorEntry
    let b: TensorEntry
    let scale: Double
    let experts: Int
    /// True if ΔW is s·B·A.
    let isDetermined: Bool
  }

  private static func row(_ job: Job, _ file: File) throws(AdapterError) -> Row {
    let (a, b, experts) = (job.a, job.b, job.experts)
    return try asAdapterError { () throws(TensorFileError) in
      let all = a.shape[0]
      let rank = all / experts
      let matrixA: Matrix<Double> = try StoredTensor(file: file, entry: a).matrix(rows: all)
      let stored: Matrix<Double> = try StoredTensor(file: file, entry: b).matrix(rows: b.shape[0])
      var values: [Double] = []
      var isFinite = true
      for expert in 0..<experts {
        let partA = experts == 1 ? matrixA : matrixA.rows(expert * rank..<(expert + 1) * rank)
        // B holds the experts interleaved.
        let order = (0..<rank).map { $0 * experts + expert }
        let partB = experts == 1 ? stored : stored.selectingColumns(order)
        guard let found = singularValues(partA, partB) else {
          isFinite = false
          continue
        }
        values += found.map { $0 * abs(job.scale) }
      }
      values.sort(by: >)
      let norm = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      isFinite = isFinite && norm.isFinite
      return Row(
        path: job.path, norm: job.isDetermined && isFinite ? norm : nil, singularValues: isFinite ? values : [],
        effectiveRank: effectiveRank(values),
        health: !isFinite ? .notFinite : norm == 0 ? .untrained : job.isDetermined ? .ok : .unknown)
    }
  }

  /// Singular values of B·A; nil if a value is not finite.
  ///
  /// With A·Aᵀ = V·D·Vᵀ the squares are the eigenvalues of √D·Vᵀ·(BᵀB)·V·√D.
  /// Where the rank is greater than an extent of B·A, the product is formed, which then is smaller than A or B.
  private static func singularValues(_ a: Matrix<Double>, _ b: Matrix<Double>) -> [Double]? {
    let least = min(a.columns, b.rows)
    if a.rows > least {
      let product = b.times(a)
      let isWide = b.rows <= a.columns
      let gram = product.times(product, transposingSelf: !isWide, transposingOther: isWide)
      guard let found = Decompositions.eigenvectors(ofSymmetric: gram, ranks: 0..<least) else { return nil }
      return found.values.map { max(0, $0).squareRoot() }.reversed() + [Double](repeating: 0, count: a.rows - least)
    }
    let gramA = a.times(a, transposingOther: true)
    let gramB = b.times(b, transposingSelf: true)
    guard let inner = Decompositions.eigenvectors(ofSymmetric: gramA, ranks: 0..<a.rows) else { return nil }
    var roots = inner.vectors
    for row in 0..<roots.rows { roots.scaleRow(row, by: max(0, inner.values[row]).squareRoot()) }
    let middle = roots.times(gramB).times(roots, transposingOther: true)
    guard let outer = Decompositions.eigenvectors(ofSymmetric: middle, ranks: 0..<a.rows) else { return nil }
    return outer.values.map { max(0, $0).squareRoot() }.reversed()
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
      rows.append(
        Row(
          path: part.path, norm: isFinite ? probe?.norm : nil, singularValues: [], effectiveRank: 0,
          health: !isFinite ? .notFinite : probe?.isIdentity.map { $0 ? .untrained : .ok } ?? .unknown))
    }
    if parts.modules.isEmpty {
      for (name, entry) in parts.shared {
        let isFinite = try isFinite([entry], file)
        rows.append(
          Row(
            path: name.text, norm: nil, singularValues: [], effectiveRank: 0, health: isFinite ? .unknown : .notFinite))
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

extension PeftConfig {
  /// True if a plain LoRA's ΔW is s·B·A, whatever the base.
  fileprivate var isDeterminedWithoutBase: Bool {
    guard !useDoRA, kasaConfig == .null, useBDLoRA.isEmptyOrFalse else { return false }
    if (try? LoRAVariants.refuse(self, path: "")) == nil { return false }
    guard let name = initLoRAWeights.stringValue?.lowercased() else { return true }
    return !name.hasPrefix("pissa") && name != "olora"
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
  init(_ file: File, _ entry: TensorEntry) throws(TensorFileError) {
    self.init()
    guard let format = entry.dtype.format else { return }
    for start in stride(from: entry.byteRange.lowerBound, to: entry.byteRange.upperBound, by: 1 << 20) {
      let bytes = try file.bytes(start..<min(start + 1 << 20, entry.byteRange.upperBound))
      add(bytes.span.bytes, format)
    }
  }
}
