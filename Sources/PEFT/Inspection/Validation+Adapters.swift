internal import TensorFiles
internal import TensorMath

extension Validation {
  mutating func checkAdapter(_ readsValues: Bool) {
    var config: PeftConfig?
    do throws(AdapterError) {
      let found = try PeftConfig.load(directory: path)
      config = found
      try found.checkUnknownKeys(path: FileSystem.join(path, PeftConfig.fileName))
    } catch {
      note("configuration", error)
      if case .foreignAdapter = error { return }
    }
    let file: SafetensorsFile
    do throws(AdapterError) {
      file = try Adapter.openWeights(path)
    } catch {
      if case .noTensors = error { note("no-tensors", error) } else { note("weights", error) }
      return
    }
    var seen: [ExactName: ValueScan] = [:]
    let prunes = ["ADALORA", "OSF"].contains(config?.peftType.rawValue)
    if readsValues { seen = scan(file, allowsEmpty: prunes) } else { count(file) }
    checkNames(file)
    guard let config else { return }
    if let method = AdapterMethod.named(config.peftType) {
      checkMethod(method, file, config)
    } else {
      checkLoRA(file, config, seen)
    }
  }

  private mutating func checkNames(_ file: SafetensorsFile) {
    var foreign: [String: Int] = [:]
    for entry in file.entries {
      for part in AdapterName.withoutForeignParts(entry.name).foreign { foreign[part, default: 0] += 1 }
    }
    for (part, count) in foreign.sorted(by: { $0.key < $1.key }) {
      note(
        "foreign-name", part,
        "\(count) tensor names have '\(part)' in them, which a wrapper left there; PEFT ignores such tensors. merge leaves it out"
      )
    }
  }
}
