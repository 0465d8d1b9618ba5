internal import TensorFiles
internal import TensorMath

/// An adapter that was found in the difference of two models, ready to be written.
struct ExtractedAdapter: Sendable {
  private(set) var config = PeftConfig()
  private(set) var items: [AdapterSink.Item] = []
  private(set) var report = ExtractionReport(modules: [], others: [], unchanged: 0, notes: [])
  private var factored: [(module: ExtractedModule, rank: Int, factors: [ExtractedModule.Factors])] = []
  private var saved: [(tensor: ModelPair.Tensor, name: String)] = []

  /// - Parameters:
  ///   - factors: of each module that changed, by its place.
  ///   - squares: of the change of each other tensor that changed, by its place.
  /// Throws `.notPossible` where nothing is left to be stored, and as `PeftConfig.setRanks`.
  init(
    _ pair: ModelPair, _ modules: [ExtractedModule], _ others: [ModelPair.Tensor],
    _ factors: [Int: [ExtractedModule.Factors]], _ squares: [Int: Double], _ options: AdapterExtraction.Options
  ) throws(AdapterError) {
    report.notes = pair.notes
    report.unchanged = pair.tensors.count - squares.count
    for (place, module) in modules.enumerated() {
      guard let found = factors[place] else { continue }
      report.unchanged -= module.experts.joined().count
      add(module, found)
    }
    try setTargets(pair)
    save(others, squares, options, pair.tie)
    config.baseModelNameOrPath = pair.base.path
    config.taskType = pair.taskType
    if config.taskType == nil { config.autoMapping = pair.base.autoMapping }
    config.inferenceMode = true
    guard !items.isEmpty else {
      throw .notPossible(
        path: pair.tuned.path, what: "extracting an adapter",
        reason: report.others.isEmpty
          ? "it does not differ from \(pair.base.path)."
          : "what differs from \(pair.base.path) has no factors ('\(report.others[0].name)' and the like); it can be stored in "
            + "full with --with-embeddings, --with-norms and --with-biases.")
    }
  }

  private mutating func add(_ module: ExtractedModule, _ factors: [ExtractedModule.Factors]) {
    let rank = factors.map(\.values.count).max() ?? 0
    let (all, lost) = (factors.reduce(0) { $0 + $1.squares }, factors.reduce(0) { $0 + $1.lostSquares })
    guard rank > 0 else {
      report.others.append(.init(name: "\(module.path).weight", kind: .rounding, squares: all, isSaved: false))
      return
    }
    factored.append((module, rank, factors))
    report.modules.append(
      .init(
        path: module.path, rank: rank, extent: module.extent, squares: all, lostSquares: lost,
        greatest: factors.compactMap(\.values.first).max() ?? 0, least: factors.compactMap(\.values.last).min() ?? 0,
        floor: factors.map(\.floor).max() ?? 0, signalRank: factors.map(\.signalRank).max() ?? 0))
  }

  // MARK: Configuration

  private mutating func setTargets(_ pair: ModelPair) throws(AdapterError) {
    nameParameters()
    let parameters = factored.filter { $0.module.experts.count > 1 || $0.module.filePath != $0.module.path }
    let names = factored.map(\.module).filter { $0.filePath.isExactly($0.path) }.map(\.path)
    config.targetModules = .names(pair.base.leastEndings(of: names))
    if !parameters.isEmpty { config.targetParameters = parameters.map(\.module.path) }
    config.fanInFanOut = factored.contains { $0.module.isTransposed && $0.module.filePath.isExactly($0.module.path) }
    config.alpha = .integer(config.rank)
    try config.setRanks(
      factored.map { ModuleRank(key: $0.module.path, rank: $0.rank, scale: 1) }, path: "the extracted adapter")
    nameRouters(pair)
    for (module, rank, _) in factored {
      items.append(.init(name: module.names.a, dtype: .f32, shape: module.shapeA(rank: rank)))
      items.append(.init(name: module.names.b, dtype: .f32, shape: module.shapeB(rank: rank)))
    }
  }

  /// PEFT takes an experts' router, which transformers 5 does not hold as a linear layer, for a parameter, and looks for its rank under
  /// that name.
  ///
  /// Source: peft/utils/transformers_weight_conversion.py `_convert_peft_config_moe`.
  private mutating func nameRouters(_ pair: ModelPair) {
    let blocks = pair.expertBlocks
    func isRouter(_ path: String) -> Bool {
      lastPart(path) == "gate" && blocks.contains(ExactName(path.parts().dropLast().joined(separator: ".")))
    }
    for entry in config.rankPattern.entries where isRouter(entry.pattern) {
      config.rankPattern.entries.append(.init("\(entry.pattern).weight", entry.value))
    }
    for entry in config.alphaPattern.entries where isRouter(entry.pattern) {
      config.alphaPattern.entries.append(.init("\(entry.pattern).weight", entry.value))
    }
  }

