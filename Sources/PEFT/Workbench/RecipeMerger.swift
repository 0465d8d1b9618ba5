internal import TensorFiles
internal import TensorMath

/// Carries a recipe's plan out.
public struct RecipeMerger: Sendable {
  public let plan: RecipePlan
  /// Tensors at work at once.
  public let workers: Int

  public init(_ plan: RecipePlan, workers: Int = 2) {
    self.plan = plan
    self.workers = max(1, workers)
  }

  /// Writes the model to `output`, whole or not at all.
  ///
  /// Precision: each element is computed in f32 and f64 and rounded once; the same bits whatever the number of workers.
  /// Memory: some hundred KiB for each model and worker, see `TensorMixer`; more where an adapter changes a tensor.
  /// - Parameter progress: called from any task, after each stretch.
  /// Throws `.adapter` with the file cases that `Merger.run` throws; `CancellationError` when the task is cancelled. On a throw
  /// nothing is left behind.
  @discardableResult
  public func run(
    to output: String, progress: (@Sendable (Merger.Progress) -> Void)? = nil
  ) async throws -> Merger.Outcome {
    try check(output: output)
    do {
      let directory = try OutputDirectory(
        target: output, replacing: plan.options.replaceOutput, inputs: plan.inputs, like: plan.directories)
      do {
        let nonFinite = try await writeShards(directory, progress)
        try writeOthers(directory)
        try directory.commit(durable: plan.options.durable)
        return Merger.Outcome(nonFiniteTensors: nonFinite.sorted(by: naturallyPrecedes))
      } catch {
        directory.discard()
        throw error
      }
    } catch let error as TensorFileError {
      throw RecipeError.adapter(.file(error))
    }
  }

  /// Checks that the output can be written: its place, and the room for it. Writes nothing. Throws `.adapter`.
  public func check(output: String) throws(RecipeError) {
    try asRecipeError { () throws(AdapterError) in
      try Merger.check(
        output: output, replacing: plan.options.replaceOutput, inputs: plan.inputs, diskBytes: plan.diskBytes)
    }
  }

  /// Those that the files of all models have: tensors come from any of them.
  private var permissions: FilePermissions { FilePermissions(of: plan.weights) }

  /// A tensor to be written, and where.
  private struct Piece: Sendable {
    let output: RecipePlan.Output
    let target: Int
    let generator: TorchGenerator
  }

  private func writeShards(
    _ directory: OutputDirectory, _ progress: (@Sendable (Merger.Progress) -> Void)?
  ) async throws -> Set<String> {
    let generators = generators()
    var jobs: [WorkQueue<OpenFile, Piece>.Job] = []
    for shard in plan.shards {
      let path = directory.path(shard.name)
      let layout = try SafetensorsLayout(path: path, items: shard.outputs.map(\.item), metadata: plan.metadata)
      let pieces = zip(shard.outputs, layout.entries).map { output, entry in
        Piece(
          output: output, target: entry.byteRange.lowerBound,
          generator: generators[ExactName(output.item.name)] ?? TorchGenerator(seed: 0))
      }
      // The largest come first, so that no task is left alone with one at the end.
      let sorted = pieces.sorted { $0.output.item.byteCount > $1.output.item.byteCount }
      jobs.append(WorkQueue.Job(target: try layout.create(at: path, permissions: permissions), pieces: sorted))
    }
    let queue = WorkQueue(jobs)
    let total = plan.dataBytes
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    return try await withThrowingTaskGroup(of: Set<String>.self) { group in
      for _ in 0..<workers {
        group.addTask {
          var nonFinite: Set<String> = []
          while let job = queue.nextJob() {
            while let piece = job.takePiece() {
              let isFinite = try write(piece, into: job.target) { bytes in
                progress?(Merger.Progress(writtenBytes: queue.add(bytes), totalBytes: total))
              }
              if !isFinite { nonFinite.insert(piece.output.item.name) }
            }
          }
          return nonFinite
        }
      }
      return try await group.reduce(into: []) { $0.formUnion($1) }
    }
  }

