internal import TensorFiles
internal import TensorMath

/// What adapters hold in full beside their factors: heads and other saved modules, biases, trained rows of embeddings, copies of base
/// weights; and what becomes of them when the adapters are combined.
///
/// A tensor in full is no change that could be added. One adapter's is kept; equal ones are kept once; of several different ones only
/// the weighted mean can be taken, and only on request. A bias is the base's plus a change: with weights that sum to 1 the weighted sum
/// of the biases is the base's plus that of the changes.
struct SavedTensors: Sendable {
  /// A tensor of the result.
  private struct Output: Sendable {
    let item: AdapterSink.Item
    /// The tensors that it is made of, with their factors; one with the factor 1 is copied.
    let parts: [(file: SafetensorsFile, entry: TensorEntry, factor: Double)]
  }

  private var outputs: [Output] = []
  /// Rows of each embedding: where each comes from.
  private var rows: [RowTable] = []
  private(set) var notes: [String] = []
  private let inputs: [AdapterCombination.Input]
  private let averages: Bool
  /// The modules with factors.
  private let wrapped: Set<ExactName>

  /// The trained rows of one embedding.
  private struct RowTable: Sendable {
    let path: String
    /// The key in `trainable_token_indices`; nil for a list.
    let key: String?
    var indices: [Int] = []
    var sources: [[(file: SafetensorsFile, entry: TensorEntry, place: Int, weight: Double)]] = []
    let dtype: DType
    let width: Int
  }

  init(_ inputs: [AdapterCombination.Input], averages: Bool) throws(AdapterError) {
    self.inputs = inputs
    self.averages = averages
    wrapped = Set(inputs.flatMap { $0.modules.map { ExactName($0.path) } })
    var replacements: [ExactName: [(input: Int, replacement: Adapter.Replacement)]] = [:]
    for (index, input) in inputs.enumerated() {
      for replacement in input.adapter.replacements {
        replacements[ExactName(replacement.name), default: []].append((index, replacement))
      }
    }
    for (name, holders) in replacements.sorted(by: { $0.key < $1.key }) { try addReplacement(name.text, holders) }
    try addCopies()
    try addRows()
  }

  /// The items of the file.
  var items: [AdapterSink.Item] {
    outputs.map(\.item)
      + rows.map {
        .init(
          name: "\(Adapter.prefix)\($0.path).token_adapter.trainable_tokens_delta", dtype: $0.dtype,
          shape: [$0.indices.count, $0.width])
      }
  }

  /// Sets the keys of the configuration that say what is saved.
  func complete(_ config: inout PeftConfig) {
    let configs = inputs.map(\.config)
    var names: [String] = []
    for name in configs.flatMap({ $0.modulesToSave ?? [] }) where !names.containsExactly(name) { names.append(name) }
    config.modulesToSave = names.isEmpty ? nil : names
    let biases = Set(configs.map(\.bias)).subtracting(["none"])
    config.bias = biases.count > 1 ? "all" : biases.first ?? "none"
    guard !rows.isEmpty else {
      config.trainableTokenIndices = .null
      return
    }
    if let list = rows.first, list.key == nil {
      config.trainableTokenIndices = .array(list.indices.map { .integer($0) })
    } else {
      var members: [JSONValue.Member] = []
      for table in rows where !members.contains(where: { $0.key == table.key }) {
        members.append(.init(table.key ?? table.path, .array(table.indices.map { .integer($0) })))
      }
      config.trainableTokenIndices = .object(members)
    }
  }

  // MARK: Tensors in full

  private mutating func addReplacement(
    _ name: String, _ holders: [(input: Int, replacement: Adapter.Replacement)]
  ) throws(AdapterError) {
    let parts = holders.map { (inputs[$0.input].adapter.file, $0.replacement.entry, inputs[$0.input].weight) }
    let isBias = !holders[0].replacement.isSavedModule
    let sum = parts.reduce(0) { $0 + $1.2 }
    let isOne = try areEqual(parts)
    let target = Adapter.prefix + holders[0].replacement.storedName(beside: wrapped)
    // What does not change the bias has its weight too, so that only a sum of 1 leaves the base's bias out.
    if isOne, !isBias || sum == 1 { return add(target, parts.prefix(1).map { ($0.0, $0.1, 1) }) }
    if isBias {
      guard sum == 1 else {
        throw .notPossible(
          path: parts[0].0.path, what: "combining the bias '\(name)' with weights that sum to \(sum)",
          reason: "it is stored in full, and without the base's bias only weights that sum to 1 can be applied to it.")
      }
      return add(target, parts)
    }
    guard averages, sum != 0 else {
      throw .optionNeeded(
        path: parts[1].0.path, what: "combining two different '\(name)'",
        reason: "it is stored in full and differs from that of \(inputs[holders[0].input].adapter.directory); "
          + "full tensors cannot be added.", option: .averageSaved)
    }
    notes.append("'\(name)' is the weighted mean of \(parts.count) adapters")
    add(target, parts.map { ($0.0, $0.1, $0.2 / sum) })
  }

  private mutating func add(_ name: String, _ parts: [(SafetensorsFile, TensorEntry, Double)]) {
    outputs.append(
      Output(item: .init(name: name, dtype: parts[0].1.dtype, shape: parts[0].1.shape), parts: parts))
  }

