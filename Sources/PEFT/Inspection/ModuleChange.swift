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

extension AdapterMatch {
  /// What a merge changes, computed by the pieces of work that would write it, of which nothing is kept.
  ///
  /// Precision: f64 throughout, so that a half weight's rounding does not count. Memory: a block for each of `workers`, or
  /// a weight where a rule needs all of it. Throws `.file`.
  func moduleChanges(workers: Int) async throws -> [ModuleChange] {
    let tensors = changedTensors
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    let parts = try await withThrowingTaskGroup(of: [ModuleChange].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          var scratch = MergeScratch(allowsNonFinite: true)
          var found: [ModuleChange] = []
          for index in stride(from: worker, to: tensors.count, by: max(1, workers)) {
            try Task.checkCancellation()
            found += try self.changes(of: tensors[index], &scratch)
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

  /// What a tensor changes, one entry for each update of a weight's rows.
  /// - Parameter keeps: to give the differences themselves too, in the order of the stored elements.
  func changes(
    of tensor: MatchedTensor, _ scratch: inout MergeScratch, keeps: Bool = false
  ) throws(AdapterError) -> [ModuleChange] {
    let source = tensor.source
    func compute(
      _ part: TensorPiece.Part, of other: StoredTensor? = nil, at element: Int = 0, into sink: ChangeSink
    ) throws(AdapterError) {
      let piece = TensorPiece(
        source: other ?? source, part: part, target: element * sink.width, dtype: sink.dtype)
      try asAdapterError { () throws(TensorFileError) in try piece.perform(into: sink, scratch: &scratch) }
    }
    if !tensor.change.updates.isEmpty {
      return try zip(tensor.paths, tensor.change.updates).map { path, update throws(AdapterError) in
        let first = update.firstRow * update.columns
        let sink = ChangeSink(source, keeps: keeps ? first..<first + update.rows * update.columns : nil)
        try compute(.update(update, rows: 0..<update.rows), at: first, into: sink)
        return sink.change(path, isAdditive: update.isPlain)
      }
    }
    guard let path = tensor.paths.first else { return [] }
    var sink = ChangeSink(source, keepsAll: keeps)
    switch tensor.change {
    case .unchanged, .sums, .sumOnRows: break
    case .rules(let change): try compute(.rules(change, rows: 0..<change.storedRows), into: sink)
    case .biasRule, .biases:
      // A bias is computed in f64 and then rounded to its dtype; its own sources say how.
      guard tensor.item.dtype.format != nil else { return [] }
      sink = ChangeSink(source, dtype: tensor.item.dtype, keepsAll: keeps)
      if case .biasRule(let change) = tensor.change { try compute(.biasRule(change), into: sink) }
      if case .biases(let addends) = tensor.change { try compute(.biases(addends), into: sink) }
      return [sink.change(path, isAdditive: true)]
    case .rows(let rows):
      let width = source.shape.dropFirst().reduce(1, *)
      var next = 0
      for (row, place) in rows.places where row < source.shape[0] {
        try sink.keep(next * width..<row * width)
        try compute(.elements(place * width..<(place + 1) * width), of: rows.source, at: row * width, into: sink)
        next = row + 1
      }
      try sink.keep(next * width..<source.entry.elementCount)
    case .replacement:
      guard let stored = base.tensor(tensor.item.name), stored.shape == source.shape, source.entry.dtype.isComputable,
        stored.entry.dtype.isComputable
      else {
        return [ModuleChange(path: path, changeSquares: nil, isAdditive: false, dtype: source.entry.dtype)]
      }
      sink = ChangeSink(stored, keepsAll: keeps)
      try compute(.elements(0..<source.entry.elementCount), into: sink)
    }
    return [sink.change(path, isAdditive: tensor.change.isAdditive)]
  }
}

/// Compares what a merge writes with what was there, and keeps the sums only.
private final class ChangeSink: TensorSink {
  private let source: StoredTensor
  private let format: FloatFormat
  /// What is written.
  let dtype: DType
  private var changeSquares = 0.0
  private var weightSquares = 0.0
  private var count = 0
  /// The elements whose differences are kept, and these; what is not written does not differ.
  private let kept: Range<Int>?
  private var differences: [Double] = []

  init(_ source: StoredTensor, dtype: DType = .f64, keeps kept: Range<Int>?) {
    self.kept = kept
    if let kept { differences = [Double](repeating: 0, count: kept.count) }
    self.source = source
    format = source.entry.dtype.format ?? .f32
    self.dtype = dtype
  }

  convenience init(_ source: StoredTensor, dtype: DType = .f64, keepsAll: Bool) {
    self.init(source, dtype: dtype, keeps: keepsAll ? 0..<source.entry.elementCount : nil)
  }

  /// Bytes of an element that is written.
  var width: Int { dtype.bitCount / 8 }

  func copy(_ range: Range<Int>, from file: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    let bytes = try file.bytes(range)
    try write(bytes.span.bytes, at: byteOffset)
  }

  func write(_ bytes: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    guard let written = dtype.format else { return }
    let first = byteOffset / width
    let count = bytes.byteCount / width
    var after = [Double](repeating: 0, count: count)
    var span = after.mutableSpan
    decode(bytes, from: written, into: &span)
    let before = try before(first..<first + count)
    for index in 0..<count {
      let difference = after[index] - before[index]
      changeSquares += difference * difference
      weightSquares += before[index] * before[index]
      if let kept, kept.contains(first + index) { differences[first + index - kept.lowerBound] = difference }
    }
    self.count += count
  }

  /// Elements of the weight that stay: they count in its norm alone.
  func keep(_ elements: Range<Int>) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      for first in stride(from: elements.lowerBound, to: elements.upperBound, by: 1 << 16) {
        for value in try before(first..<min(first + 1 << 16, elements.upperBound)) { weightSquares += value * value }
      }
    }
  }

  private func before(_ elements: Range<Int>) throws(TensorFileError) -> [Double] {
    let start = source.entry.byteRange.lowerBound
    let bytes = start + elements.lowerBound * format.byteCount..<start + elements.upperBound * format.byteCount
    return Double.decoded(try source.file.bytes(bytes), format)
  }

  func change(_ path: String, isAdditive: Bool) -> ModuleChange {
    ModuleChange(
      path: path, changeSquares: changeSquares, weightSquares: weightSquares, isAdditive: isAdditive,
      dtype: source.entry.dtype, elementCount: Double(count), difference: kept == nil ? nil : differences)
  }
}
