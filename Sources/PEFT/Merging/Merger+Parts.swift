internal import TensorFiles

/// A merge that several programs do, each a part, over a file system that all of them see.
extension Merger {
  /// What came of a part.
  public struct PartOutcome: Sendable {
    /// Bytes of tensor data that the part wrote.
    public let writtenBytes: Int
    /// The directory, beside the output, in which the parts come together.
    public let staging: String
    /// As in `Outcome`, of this part.
    public let nonFiniteTensors: [String]
  }

  /// Writes a part of the merged model into a directory beside `output`. Nothing is at `output` before `finish`.
  ///
  /// A part that was killed is run again; so may be one that is done. The bytes are on the disk when this returns.
  /// Throws as `run(to:)`, and `.parts` with `.ofAnotherMerge`, `.badManifest`, `.leftOver`. `CancellationError` when the task is
  /// cancelled.
  public func run(
    _ part: MergePart, to output: String, progress: (@Sendable (Progress) -> Void)? = nil
  ) async throws -> PartOutcome {
    try check(part, to: output)
    let staging = MergeStaging(output: output)
    let manifest = try MergeManifest(plan, count: part.count)
    try staging.begin(manifest, output: output, like: [plan.base.directory].compactMap { $0 })
    let (files, shares) = try planned(part)
    do {
      var jobs: [PieceQueue.Job] = []
      for share in shares {
        let file = files[share.file]
        let target = try file.layout.open(
          at: FileSystem.join(staging.model, file.shard.name), writingHeader: share.writesHeader,
          permissions: permissions)
        jobs.append(PieceQueue.Job(target: target, pieces: Array(file.pieces[share.pieces])))
      }
      let bytes = jobs.reduce(0) { $1.pieces.reduce($0) { $0 + $1.byteCount } }
      let nonFinite = try await perform(jobs, totalBytes: bytes, progress)
      // Another machine may finish the merge, or this one lose its power.
      for job in jobs { try job.target.synchronize() }
      try staging.complete(part, of: manifest, nonFinite: nonFinite)
      return PartOutcome(
        writtenBytes: bytes, staging: staging.path, nonFiniteTensors: nonFinite.sorted(by: naturallyPrecedes))
    } catch let error as TensorFileError {
      throw AdapterError.file(namingBase(error))
    }
  }

  /// Checks that a part can be written: the output's place, and room for files that are not there yet. Writes nothing.
  ///
  /// Throws as `check(output:)`.
  public func check(_ part: MergePart, to output: String) throws(AdapterError) {
    let staging = MergeStaging(output: output)
    let (files, shares) = try planned(part)
    let needed = shares.reduce(0) { sum, share in
      let file = files[share.file]
      return FileSystem.exists(FileSystem.join(staging.model, file.shard.name)) ? sum : sum + file.layout.fileBytes
    }
    try Self.check(output: output, replacing: plan.options.replaceOutput, inputs: inputs, diskBytes: needed)
  }

  /// What a part will write: bytes of tensor data, and the names of its files. Throws `.file`.
  public func preview(of part: MergePart) throws(AdapterError) -> (byteCount: Int, files: [String]) {
    let (files, shares) = try planned(part)
    return (
      shares.reduce(0) { sum, share in files[share.file].pieces[share.pieces].reduce(sum) { $0 + $1.byteCount } },
      shares.map { files[$0.file].shard.name }
    )
  }

