internal import TensorFiles
internal import TensorMath

/// Carries a plan out.
public struct Merger: Sendable {
  /// How far a merge is.
  public struct Progress: Sendable {
    /// Bytes of tensor data written so far.
    public let writtenBytes: Int
    /// Bytes of tensor data in all.
    public let totalBytes: Int
  }

  /// What came of a merge.
  public struct Outcome: Sendable {
    /// Tensors of the result that hold infinities or NaNs, in the natural order of names; none unless the plan allows them.
    public let nonFiniteTensors: [String]

    package init(nonFiniteTensors: [String]) { self.nonFiniteTensors = nonFiniteTensors }
  }

  public let plan: MergePlan
  /// Tasks at work at once.
  public let workers: Int

  /// - Parameter workers: at least one; by default two, which saturates the page cache on most machines.
  public init(_ plan: MergePlan, workers: Int = 2) {
    self.plan = plan
    self.workers = max(1, workers)
  }

  /// Writes the merged model to `output`, whole or not at all.
  ///
  /// Precision: see `LowRankUpdate`; the same bits whatever the number of workers.
  /// - Parameter progress: called from any task, after each piece of up to 16 MiB.
  /// Throws `.file` with `.outputExists`, `.outputOverlapsInput`, `.noSpace`, `.system`, `.shortRead`, `.resultNotFinite`; on a
  /// throw nothing is left behind. `CancellationError` when the task is cancelled.
  @discardableResult
  public func run(
    to output: String, progress: (@Sendable (Progress) -> Void)? = nil
  ) async throws -> Outcome {
    try check(output: output)
    do {
      let directory = try OutputDirectory(
        target: output, replacing: plan.options.replaceOutput, inputs: inputs,
        like: [plan.base.directory].compactMap { $0 })
      do {
        let nonFinite = try await writeShards(directory, progress)
        try writeIndex(directory)
        try writeSideFiles(directory)
        try directory.commit(durable: plan.options.durable)
        return Outcome(nonFiniteTensors: nonFinite.sorted(by: naturallyPrecedes))
      } catch {
        directory.discard()
        throw error
      }
    } catch let error as TensorFileError {
      throw AdapterError.file(namingBase(error))
    }
  }

  /// A result that is not finite goes by the output's name of its tensor. Where it was made from the adapter's own copy of an
  /// embedding, which has another name in its file, the base is the file that has that tensor.
  func namingBase(_ error: TensorFileError) -> TensorFileError {
    guard case .resultNotFinite(let path, let tensor, let dtype, let element, let cameSo) = error,
      plan.adapters.contains(where: { $0.file.path == path && $0.file[tensor] == nil })
    else { return error }
    return .resultNotFinite(path: plan.base.path, tensor: tensor, dtype: dtype, element: element, cameSo: cameSo)
  }

  /// Checks that the output can be written: its place, and the room for it. Writes nothing.
  ///
  /// Throws `.file` with `.outputExists`, `.outputOverlapsInput`, `.noSpace`, `.system`.
  public func check(output: String) throws(AdapterError) {
    try Self.check(
      output: output, replacing: plan.options.replaceOutput, inputs: inputs, diskBytes: plan.diskBytes)
  }

  static func check(
    output: String, replacing: Bool, inputs: [String], diskBytes: Int
  ) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      try OutputDirectory.check(target: output, replacing: replacing, inputs: inputs)
      var existing = FileSystem.parentDirectory(output)
      while FileSystem.kind(existing) == nil { existing = FileSystem.parentDirectory(existing) }
      let available = try FileSystem.availableBytes(at: existing)
      guard available >= diskBytes else {
        throw .noSpace(path: existing, neededBytes: diskBytes, availableBytes: available)
      }
    }
  }

  /// The directories that are read, and the files themselves, which may be links to elsewhere.
  var inputs: [String] {
    [plan.base.directory ?? plan.base.path] + plan.adapters.flatMap { [$0.directory, $0.file.path] }
      + plan.base.checkpoint.shards.map(\.path) + plan.sideFiles.items.map(\.source)
  }

  /// Those that all of the base's shards have: tensors may come from any of them.
  var permissions: FilePermissions { FilePermissions(of: plan.base.checkpoint.shards.map(\.path)) }

  // MARK: Tensors

  /// Returns the names of tensors that are not finite.
  private func writeShards(
    _ directory: OutputDirectory, _ progress: (@Sendable (Progress) -> Void)?
  ) async throws -> Set<String> {
    var jobs: [PieceQueue.Job] = []
    for shard in plan.shards {
      let path = directory.path(shard.name)
      let layout = try shard.layout(at: path)
      let target = try layout.create(at: path, permissions: permissions)
      jobs.append(PieceQueue.Job(target: target, pieces: MergeWork.pieces(shard.outputs, layout: layout)))
    }
    return try await perform(jobs, totalBytes: plan.dataBytes, progress)
  }

  typealias PieceQueue = WorkQueue<OpenFile, MergeWork>

  /// Does pieces of files. Returns the names of tensors that are not finite.
  func perform(
    _ jobs: [PieceQueue.Job], totalBytes: Int, _ progress: (@Sendable (Progress) -> Void)?
  ) async throws -> Set<String> {
    let queue = PieceQueue(jobs)
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    let isLenient = plan.options.allowNonFinite
    return try await withThrowingTaskGroup(of: Set<String>.self) { group in
      for _ in 0..<workers {
        group.addTask {
          var scratch = MergeScratch(allowsNonFinite: isLenient)
          while let job = queue.nextJob() {
            while let piece = job.takePiece() {
              try Task.checkCancellation()
              try piece.perform(into: job.target, scratch: &scratch)
              progress?(Progress(writtenBytes: queue.add(piece.byteCount), totalBytes: totalBytes))
            }
          }
          return scratch.finiteCheck.names
        }
      }
      return try await group.reduce(into: []) { $0.formUnion($1) }
    }
  }

  // MARK: Everything else

  func writeIndex(_ directory: OutputDirectory) throws(TensorFileError) {
    guard plan.shards.count > 1 || plan.shards[0].name != Checkpoint.singleName else { return }
    var shardOfTensor: [ExactName: String] = [:]
    for shard in plan.shards {
      for output in shard.outputs { shardOfTensor[output.item.name] = shard.name }
    }
    let text = ShardIndex.text(
      shardOfTensor: shardOfTensor, totalBytes: plan.dataBytes, previous: plan.base.checkpoint.index?.document)
    try OpenFile.create(directory.path(Checkpoint.indexName), permissions: permissions).write(text)
  }

  func writeSideFiles(_ directory: OutputDirectory) throws(TensorFileError) {
    for item in plan.sideFiles.items {
      let path = directory.path(item.name)
      if item.name.contains("/") { try FileSystem.makeDirectories(FileSystem.parentDirectory(path)) }
      if item.name == "config.json", let edited = plan.editedConfig {
        let file = try OpenFile.create(path, permissions: FilePermissions(of: [item.source]))
        try file.write(edited.pythonText(sortedKeys: false) + "\n")
      } else {
        try FileSystem.copy(item.source, to: path)
      }
    }
  }
}
