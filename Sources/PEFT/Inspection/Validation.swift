internal import TensorFiles
internal import TensorMath

/// What is wrong with an adapter, a base or an index: all that can be found, not only the first.
public struct Validation: Sendable {
  /// One thing that is wrong.
  public struct Finding: Sendable, Equatable {
    /// What kind it is, such as "zero-B" or "missing-shard".
    public let code: String
    /// The tensor, module or file.
    public let place: String
    /// The facts.
    public let message: String

    /// False for what an adapter may well have: a target that no module bears. Only the base tells whether one should.
    public var isWrong: Bool { code != "missing-target" }
  }

  /// What was looked at.
  public enum Subject: String, Sendable {
    case adapter
    case checkpoint
  }

  public let subject: Subject
  public let path: String
  public private(set) var findings: [Finding] = []
  /// True if none of the findings is wrong.
  public var isValid: Bool { !findings.contains(where: \.isWrong) }
  /// Tensors that were read.
  public private(set) var tensorCount = 0

  /// Looks at an adapter's directory, a model's directory, an index or a safetensors file.
  ///
  /// - Parameter readsValues: false to look at headers only.
  /// Throws `.file` if nothing is there. What is there and wrong is a finding.
  public init(path: String, readsValues: Bool = true) throws(AdapterError) {
    self.path = path
    guard let kind = FileSystem.kind(path) else {
      throw .file(.system(path: path, operation: "open", code: 2))
    }
    let isAdapter =
      kind == .directory
      && [PeftConfig.fileName, Adapter.weightsName, Adapter.torchName].contains {
        FileSystem.kind(FileSystem.join(path, $0)) == .file
      }
    subject = isAdapter ? .adapter : .checkpoint
    if isAdapter {
      checkAdapter(readsValues)
    } else {
      try checkCheckpoint(readsValues)
    }
  }

  mutating func note(_ code: String, _ place: String, _ message: String) {
    findings.append(Finding(code: code, place: place, message: message))
  }

  mutating func note(_ code: String, _ error: AdapterError) { note(code, facts: error.facts) }

  mutating func note(_ code: String, _ error: TensorFileError) { note(code, facts: error.description) }

  /// Facts that begin with the file that they are about: it is the place, and said once.
  private mutating func note(_ code: String, facts: String) {
    guard facts.hasPrefix(path), let end = facts.dropFirst(path.count).firstRange(of: ": ") else {
      note(code, path, facts)
      return
    }
    note(code, String(facts[..<end.lowerBound]), String(facts[end.upperBound...]))
  }

  // MARK: Values

  /// Looks at all values of a file's tensors. Returns what was seen by name.
  /// - Parameter allowsEmpty: for methods that may prune a module to nothing.
  mutating func scan(_ file: SafetensorsFile, allowsEmpty: Bool = false) -> [ExactName: ValueScan] {
    var seen: [ExactName: ValueScan] = [:]
    for entry in file.entries {
      tensorCount += 1
      if entry.elementCount == 0 && !allowsEmpty {
        note("empty-tensor", entry.name, "shape \(entry.shape) holds nothing; common after saving under ZeRO-3")
      }
      guard entry.dtype.isComputable else { continue }
      let scan: ValueScan
      do throws(TensorFileError) {
        scan = try ValueScan(file.file, entry)
      } catch {
        note("unreadable", entry.name, error.description)
        continue
      }
      if scan.nonFiniteCount > 0 {
        note(
          "not-finite", entry.name, "\(scan.nonFiniteCount) of \(entry.elementCount) values are infinite or no numbers")
      }
      seen[entry.name] = scan
    }
    return seen
  }

  mutating func count(_ file: SafetensorsFile) {
    tensorCount += file.entries.count
    for entry in file.entries where entry.elementCount == 0 {
      note("empty-tensor", entry.name, "shape \(entry.shape) holds nothing")
    }
  }
}

// MARK: - Checkpoints

