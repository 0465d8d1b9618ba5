internal import Numerics
internal import TensorFiles

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
  }

  /// What was looked at.
  public enum Subject: String, Sendable {
    case adapter
    case checkpoint
  }

  public let subject: Subject
  public let path: String
  public private(set) var findings: [Finding] = []
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
      && [PeftConfig.fileName, Adapter.weightsName].contains { FileSystem.kind(FileSystem.join(path, $0)) == .file }
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

  mutating func note(_ code: String, _ error: AdapterError) { note(code, path, error.description) }

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
      guard let format = entry.dtype.format else { continue }
      var scan = ValueScan()
      do throws(TensorFileError) {
        for start in stride(from: entry.byteRange.lowerBound, to: entry.byteRange.upperBound, by: 1 << 20) {
          let bytes = try file.file.bytes(start..<min(start + 1 << 20, entry.byteRange.upperBound))
          scan.add(bytes.span.bytes, format)
        }
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

// MARK: - Adapters

extension Validation {
  private mutating func checkAdapter(_ readsValues: Bool) {
    var config: PeftConfig?
    do throws(AdapterError) {
      let found = try PeftConfig.load(directory: path)
      config = found
      try found.checkUnknownKeys(path: FileSystem.join(path, PeftConfig.fileName))
    } catch {
      note("configuration", error)
    }
    let file: SafetensorsFile
    do throws(AdapterError) {
      file = try Adapter.openWeights(path)
    } catch {
      if case .noTensors = error { note("no-tensors", error) } else { note("weights", error) }
      return
    }
    if !file.metadata.contains(where: { $0.key == "format" }) {
      note(
        "metadata", FileSystem.lastComponent(file.path), "no 'format' in the metadata; transformers refuses such a file"
      )
    }
    var seen: [ExactName: ValueScan] = [:]
    let prunes = ["ADALORA", "OSF"].contains(config?.peftType.rawValue)
    if readsValues { seen = scan(file, allowsEmpty: prunes) } else { count(file) }
    checkNames(file)
    guard let config else { return }
    if let method = AdapterMethod.named(config.peftType) {
      do throws(AdapterError) {
        _ = try MethodParts(file, config, method)
      } catch {
        note("tensor", error)
      }
    } else {
      checkLoRA(file, config, seen)
    }
  }

  private mutating func checkNames(_ file: SafetensorsFile) {
    var foreign: [ExactName: Int] = [:]
    for entry in file.entries {
      for part in AdapterName.withoutForeignParts(entry.name).foreign { foreign[part, default: 0] += 1 }
    }
    for (part, count) in foreign.sorted(by: { $0.key < $1.key }) {
      note(
        "foreign-name", part.text,
        "\(count) tensor names have '\(part)' in them, which a wrapper left there; PEFT ignores such tensors. merge leaves it out"
      )
    }
  }

  private mutating func checkLoRA(_ file: SafetensorsFile, _ config: PeftConfig, _ seen: [ExactName: ValueScan]) {
    var modules: [ExactName: [ExactName: TensorEntry]] = [:]
    for entry in file.entries {
      let name = AdapterName.withoutForeignParts(entry.name).name
      guard name.hasPrefix(Adapter.prefix) else {
        note("tensor", entry.name, "the name does not begin with 'base_model.model.'; PEFT ignores it")
        continue
      }
      if !entry.dtype.isComputable {
        note("dtype", entry.name, "\(entry.dtype.rawValue) is no floating-point type; expected F32, F16, BF16 or F64")
      }
      // A name without a module, base_model.model.lora_A.weight, has its dot within the prefix.
      let inner = name.dropFirst(Adapter.prefix.count)
      guard let range = inner.firstRange(of: ".lora_") else { continue }
      let path = String(inner[..<range.lowerBound])
      modules[path, default: [:]][String(inner[inner.index(after: range.lowerBound)...])] = entry
    }
    if modules.isEmpty && (config.modulesToSave ?? []).isEmpty {
      note("no-lora", path, "the file holds no lora_A and lora_B")
    }
    let scaling = try? LoRAScaling(config, path: path)
    for (name, tensors) in modules.sorted(by: { naturallyPrecedes($0.key.text, $1.key.text) }) {
      let module = name.text
      let a = tensors["lora_A.weight"] ?? tensors["lora_embedding_A"]
      let b = tensors["lora_B.weight"] ?? tensors["lora_embedding_B"]
      guard let a, let b else {
        note(
          "unpaired", module,
          "only \(tensors.keys.sorted().map(\.text).joined(separator: ", ")) is there; lora_A and lora_B are needed")
        continue
      }
      if let scan = seen[b.name], scan.isZero, b.elementCount > 0 {
        note("zero-B", module, "lora_B is all zero: the adapter changes nothing here")
      }
      checkRank(module, a, b, config, scaling)
    }
    checkTargets(modules.keys.map(\.text).sorted(by: naturallyPrecedes), config)
  }

  private mutating func checkRank(
    _ module: String, _ a: TensorEntry, _ b: TensorEntry, _ config: PeftConfig, _ scaling: LoRAScaling?
  ) {
    guard a.shape.count >= 2, b.shape.count == a.shape.count else {
      note("shape", module, "lora_A is \(a.shape), lora_B \(b.shape)")
      return
    }
    let blocks = config.useBDLoRA["nblocks"]?.integerValue ?? 1
    guard a.shape[0] == b.shape[1] || (blocks > 1 && a.shape[0] == b.shape[1] * blocks) else {
      note("shape", module, "lora_A \(a.shape) and lora_B \(b.shape) have no common rank")
      return
    }
    var paths = config.targetedParameters(in: MergePlanMaker.unwrapped(module).path).map {
      "\(MergePlanMaker.unwrapped(module).path).\($0)"
    }
    let isParameter = !paths.isEmpty
    if !isParameter { paths = [module] }
    let ranks = paths.compactMap {
      try? scaling?.values(for: $0, leastExtent: min(a.shape[1], b.shape[0])).rank
    }
    // A parameter of experts has one rank an expert.
    guard !ranks.isEmpty, !ranks.contains(where: { isParameter ? a.shape[0] % $0 == 0 : a.shape[0] == $0 }) else {
      return
    }
    note("rank", module, "the configuration says \(ranks[0]), the tensors have \(a.shape[0])")
  }

  private mutating func checkTargets(_ modules: [String], _ config: PeftConfig) {
    guard let rule = config.targetModules, !rule.isAllLinear, let matcher = try? TargetMatcher(config) else { return }
    for module in modules {
      let outer = module.firstRange(of: ".base_layer").map { String(module[..<$0.lowerBound]) } ?? module
      guard config.targetedParameters(in: outer).isEmpty, !config.ensureWeightTying else { continue }
      if let verdict = try? matcher.verdict(outer), verdict != .targeted {
        note("not-targeted", module, "target_modules (\(rule.description)) does not name it; PEFT ignores its tensors")
      }
    }
    guard case .names(let names) = rule else { return }
    for name in names where !modules.contains(where: { TargetMatcher.matches([ExactName(name)], $0) }) {
      note("missing-target", name, "target_modules names it, but the file holds no such module")
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
    for name in files { _ = open(FileSystem.join(directory, name), readsValues) }
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
      note("damaged", FileSystem.lastComponent(path), error.description)
      return nil
    }
  }

  private mutating func checkIndex(_ path: String, _ directory: String, _ files: [String], _ readsValues: Bool) {
    let index: ShardIndex
    do throws(TensorFileError) {
      index = try ShardIndex(path: path)
    } catch {
      note("index", FileSystem.lastComponent(path), error.description)
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
      note("config", "config.json", error.description)
    }
  }
}
