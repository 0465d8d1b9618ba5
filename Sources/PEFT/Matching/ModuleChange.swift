internal import TensorFiles
internal import TensorMath

/// How much of a base a merge changes for one module, or for one tensor that it replaces.
struct ModuleChange: Sendable {
  /// The module's path as the adapter names it; of a bias and of a replaced tensor, that of the tensor.
  let path: String
  /// ‖W' - W‖² before rounding; nil where the base has no such tensor.
  var changeSquares: Double?
  /// ‖W‖².
  var weightSquares = 0.0
  /// True if ΔW does not depend on W, so that nothing but zeros changes nothing.
  let isAdditive: Bool
  /// The base weight's dtype.
  let dtype: DType
  /// Elements that were compared.
  var elementCount = 0.0
  /// W' - W, where it was asked for.
  var difference: [Double]?
}

extension MergePlan {
  /// What the merge changes, computed by the pieces of work that would write it, of which nothing is kept.
  ///
  /// Precision: f64 throughout, so that a half weight's rounding does not count. Memory: a block for each of `workers`, or
  /// a weight where a rule needs all of it. Throws `.file`.
  func moduleChanges(workers: Int) async throws -> [ModuleChange] {
    let outputs = shards.flatMap(\.outputs)
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    let parts = try await withThrowingTaskGroup(of: [ModuleChange].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          var scratch = MergeScratch(allowsNonFinite: true)
          var found: [ModuleChange] = []
          for index in stride(from: worker, to: outputs.count, by: max(1, workers)) {
            try Task.checkCancellation()
            found += try self.changes(of: outputs[index], &scratch)
          }
          return found
        }
      }
      var all: [ModuleChange] = []
      for try await part in group { all += part }
      return all
    }
    var byPath: [String: ModuleChange] = [:]
    for change in parts {
      guard var sum = byPath[change.path] else {
        byPath[change.path] = change
        continue
      }
      if let added = change.changeSquares { sum.changeSquares = (sum.changeSquares ?? 0) + added }
      sum.weightSquares += change.weightSquares
      sum.elementCount += change.elementCount
      byPath[change.path] = sum
    }
    return byPath.values.sorted { naturallyPrecedes($0.path, $1.path) }
  }

  private func change(
    of file: SafetensorsFile, _ entry: TensorEntry, _ update: LoRAUpdate, _ name: String, _ scratch: inout MergeScratch,
    keeps: Bool
  ) throws(AdapterError) -> ModuleChange {
    let first = update.firstRow * update.columns
    let sink = ChangeSink(file.file, entry, keeps: keeps ? first..<first + update.rows * update.columns : nil)
    let work = MergeWork.merge(
      source: file.file, entry: entry, update: update, rows: 0..<update.rows,
      target: update.firstRow * update.columns * 8, dtype: .f64)
    try perform([work], sink, &scratch)
    return sink.change(Self.path(update, name), isAdditive: update.isPlain)
  }

  /// What an output changes, one entry for each update of a weight's rows.
  /// - Parameter keeps: to give the differences themselves too, in the order of the stored elements.
  func changes(
    of output: Output, _ scratch: inout MergeScratch, keeps: Bool = false
  ) throws(AdapterError) -> [ModuleChange] {
    let name = output.item.name
    func sink(_ file: OpenFile, _ entry: TensorEntry) -> ChangeSink {
      ChangeSink(file, entry, keeps: keeps ? 0..<entry.elementCount : nil)
    }
    switch output.source {
    case .copy: return []
    case .merge(let file, let entry, let updates):
      var found: [ModuleChange] = []
      for update in updates { found.append(try change(of: file, entry, update, name, &scratch, keeps: keeps)) }
      return found
    case .mergeRows(let file, let entry, let update, _):
      return [try change(of: file, entry, update, name, &scratch, keeps: keeps)]
    case .change(let file, let entry, let change):
      let sink = sink(file.file, entry)
      let work = MergeWork.change(
        source: file.file, entry: entry, change: change, rows: 0..<change.storedRows, target: 0, dtype: .f64)
      try perform([work], sink, &scratch)
      return [sink.change(Self.path(change, name), isAdditive: change.rules.allSatisfy { $0.rule.isAdditive })]
    case .changeBias, .addBias:
      // A bias is computed in f64 and then rounded to its dtype; its own sources say how.
      guard let sink = ChangeSink(output.source, output.item, keeps: keeps) else { return [] }
      let widened = Shard(name: "", outputs: [output], metadata: [])
      let layout = try asAdapterError { () throws(TensorFileError) in
        try SafetensorsLayout(path: "", items: [output.item])
      }
      sink.offset = layout.header.count
      try perform(MergeWork.pieces(widened, layout: layout), sink, &scratch)
      return [sink.change(name, isAdditive: true)]
    case .replaceRows(let file, let entry, let rows):
      let width = entry.shape.last ?? 0
      let sink = sink(file.file, entry)
      let order = Dictionary(rows.indices.enumerated().map { ($1, $0) }, uniquingKeysWith: { $1 })
      let work = order.filter { $0.key < entry.shape[0] }.map { row, position in
        MergeWork.convert(
          source: rows.file, entry: rows.entry, elements: position * width..<(position + 1) * width,
          target: row * width * 8, dtype: .f64)
      }
      try perform(work, sink, &scratch)
      try asAdapterError { () throws(TensorFileError) in
        for row in 0..<entry.shape[0] where order[row] == nil { try sink.keep(row * width..<(row + 1) * width) }
      }
      return [sink.change(Self.module(name), isAdditive: false)]
    case .replace(let file, let entry):
      guard let location = base.checkpoint[name], location.entry.shape == entry.shape, entry.dtype.isComputable,
        location.entry.dtype.isComputable
      else {
        return [ModuleChange(path: Self.module(name), changeSquares: nil, isAdditive: false, dtype: entry.dtype)]
      }
      let sink = sink(base.checkpoint.shards[location.shard].file, location.entry)
      let work = MergeWork.convert(
        source: file.file, entry: entry, elements: 0..<entry.elementCount, target: 0, dtype: .f64)
      try perform([work], sink, &scratch)
      return [sink.change(Self.module(name), isAdditive: false)]
    }
  }

  private func perform(
    _ work: [MergeWork], _ sink: ChangeSink, _ scratch: inout MergeScratch
  ) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      for piece in work { try piece.perform(into: sink, scratch: &scratch) }
    }
  }

  /// The module that an update belongs to.
  static func path(_ update: LoRAUpdate, _ name: String) -> String { update.terms.first?.owner.path ?? name }

  /// The module that a change belongs to.
  static func path(_ change: WeightChange, _ name: String) -> String { change.owners.first?.path ?? name }

  /// The module of a weight; of other tensors the name.
  static func module(_ name: String) -> String {
    name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name
  }
}