  /// True if all hold the same bytes. Throws `.shapeMismatch` if they have different shapes.
  private func areEqual(_ parts: [(SafetensorsFile, TensorEntry, Double)]) throws(AdapterError) -> Bool {
    let (first, entry, _) = parts[0]
    for (file, other, _) in parts.dropFirst() {
      guard other.shape == entry.shape else {
        throw .shapeMismatch(base: file.path, tensor: other.name, found: other.shape, expected: entry.shape)
      }
      guard other.dtype == entry.dtype else { return false }
      let isSame = try asAdapterError { () throws(TensorFileError) in
        try first.file.holdsSameBytes(entry.byteRange, other.byteRange, of: file.file)
      }
      if !isSame { return false }
    }
    return true
  }

  /// Copies of base weights: they must be the same, as the base is.
  private mutating func addCopies() throws(AdapterError) {
    var found: [String: [(SafetensorsFile, TensorEntry, Double)]] = [:]
    for input in inputs {
      for entry in input.adapter.baseCopies.values {
        let name = AdapterName.withoutForeignParts(entry.name).name
        found[name, default: []].append((input.adapter.file, entry, 1))
      }
    }
    for (name, parts) in found.sorted(by: { $0.key < $1.key }) {
      guard try areEqual(parts) else {
        throw .notPossible(
          path: parts[1].0.path, what: "combining two different '\(name)'",
          reason: "the adapters hold different copies of that base weight, so they belong to different models.")
      }
      add(name, Array(parts.prefix(1)))
    }
  }

  // MARK: Trained rows

  private mutating func addRows() throws(AdapterError) {
    for input in inputs {
      let config = input.adapter.config
      for trained in input.adapter.tokenRows {
        var (key, listed): (String?, [JSONValue]) = (nil, config.trainableTokenIndices.elements ?? [])
        for member in config.trainableTokenIndices.members ?? []
        where trained.path.isExactly(member.key) || trained.path.endsExactly(".\(member.key)") {
          (key, listed) = (member.key, member.value.elements ?? [])
        }
        let indices = listed.compactMap(\.integerValue)
        guard trained.entry.shape.count == 2, indices.count == trained.entry.shape[0] else {
          throw .configContradiction(
            path: input.adapter.configPath,
            reason: "trainable_token_indices does not name the rows of '\(trained.entry.name)'.")
        }
        var table =
          rows.first { $0.path.isExactly(trained.path) }
          ?? RowTable(path: trained.path, key: key, dtype: trained.entry.dtype, width: trained.entry.shape[1])
        guard (table.key == nil) == (key == nil), table.width == trained.entry.shape[1] else {
          throw .notPossible(
            path: input.adapter.configPath, what: "combining these trainable_token_indices",
            reason: "one adapter names an embedding, the other does not, or their rows differ in length.")
        }
        for (place, index) in indices.enumerated() {
          let source = (input.adapter.file, trained.entry, place, input.weight)
          if let known = table.indices.firstIndex(of: index) {
            table.sources[known].append(source)
          } else {
            table.indices.append(index)
            table.sources.append([source])
          }
        }
        rows.removeAll { $0.path.isExactly(trained.path) }
        rows.append(table)
      }
    }
    guard Set(rows.map { $0.key == nil }).count <= 1 else {
      throw .notPossible(
        path: inputs[0].adapter.configPath, what: "combining these trainable_token_indices",
        reason: "one adapter has a list, the other names embeddings.")
    }
    for table in rows { try check(table) }
  }

  private func check(_ table: RowTable) throws(AdapterError) {
    for (index, sources) in zip(table.indices, table.sources) where sources.count > 1 && !averages {
      let first = try values(sources[0], table.width)
      for other in sources.dropFirst() where try values(other, table.width) != first {
        throw .optionNeeded(
          path: other.file.path, what: "combining two rows for token \(index) of '\(table.path)'",
          reason: "several adapters trained it, to different rows.", option: .averageSaved)
      }
    }
  }

  private func values(
    _ source: (file: SafetensorsFile, entry: TensorEntry, place: Int, weight: Double), _ width: Int
  ) throws(AdapterError) -> [Double] {
    guard let format = source.entry.dtype.format else { return [] }
    let bytes = width * format.byteCount
    let start = source.entry.byteRange.lowerBound + source.place * bytes
    return try asAdapterError { () throws(TensorFileError) in
      Double.decoded(try source.file.file.bytes(start..<start + bytes), format)
    }
  }

  // MARK: Writing

  /// Writes everything. Throws `.file`.
  func fill(_ sink: AdapterSink) throws(AdapterError) {
    for output in outputs {
      if output.parts.count == 1, output.parts[0].factor == 1 {
        try sink.copy(output.parts[0].entry, of: output.parts[0].file, to: output.item.name)
        continue
      }
      guard let format = output.item.dtype.format else { continue }
      var sum = [Double](repeating: 0, count: output.parts[0].entry.elementCount)
      for part in output.parts {
        let values = try asAdapterError { () throws(TensorFileError) in
          try StoredTensor(file: part.file.file, entry: part.entry).values(Double.self)
        }
        for index in sum.indices { sum[index] += part.factor * values[index] }
      }
      try sink.write(StoredValues(sum, format).bytes.span.bytes, to: output.item.name)
    }
    for (table, item) in zip(rows, items.dropFirst(outputs.count)) {
      guard let format = table.dtype.format else { continue }
      var all: [Double] = []
      for sources in table.sources {
        let weights = sources.reduce(0) { $0 + $1.weight }
        let first = try values(sources[0], table.width)
        if sources.count == 1 || weights == 0 {
          all += first
          continue
        }
        var mean = [Double](repeating: 0, count: table.width)
        for source in sources {
          for (index, value) in try values(source, table.width).enumerated() {
            mean[index] += source.weight / weights * value
          }
        }
        all += mean
      }
      try sink.write(StoredValues(all, format).bytes.span.bytes, to: item.name)
    }
  }
}