  /// Makes the output of its parts: index, configuration and tokenizer, and the name in one rename.
  ///
  /// Run again after it was killed, it goes on. Throws `.file` as `run(to:)`; `.parts` with `.none`, `.ofAnotherMerge`,
  /// `.missing`, `.different`, `.damaged`, `.badManifest`. On a throw the parts stay.
  @discardableResult
  public func finish(_ output: String) throws(AdapterError) -> Outcome {
    let staging = MergeStaging(output: output)
    let (count, nonFinite) = try checkParts(of: output)
    let outcome = Outcome(nonFiniteTensors: nonFinite.sorted(by: naturallyPrecedes))
    guard FileSystem.kind(staging.model) == .directory else {
      // It was killed between the rename and the removal.
      guard FileSystem.kind(output) == .directory else {
        throw .parts(.missing(staging: staging.path, parts: Array(1...count), count: count))
      }
      staging.discard()
      return outcome
    }
    try asAdapterError { () throws(TensorFileError) in
      let directory = try OutputDirectory(
        staged: staging.model, target: output, replacing: plan.options.replaceOutput, inputs: inputs)
      let names = Set(exactly: plan.shardNames)
      // What a killed run of this wrote of the other files.
      for name in try FileSystem.names(in: staging.model) where !names.contains(ExactName(name)) {
        try FileSystem.remove(directory.path(name))
      }
      for name in plan.shardNames { try permissions.restrict(directory.path(name)) }
      try writeIndex(directory)
      try writeSideFiles(directory)
      try directory.commit(durable: plan.options.durable)
    }
    staging.discard()
    return outcome
  }

  /// Removes what is there of a merge in so many parts, if it is this one. Failures are ignored.
  public func discardParts(of output: String, count: Int) {
    let staging = MergeStaging(output: output)
    guard let manifest = try? MergeManifest(plan, count: count), (try? staging.check(manifest)) != nil else { return }
    staging.discard()
  }

  /// Checks that all parts of an output are there and of this merge. How many they are, and the names of tensors that are not
  /// finite. Throws as `finish`.
  @discardableResult
  public func checkParts(of output: String) throws(AdapterError) -> (count: Int, nonFiniteTensors: Set<String>) {
    let staging = MergeStaging(output: output)
    let count = try staging.manifest(output: output).count
    let manifest = try MergeManifest(plan, count: count)
    try staging.check(manifest)
    let nonFinite = try staging.checkComplete(manifest)
    if FileSystem.kind(staging.model) == .directory { try checkFiles(staging, count: count) }
    return (count, nonFinite)
  }

  /// Throws `.parts` with `.damaged`.
  private func checkFiles(_ staging: MergeStaging, count: Int) throws(AdapterError) {
    for (index, shard) in plan.shards.enumerated() {
      let path = FileSystem.join(staging.model, shard.name)
      let isWhole = try asAdapterError { () throws(TensorFileError) in
        let layout = try shard.layout(at: path)
        guard FileSystem.kind(path) == .file else { return false }
        let file = try OpenFile.open(reading: path)
        guard try file.byteCount() == layout.fileBytes else { return false }
        return try file.bytes(0..<layout.header.count) == layout.header
      }
      guard !isWhole else { continue }
      let writers = try asAdapterError { () throws(TensorFileError) in
        let sizes = try plannedFiles().map { $0.pieces.map(\.byteCount) }
        return (1...count).filter { number in
          MergePart(number: number, of: count)?.shares(of: sizes).contains { $0.file == index } ?? false
        }
      }
      throw .parts(.damaged(file: path, parts: writers, count: count))
    }
  }

  /// A file to be written, and its pieces.
  private struct PlannedFile {
    let shard: MergePlan.Shard
    let layout: SafetensorsLayout
    let pieces: [MergeWork]
  }

  private func plannedFiles() throws(TensorFileError) -> [PlannedFile] {
    var files: [PlannedFile] = []
    for shard in plan.shards {
      let layout = try shard.layout(at: shard.name)
      files.append(PlannedFile(shard: shard, layout: layout, pieces: MergeWork.pieces(shard.outputs, layout: layout)))
    }
    return files
  }

  /// All files, and what of them is a part's.
  private func planned(_ part: MergePart) throws(AdapterError) -> (files: [PlannedFile], shares: [MergePart.Share]) {
    let files = try asAdapterError { () throws(TensorFileError) in try plannedFiles() }
    return (files, part.shares(of: files.map { $0.pieces.map(\.byteCount) }))
  }
}