/// Compares what a merge writes with what was there, and keeps the sums only.
private final class ChangeSink: TensorSink {
  private let source: OpenFile
  private let entry: TensorEntry
  private let format: FloatFormat
  /// The format of what is written.
  private let written: FloatFormat
  /// Where the first byte would stand.
  var offset = 0
  private var changeSquares = 0.0
  private var weightSquares = 0.0
  private var count = 0
  /// The elements whose differences are kept, and these; what is not written does not differ.
  private let kept: Range<Int>?
  private var differences: [Double] = []

  /// For what is written in f64.
  init(_ source: OpenFile, _ entry: TensorEntry, written: FloatFormat = .f64, keeps kept: Range<Int>? = nil) {
    self.kept = kept
    if let kept { differences = [Double](repeating: 0, count: kept.count) }
    self.source = source
    self.entry = entry
    format = entry.dtype.format ?? .f32
    self.written = written
  }

  /// For a bias, which is written in its own dtype.
  convenience init?(_ biasSource: MergePlan.Source, _ item: SafetensorsLayout.Item, keeps: Bool) {
    guard let written = item.dtype.format else { return nil }
    switch biasSource {
    case .changeBias(let file, let entry, _), .addBias(let file, let entry, _):
      self.init(file.file, entry, written: written, keeps: keeps ? 0..<entry.elementCount : nil)
    default: return nil
    }
  }

  func copy(_ range: Range<Int>, from file: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    let bytes = try file.bytes(range)
    try write(bytes.span.bytes, at: byteOffset)
  }

  func write(_ bytes: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    let first = (byteOffset - offset) / written.byteCount
    let count = bytes.byteCount / written.byteCount
    var after = [Double](repeating: 0, count: count)
    var span = after.mutableSpan
    decode(bytes, from: written, into: &span)
    let start = entry.byteRange.lowerBound + first * format.byteCount
    let before = Double.decoded(try source.bytes(start..<start + count * format.byteCount), format)
    for index in 0..<count {
      let difference = after[index] - before[index]
      changeSquares += difference * difference
      weightSquares += before[index] * before[index]
      if let kept, kept.contains(first + index) { differences[first + index - kept.lowerBound] = difference }
    }
    self.count += count
  }

  /// Elements of the weight that stay: they count in its norm alone.
  func keep(_ elements: Range<Int>) throws(TensorFileError) {
    let start = entry.byteRange.lowerBound
    let bytes = start + elements.lowerBound * format.byteCount..<start + elements.upperBound * format.byteCount
    for value in Double.decoded(try source.bytes(bytes), format) { weightSquares += value * value }
  }

  func change(_ path: String, isAdditive: Bool) -> ModuleChange {
    ModuleChange(
      path: path, changeSquares: changeSquares, weightSquares: weightSquares, isAdditive: isAdditive,
      dtype: entry.dtype,
      elementCount: Double(count), difference: kept == nil ? nil : differences)
  }
}
