internal import TensorFiles

extension MergePlan {
  /// The output's files: the base's own, or filled anew up to the greatest size. Throws `.shardSize`.
  static func shards(
    of match: AdapterMatch, provenance: Provenance, limit: Int?
  ) throws(AdapterError) -> [Shard] {
    var shards = shards(of: match.base.checkpoint, provenance: provenance) { match.tensor($1, in: $0) }
    let last = shards.removeLast()
    shards.append(Shard(name: last.name, outputs: last.outputs + match.additions, metadata: last.metadata))
    return try resharded(shards, limit: limit)
  }

  /// The output's files for a checkpoint's own: the same division, under the names of safetensors files.
  ///
  /// A torch file's tensors that had to be laid out anew stand in a file of their own there, and come to their neighbours here.
  static func shards(
    of checkpoint: Checkpoint, provenance: Provenance?, output: (SafetensorsFile, TensorEntry) -> MatchedTensor
  ) -> [Shard] {
    var shards: [Shard] = []
    var paths: [String] = []
    for file in checkpoint.shards {
      let outputs = file.entries.map { output(file, $0) }
      if let last = paths.last, last == file.path, let shard = shards.popLast() {
        shards.append(Shard(name: shard.name, outputs: shard.outputs + outputs, metadata: shard.metadata))
        continue
      }
      var metadata = file.metadata
      if let provenance {
        metadata.removeAll { $0.key == Provenance.key }
        metadata.append(JSONValue.Member(Provenance.key, .string(provenance.text)))
      }
      paths.append(file.path)
      shards.append(Shard(name: name(of: file.path), outputs: outputs, metadata: metadata))
    }
    if checkpoint.index == nil, let only = shards.first, shards.count == 1 {
      shards = [Shard(name: Checkpoint.singleName, outputs: only.outputs, metadata: only.metadata)]
    }
    return shards
  }

  /// `pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`.
  private static func name(of path: String) -> String {
    let name = FileSystem.lastComponent(path)
    guard name.hasSuffix(".bin") else { return name }
    return name.dropLast(".bin".count).replacing("pytorch_model", with: "model") + ".safetensors"
  }

  /// The same outputs in files of at most that many bytes of data; nil keeps the files. Throws `.shardSize`.
  static func resharded(_ shards: [Shard], limit: Int?) throws(AdapterError) -> [Shard] {
    guard let limit else { return shards }
    let outputs = shards.flatMap(\.outputs)
    return try divided(outputs.map(\.item.byteCount), limit: limit).map { name, range in
      Shard(name: name, outputs: Array(outputs[range]), metadata: shards[0].metadata)
    }
  }

  /// Divides tensors of these sizes among files of at most that many bytes of data, and names the files as transformers does. A tensor
  /// is never split. Throws `.shardSize`.
  static func divided(
    _ byteCounts: [Int], limit: Int
  ) throws(AdapterError) -> [(name: String, tensors: Range<Int>)] {
    guard limit > 0 else { throw .shardSize(found: "\(limit)") }
    var starts = [0]
    var size = 0
    for (index, byteCount) in byteCounts.enumerated() {
      if size > 0 && size + byteCount > limit {
        starts.append(index)
        size = 0
      }
      size += byteCount
    }
    if starts.count == 1 { return [(Checkpoint.singleName, 0..<byteCounts.count)] }
    func padded(_ number: Int) -> String {
      let digits = String(number)
      return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
    }
    return starts.enumerated().map { index, start in
      let end = index + 1 < starts.count ? starts[index + 1] : byteCounts.count
      return ("model-\(padded(index + 1))-of-\(padded(starts.count)).safetensors", start..<end)
    }
  }

  /// A plan that writes a checkpoint as safetensors files and changes nothing. Second names of tensors are left out.
  ///
  /// Throws what `BaseModel.init` throws, and `.shardSize`.
  public init(converting path: String, options: MergeOptions = MergeOptions()) throws(AdapterError) {
    let base = try BaseModel(path: path)
    let shards = Self.shards(of: base.checkpoint, provenance: nil) { file, entry in
      MatchedTensor(unchanged: entry, in: file)
    }
    let sideFiles = try asAdapterError { () throws(TensorFileError) in
      try SideFiles(base: base.directory, adapters: [])
    }
    self.init(
      match: AdapterMatch(unchanged: base), options: options,
      shards: try Self.resharded(shards, limit: options.maxShardBytes), editedConfig: nil, sideFiles: sideFiles,
      notes: base.checkpoint.aliases.sorted { $0.key < $1.key }.map {
        "'\($0.key)' is '\($0.value)' under a second name"
      } + sideFiles.notes)
  }
}