extension Validation {
  private mutating func checkCheckpoint(_ readsValues: Bool) throws(AdapterError) {
    let isDirectory = FileSystem.kind(path) == .directory
    let directory = isDirectory ? path : FileSystem.parentDirectory(path)
    var index: String?
    var files: [String] = []
    if isDirectory {
      let names = try asAdapterError { () throws(TensorFileError) in try FileSystem.names(in: path) }
      files = names.filter { $0.hasSuffix(".safetensors") }
      index = names.first { $0.hasSuffix(".safetensors.index.json") }
      if files.isEmpty, index == nil { files = names.filter { $0 == Checkpoint.torchName } }
      if let format = ForeignAdapter(path: path) {
        note("configuration", AdapterError.foreignAdapter(path: path, format: format))
        return
      }
      checkConfig(directory)
    } else if path.hasSuffix(".index.json") {
      index = FileSystem.lastComponent(path)
    } else {
      files = [FileSystem.lastComponent(path)]
    }
    if let index {
      checkIndex(FileSystem.join(directory, index), directory, files, readsValues)
      return
    }
    if files.isEmpty { note("no-checkpoint", path, "no safetensors file and no index") }
    for name in files {
      guard let count = Checkpoint.shardCount(inName: name) else { continue }
      let names = try asAdapterError { () throws(TensorFileError) in try FileSystem.names(in: directory) }
      guard !names.contains(where: { $0.hasSuffix(".index.json") }) else { continue }
      note("missing-index", name, "one shard of \(count), and no index says what the others hold")
    }
    for name in files {
      let path = FileSystem.join(directory, name)
      if name.hasSuffix(".bin") { openTorch(path, readsValues) } else { _ = open(path, readsValues) }
    }
  }

  /// Opens and scans a file of torch.
  private mutating func openTorch(_ path: String, _ readsValues: Bool) {
    do throws(TensorFileError) {
      for file in try SafetensorsFile.openAny(path: path).files {
        if readsValues { _ = scan(file) } else { count(file) }
      }
    } catch {
      note("damaged", error)
    }
  }

  /// Opens and scans one file; nil, with a finding, if it is damaged.
  private mutating func open(_ path: String, _ readsValues: Bool) -> SafetensorsFile? {
    do throws(TensorFileError) {
      let file = try SafetensorsFile(path: path)
      if !file.metadata.contains(where: { $0.key == "format" }) {
        note(
          "metadata", FileSystem.lastComponent(path), "no 'format' in the metadata; transformers refuses such a file")
      }
      if readsValues { _ = scan(file) } else { count(file) }
      return file
    } catch {
      note("damaged", error)
      return nil
    }
  }

  private mutating func checkIndex(_ path: String, _ directory: String, _ files: [String], _ readsValues: Bool) {
    let index: ShardIndex
    do throws(TensorFileError) {
      index = try ShardIndex(path: path)
    } catch {
      note("index", error)
      return
    }
    var held: [ExactName: String] = [:]
    var bytes = 0
    for (shard, tensors) in index.tensorsByShard {
      let shardPath = FileSystem.join(directory, shard)
      guard FileSystem.kind(shardPath) == .file else {
        note("missing-shard", shard, "the index lists \(tensors.count) tensors in it, but it is not there")
        continue
      }
      guard let file = open(shardPath, readsValues) else { continue }
      for tensor in tensors where file[tensor] == nil {
        note("missing-tensor", tensor, "the index lists it in '\(shard)', which does not hold it")
      }
      for entry in file.entries {
        bytes += entry.byteRange.count
        if let other = held.updateValue(shard, forKey: entry.name) {
          note("duplicate-tensor", entry.name, "both '\(other)' and '\(shard)' hold it")
        } else if index.shardOfTensor[entry.name] == nil {
          note("unlisted-tensor", entry.name, "'\(shard)' holds it, but the index does not list it")
        } else if index.shardOfTensor[entry.name]?.isExactly(shard) == false {
          note(
            "misplaced-tensor", entry.name,
            "'\(shard)' holds it; the index lists it in '\(index.shardOfTensor[entry.name] ?? "")'")
        }
      }
    }
    let listed = Set(exactly: index.tensorsByShard.map(\.shard))
    for name in files where !listed.contains(name) {
      note("orphan-file", name, "the index does not name it; some loaders would take it for the whole model")
    }
    if let total = index.document["metadata"]?["total_size"]?.integerValue, total != bytes,
      !findings.contains(where: { $0.code == "missing-shard" || $0.code == "damaged" })
    {
      note("total-size", FileSystem.lastComponent(path), "says \(total) bytes; the tensors have \(bytes)")
    }
  }

  private mutating func checkConfig(_ directory: String) {
    do throws(TensorFileError) {
      guard let path = try ModelFiles.path("config.json", in: directory) else {
        note("no-config", "config.json", "transformers cannot load a model without it")
        return
      }
      if try JSONValue(contentsOf: path).members == nil { note("config", "config.json", "not a JSON object") }
    } catch {
      note("config", error)
    }
  }
}