  /// Where the draws of each tensor begin: one stream serves all, in the order in which mergekit computes them.
  private func generators() -> [ExactName: TorchGenerator] {
    var generator = TorchGenerator(seed: plan.options.seed)
    var drawing: [(label: ExactName, name: ExactName, words: Int)] = []
    for output in plan.shards.flatMap(\.outputs) {
      guard case .mix(let mixing) = output.source, case .changes(let rule) = mixing.mix else { continue }
      let words = rule.draws(output.item.shape.reduce(1, *))
      if words > 0 { drawing.append((ExactName(mixing.label), ExactName(output.item.name), words)) }
    }
    var result: [ExactName: TorchGenerator] = [:]
    for (_, name, words) in drawing.sorted(by: { ($0.label, $0.name) < ($1.label, $1.name) }) {
      result[name] = generator
      generator.skip(words: words)
    }
    return result
  }

  /// Returns whether all values are finite. Throws `.resultNotFinite` for the first that is not, unless the plan allows it.
  private func write(_ piece: Piece, into file: OpenFile, progress: (Int) -> Void) throws -> Bool {
    let item = piece.output.item
    switch piece.output.source {
    case .copy(let source, let entry):
      for start in stride(from: 0, to: entry.byteRange.count, by: MergeWork.pieceBytes) {
        try Task.checkCancellation()
        let end = min(start + MergeWork.pieceBytes, entry.byteRange.count)
        let first = entry.byteRange.lowerBound
        try file.copy(first + start..<first + end, from: source, to: piece.target + start)
        progress(end - start)
      }
      return true
    case .mix(let mixing):
      guard let format = item.dtype.format else { return true }
      var readers: [RecipeTensorReader] = []
      for source in mixing.inputs + [mixing.base].compactMap({ $0 }) { readers.append(try RecipeTensorReader(source)) }
      let mixer = TensorMixer(
        mix: mixing.mix, inputs: mixing.inputs.count, hasBase: mixing.base != nil, shape: item.shape)
      var bytes: [UInt8] = []
      var areFinite = true
      try mixer.run(generator: piece.generator) { elements, block in
        try Task.checkCancellation()
        for slot in readers.indices { try readers[slot].read(elements, into: &block, slot: slot) }
      } write: { block, first in
        let count = block.count * format.byteCount
        if bytes.count != count { bytes = [UInt8](repeating: 0, count: count) }
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        block.encodeResult(to: format, into: &raw)
        if !allFinite(bytes.span.bytes, format) {
          areFinite = false
          if !plan.options.allowNonFinite { throw notFinite(item, file, bytes, format, block, first) }
        }
        try file.write(bytes.span.bytes, at: piece.target + first * format.byteCount)
        progress(count)
      }
      return areFinite
    }
  }

  private func notFinite(
    _ item: SafetensorsLayout.Item, _ file: OpenFile, _ bytes: [UInt8], _ format: FloatFormat, _ block: MixingBlock,
    _ first: Int
  ) -> TensorFileError {
    let width = format.byteCount
    var index = 0
    while allFinite(bytes.span.bytes.extracting(index * width..<(index + 1) * width), format) { index += 1 }
    return .resultNotFinite(
      path: file.path, tensor: item.name, dtype: item.dtype,
      element: TensorEntry.position(first + index, in: item.shape), cameSo: !block.isFinite(at: index))
  }

  // MARK: Everything else

  private func writeOthers(_ directory: OutputDirectory) throws(TensorFileError) {
    if plan.shards.count > 1 {
      var shardOfTensor: [ExactName: String] = [:]
      for shard in plan.shards {
        for output in shard.outputs { shardOfTensor[ExactName(output.item.name)] = shard.name }
      }
      let text = ShardIndex.text(shardOfTensor: shardOfTensor, totalBytes: plan.dataBytes, previous: nil)
      try OpenFile.create(directory.path(Checkpoint.indexName), permissions: permissions).write(text)
    }
    for item in plan.sideFiles {
      let path = directory.path(item.name)
      if item.name.contains("/") { try FileSystem.makeDirectories(FileSystem.parentDirectory(path)) }
      if item.name == "config.json", let config = plan.config {
        let file = try OpenFile.create(path, permissions: FilePermissions(of: [item.source]))
        try file.write(config.pythonText(sortedKeys: false) + "\n")
      } else {
        try FileSystem.copy(item.source, to: path)
      }
    }
    try OpenFile.create(directory.path(RecipeCard.recipeName)).write(plan.recipe.text)
    try OpenFile.create(directory.path(ModelCard.fileName)).write(RecipeCard(recipe: plan.recipe).text)
  }
}
