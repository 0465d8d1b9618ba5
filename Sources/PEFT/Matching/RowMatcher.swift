internal import TensorFiles

/// Rows of an embedding or a head that an adapter trains and stores in full.
struct TrainedRows {
  /// The module's path.
  let path: String
  let entry: TensorEntry
  /// Their indices as the configuration has them, and under which key.
  let listed: [JSONValue]
  let key: String
}

/// Says whose rows an adapter's trained rows replace.
struct RowMatcher {
  private let part: MatchedAdapter
  private let all: [TrainedRows]
  /// Paths that the base does not have.
  private(set) var unmatched: [String] = []
  /// Modules that are a tied weight's second name.
  private(set) var secondNames: Set<ExactName> = []

  /// Notes the rows of an adapter.
  ///
  /// A tied head with rows of its own gets a weight of its own, as a tied head with a LoRA does.
  init(_ all: [TrainedRows], of part: MatchedAdapter, to tensors: inout TensorChanges) throws(AdapterError) {
    (self.part, self.all) = (part, all)
    for rows in all { try add(rows, to: &tensors) }
  }

  private mutating func add(_ rows: TrainedRows, to tensors: inout TensorChanges) throws(AdapterError) {
    let base = part.base
    if rows.path.hasSuffix(".base_layer") {
      throw cannotRun("two sets of trained rows on '\(rows.path.dropLast(".base_layer".count))'")
    }
    if let head = base.tiedHead, rows.path == base.embedding, part.adapter.baseCopies[head] != nil,
      part.config.savesModule(head)
    {
      throw cannotRun("trained rows of an embedding beside the saved head '\(head)' that is tied to it")
    }
    // Tied modules share one set of rows, which the file may hold once more under the second module's name.
    if rows.path == base.tiedHead, try isStoredElsewhere(rows) {
      secondNames.insert(rows.path)
      return
    }
    var name = try base.resolver.resolve("\(rows.path).weight")
    if name == nil, rows.path == base.absentHead?.path { name = "\(rows.path).weight" }
    guard let name else {
      if base.model.asksForTie, try isStoredElsewhere(rows) {
        secondNames.insert(rows.path)
      } else {
        unmatched.append(rows.path)
      }
      return
    }
    try tensors.own(name, rows.path, part)
    let grown = try takeBaseCopy(of: rows.path, weight: name, in: &tensors)
    tensors.changes[name] = .rows(try replacement(of: rows, weight: name, rowCount: grown))
  }

  /// Lets rows be replaced in the adapter's own copy of an embedding. Returns its rows if they are more than the base's.
  private func takeBaseCopy(
    of path: String, weight name: String, in tensors: inout TensorChanges
  ) throws(AdapterError) -> Int? {
    let base = part.base
    guard !base.holdsAdapters, let copy = part.adapter.baseCopies[path], let entry = base.stored(name) else {
      return nil
    }
    guard copy.shape.count == 2, entry.shape.count == 2, copy.shape[1] == entry.shape[1],
      copy.shape[0] >= entry.shape[0]
    else {
      throw .replacementShape(base: base.path, tensor: name, found: entry.shape, replacement: copy.shape)
    }
    tensors.sources[name] = part.stored(copy)
    guard copy.shape[0] > entry.shape[0] else { return nil }
    tensors.vocabulary[name] = .grown(copy.shape[0])
    return copy.shape[0]
  }

  /// True if another module has the same rows, byte for byte, with the same indices.
  private func isStoredElsewhere(_ rows: TrainedRows) throws(AdapterError) -> Bool {
    for other in all where other.path != rows.path && other.listed == rows.listed {
      if try part.holdsSameBytes(rows.entry, other.entry) { return true }
    }
    return false
  }

  private func cannotRun(_ what: String) -> AdapterError {
    .unsupported(path: part.file.path, what: what, reason: "PEFT saves such an adapter, but cannot run it.")
  }

  /// The rows of a weight that a tensor replaces.
  /// - Parameter rowCount: the weight's, where it has more than the base's.
  private func replacement(
    of rows: TrainedRows, weight name: String, rowCount: Int?
  ) throws(AdapterError) -> TokenReplacement {
    guard let entry = part.base.stored(name), entry.dtype.isComputable, entry.shape.count == 2 else {
      throw .unmatched(base: part.base.path, modules: [rows.path], matched: 0, total: 1, nearest: [])
    }
    try part.requireWhole(
      "'\(rows.path)' with trainable tokens",
      because: "rows that are stored in full replace the base's and have no weight.",
      lost: "rows that are stored in full have taken the place of the base's, which the model no longer holds.")
    let indices = rows.listed.compactMap(\.integerValue)
    guard rows.entry.shape == [indices.count, entry.shape[1]], indices.count == rows.listed.count else {
      throw .shapeMismatch(
        base: part.file.path, tensor: rows.entry.name, found: rows.entry.shape,
        expected: [rows.listed.count, entry.shape[1]])
    }
    guard rows.entry.dtype.isComputable else {
      throw .adapterDType(path: part.file.path, tensor: rows.entry.name, dtype: rows.entry.dtype)
    }
    let rowCount = rowCount ?? entry.shape[0]
    for index in indices where index < 0 || index >= rowCount {
      throw .configValue(
        path: part.adapter.configPath, key: rows.key, expected: "rows from 0 to \(rowCount - 1) of '\(name)'",
        found: "\(index)")
    }
    return TokenReplacement(source: part.stored(rows.entry), indices: indices)
  }
}

extension MatchedAdapter {
  /// Whether two tensors of the adapter are the same, byte for byte. Throws `.file`.
  func holdsSameBytes(_ one: TensorEntry, _ other: TensorEntry) throws(AdapterError) -> Bool {
    let file = file.file
    return try asAdapterError { () throws(TensorFileError) in
      try file.holdsSameBytes(one.byteRange, other.byteRange)
    }
  }
}