  /// Parameters of one module are wrapped one around the other; the last that is registered is the outermost.
  private mutating func nameParameters() {
    for index in factored.indices where !factored[index].module.filePath.isExactly(factored[index].module.path) {
      let module = factored[index].module
      let inner = factored.count { other in
        other.module.path.parts().dropLast() == module.path.parts().dropLast()
          && ParameterWrapping.rank(lastPart(other.module.path)) > ParameterWrapping.rank(lastPart(module.path))
      }
      factored[index].module.filePath += String(repeating: ".base_layer", count: inner)
    }
  }

  // MARK: Tensors in full

  private mutating func save(
    _ others: [ModelPair.Tensor], _ squares: [Int: Double], _ options: AdapterExtraction.Options,
    _ tie: (head: String, embedding: String)?
  ) {
    var paths: [String] = []
    for (place, tensor) in others.enumerated() {
      guard let sum = squares[place] else { continue }
      let (kind, path) = tensor.kind
      let isSaved = options.saves(kind)
      report.others.append(.init(name: tensor.name, kind: kind, squares: sum, isSaved: isSaved))
      guard isSaved else { continue }
      if kind == .bias {
        config.bias = "all"
        let isTarget = factored.contains { $0.module.filePath.isExactly(path) }
        add(tensor, isTarget ? "\(path).base_layer.bias" : tensor.name)
      } else if !paths.containsExactly(path) {
        paths.append(path)
      }
    }
    guard !paths.isEmpty else { return }
    config.modulesToSave = paths
    // A saved module is stored whole, what did not change of it too.
    for tensor in others where paths.containsExactly(tensor.kind.path) && tensor.kind.kind != .bias {
      add(tensor, tensor.name)
      guard let tie, tensor.name.isExactly("\(tie.embedding).weight") else { continue }
      // PEFT's loader wants both names of a tied weight, and keeps them one with this key.
      config.modulesToSave?.append(tie.head)
      config.ensureWeightTying = true
      add(tensor, "\(tie.head).weight")
    }
  }

  private mutating func add(_ tensor: ModelPair.Tensor, _ name: String) {
    let name = Adapter.prefix + name
    saved.append((tensor, name))
    items.append(.init(name: name, dtype: tensor.after.entry.dtype, shape: tensor.after.entry.shape))
  }

  // MARK: Writing

  /// Writes all tensors. Throws `.file`.
  func fill(_ sink: AdapterSink) throws(AdapterError) {
    for (tensor, name) in saved {
      let start = tensor.after.entry.byteRange.lowerBound
      try asAdapterError { () throws(TensorFileError) in
        var bytes: [UInt8] = []
        for offset in stride(from: 0, to: tensor.after.entry.byteRange.count, by: 1 << 20) {
          let end = min(offset + 1 << 20, tensor.after.entry.byteRange.count)
          try tensor.after.file.read(start + offset..<start + end, into: &bytes)
          try sink.put(bytes.span.bytes, to: name, at: offset)
        }
      }
    }
    for (module, rank, factors) in factored {
      let file = LoRAFile(sink: sink, a: module.names.a, b: module.names.b)
      for (expert, factors) in factors.enumerated() {
        let (b, a) = (factors.b.widened(columns: rank), factors.a.widened(rows: rank))
        try file.write(
          a: StoredValues.bytes(a.values), b: StoredValues.bytes(b.values), width: 4, expert: expert,
          of: module.experts.count, rank: rank)
      }
    }
  }
}

extension ModelPair.Tensor {
  /// What it is for the report, and the path of the module that would be saved for it.
  fileprivate var kind: (kind: ExtractionReport.Other.Kind, path: String) {
    switch role {
    case .embedding(let path): (.embedding, path)
    case .head(let path): (.head, path)
    case .norm(let path): (.norm, path)
    case .bias(let path): (.bias, path)
    default: (.other, "")
    }
  }
}

extension Matrix<Float> {
  /// With columns of zeros beside it, up to so many.
  fileprivate func widened(columns count: Int) -> Matrix {
    count > columns ? .sideBySide([self, Matrix(rows: rows, columns: count - columns)], rows: rows) : self
  }

  /// With rows of zeros below it, up to so many.
  fileprivate func widened(rows count: Int) -> Matrix {
    count > rows ? .stacked([self, Matrix(rows: count - rows, columns: columns)], columns: columns) : self
  }
}
