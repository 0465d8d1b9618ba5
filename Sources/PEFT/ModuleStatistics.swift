internal import Glibc
internal import Numerics
internal import TensorFiles

/// What the values of an adapter's modules say, computed without forming ΔW.
public struct ModuleStatistics: Sendable {
  /// One LoRA module, or one tensor of another method.
  public struct Row: Sendable {
    public let path: String
    /// ‖ΔW‖ in the Frobenius norm; of another method's tensor, its own norm.
    public let norm: Double
    /// Singular values of ΔW, falling; of experts, all experts' together. Empty for other methods.
    public let singularValues: [Double]
    /// exp of the entropy of the singular values' shares: the number of directions that matter.
    ///
    /// Source: Roy and Vetterli, The effective rank, 2007.
    public let effectiveRank: Double
    /// "ok", "zero" or "not finite".
    public let health: String
  }

  public let rows: [Row]

  /// Reads all values of an adapter. Throws as `AdapterSummary.init`, and `.file`.
  ///
  /// ΔW = s·B·A is never formed: its singular values are those of an r × r matrix made of BᵀB and A·Aᵀ.
  /// Precision: f64. Cost: one pass over the file; O(r²·(in + out)) a module; `workers` modules are held at once.
  public init(directory: String, workers: Int = 2) async throws {
    let config = try PeftConfig.load(directory: directory)
    let file = try Adapter.openWeights(directory)
    let configPath = FileSystem.join(directory, PeftConfig.fileName)
    guard config.peftType == .lora else {
      rows = try Self.tensorRows(file)
      return
    }
    let scaling = try LoRAScaling(config, path: configPath)
    var pairs: [(path: String, a: TensorEntry, b: TensorEntry, scale: Double, experts: Int)] = []
    for entry in file.entries {
      let name = AdapterName.withoutForeignParts(entry.name).name
      let isEmbedding = name.hasSuffix(".lora_embedding_A")
      guard isEmbedding || name.hasSuffix(".lora_A.weight") else { continue }
      let ending = isEmbedding ? ".lora_embedding_A" : ".lora_A.weight"
      let stem = entry.name.dropLast(ending.count)
      guard let b = file[stem + ending.replacing("_A", with: "_B")], entry.shape.count >= 2, b.shape.count >= 2,
        entry.shape[0] == b.shape[1], entry.dtype.isComputable, b.dtype.isComputable
      else { continue }
      let path = String(name.dropLast(ending.count).dropFirst(Adapter.prefix.count))
      // The kernel of B is 1 throughout: what follows its rank has no place in the product.
      guard b.shape.dropFirst(2).allSatisfy({ $0 == 1 }) else {
        throw AdapterError.rankMismatch(
          path: file.path, module: path, expectedRank: entry.shape[0], shapeA: entry.shape, shapeB: b.shape)
      }
      guard entry.elementCount > 0, b.elementCount > 0 else { continue }
      let values = try Self.values(path, config, scaling, rows: entry.shape[0])
      pairs.append((path, entry, b, values.scale, max(1, entry.shape[0] / max(1, values.rank))))
    }
    ComputeBackend.useOneThreadInsideBLAS()
    let jobs = pairs
    rows = try await withThrowingTaskGroup(of: [Row].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: jobs.count, by: max(1, workers)).map { index in
            let job = jobs[index]
            return try Self.row(job.path, file.file, job.a, job.b, scale: job.scale, experts: job.experts)
          }
        }
      }
      var all: [Row] = []
      for try await part in group { all += part }
      return all.sorted { naturallyPrecedes($0.path, $1.path) }
    }
  }

  /// Rank and scale of a module, or of the parameter of experts that it holds.
  private static func values(
    _ path: String, _ config: PeftConfig, _ scaling: LoRAScaling, rows: Int
  ) throws(AdapterError) -> LoRAScaling.Values {
    let outer = MergePlanMaker.unwrapped(path).path
    for name in config.targetedParameters(in: outer) {
      let values = try scaling.values(for: "\(outer).\(name)")
      if rows % values.rank == 0 { return values }
    }
    return try scaling.values(for: path)
  }

  private static func row(
    _ path: String, _ file: File, _ a: TensorEntry, _ b: TensorEntry, scale: Double, experts: Int
  ) throws(AdapterError) -> Row {
    try asAdapterError { () throws(TensorFileError) in
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
        values += found.map { $0 * abs(scale) }
      }
      values.sort(by: >)
      let norm = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      return Row(
        path: path, norm: isFinite ? norm : .nan, singularValues: values, effectiveRank: effectiveRank(values),
        health: !isFinite ? "not finite" : norm == 0 ? "zero" : "ok")
    }
  }

  /// Singular values of B·A; nil if a value is not finite.
  ///
  /// With A·Aᵀ = V·D·Vᵀ the squares are the eigenvalues of √D·Vᵀ·(BᵀB)·V·√D.
  private static func singularValues(_ a: Matrix<Double>, _ b: Matrix<Double>) -> [Double]? {
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

  private static func tensorRows(_ file: SafetensorsFile) throws(AdapterError) -> [Row] {
    var rows: [Row] = []
    for entry in file.entries where entry.dtype.isComputable {
      let values: [Double] = try asAdapterError { () throws(TensorFileError) in
        try StoredTensor(file: file.file, entry: entry).values()
      }
      let norm = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      rows.append(
        Row(
          path: entry.name, norm: norm, singularValues: [], effectiveRank: 0,
          health: !norm.isFinite ? "not finite" : norm == 0 ? "zero" : "ok"))
    }
    return rows.sorted { naturallyPrecedes($0.path, $1.path) }
  }
}
