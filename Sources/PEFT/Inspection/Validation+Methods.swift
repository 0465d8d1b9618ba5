internal import TensorFiles

extension Validation {
  /// Looks at the tensors of another method than LoRA: each module's by the rule that a merge would make of them.
  mutating func checkMethod(_ method: AdapterMethod, _ file: SafetensorsFile, _ config: PeftConfig) {
    let configPath = FileSystem.join(path, PeftConfig.fileName)
    let parts: MethodParts
    do throws(AdapterError) {
      parts = try MethodParts(file, config, method)
    } catch {
      note("tensor", error)
      return
    }
    checkRankSetting(method, config)
    let budget = ProbeBudget(file)
    for part in parts.modules {
      if part.tensors.keys.contains(where: { method.formerRoles.contains($0.text) }) {
        note("format", part.path, "stored in the form of PEFT before 0.16, which is read no more; train it again")
        continue
      }
      for role in method.neededRoles where part.tensors[role] == nil {
        note(
          "tensor", .tensorMissing(path: file.path, module: part.path, tensor: role))
      }
      do throws(AdapterError) {
        _ = try RuleProbe(
          part, shared: parts.shared, config: config, configPath: configPath, file: file,
          budget: budget, readsValues: false)
      } catch {
        switch error {
        // What is not merged may still be sound.
        case .unsupported: continue
        case .adapterDType: note("dtype", error)
        case .methodShape: note("shape", error)
        default: note("tensor", error)
        }
      }
    }
  }

  /// PEFT refuses a rank below one, where the method has one by default.
  private mutating func checkRankSetting(_ method: AdapterMethod, _ config: PeftConfig) {
    for member in method.defaultSettings where ["r", "init_r", "target_r"].contains(member.key) {
      guard (member.value.integerValue ?? 0) > 0, let rank = config.settings[member.key]?.integerValue, rank <= 0 else {
        continue
      }
      note(
        "configuration",
        .configValue(
          path: FileSystem.join(path, PeftConfig.fileName), key: member.key, expected: "1 or more", found: "\(rank)"))
    }
  }
}
