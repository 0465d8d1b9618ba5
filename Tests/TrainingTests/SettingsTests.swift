import PEFT
import TensorFiles
import TestSupport
import Testing

@testable import Training

/// Settings files: YAML, and names of other programs.
@Suite struct SettingsTests {
  @Test func yamlIsReadAsPyYAMLReadsIt() throws {
    let json = try JSONValue(contentsOf: Fixtures.path("training/yaml.json"))
    for example in try #require(json["read"]?.elements) {
      let text = try #require(example["text"]?.stringValue)
      #expect(try YAMLReader.value(of: text) == example["value"], "\(text)")
    }
  }

  @Test func whatIsNotReadIsRefusedWithItsLine() throws {
    let json = try JSONValue(contentsOf: Fixtures.path("training/yaml.json"))
    for example in try #require(json["refused"]?.elements) {
      let text = try #require(example["text"]?.stringValue)
      do throws(YAMLFailure) {
        let value = try YAMLReader.value(of: text)
        #expect(Bool(false), "\(text) was read as \(value.compactText)")
      } catch { #expect(error.line == example["line"]?.integerValue, "\(text): \(error.reason)") }
    }
  }

  /// What YAML 1.1, which PyYAML reads, has as texts: users mean numbers.
  @Test func numbersAreThoseOfYAML12() throws {
    #expect(
      try YAMLReader.value(of: "a: 5e-5\nb: 1e3\nc: yes") == JSONValue(parsing: #"{"a": 5e-5, "b": 1e3, "c": "yes"}"#))
  }

  @Test func yamlNeverTraps() throws {
    var generator = SeededGenerator(seed: 5)
    let pieces = [
      "a", "b: ", ":", "- ", "-", "\n", "  ", " ", "[", "]", "{", "}", ",", "'", "\"", "#", "\\", "1", "\t", "---", "é",
    ]
    for _ in 0..<fuzzRounds {
      let text = (0..<Int.random(in: 0..<24, using: &generator)).map { _ in
        pieces.randomElement(using: &generator) ?? ""
      }
      _ = try? YAMLReader.value(of: text.joined())
    }
    let members = (0..<10_000).map { "k\($0): 1" }
    #expect(try YAMLReader.value(of: members.joined(separator: "\n")).members?.count == 10_000)
    #expect(try YAMLReader.value(of: "{\(members.joined(separator: ", "))}").members?.count == 10_000)
    // Two keys for whoever compares code points.
    #expect(try YAMLReader.value(of: "\u{e9}: 1\ne\u{301}: 2").members?.count == 2)
    _ = try? YAMLReader.value(of: String(repeating: "[", count: 100_000))
    _ = try? YAMLReader.value(of: "a: " + String(repeating: "{a: ", count: 100_000))
    _ = try? YAMLReader.value(of: String(repeating: "- ", count: 10_000))
  }

  private func read(_ text: String) throws -> ArgumentsFile {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("settings")).write(text)
    return try ArgumentsFile(path: scratch("settings"))
  }

  @Test func namesOfOtherProgramsBecomeTransformers() throws {
    let axolotl = try read(
      """
      base_model: x
      micro_batch_size: 3
      num_epochs: 2
      lr_scheduler: cosine
      warmup_ratio: 0.05
      sequence_len: 256
      sample_packing: true
      train_on_inputs: false
      optimizer: adamw_torch_fused
      lora_r: 16
      """)
    #expect(axolotl.arguments.batchSize == 3 && axolotl.arguments.epochs == 2)
    #expect(axolotl.arguments.schedule.kind == .cosine && axolotl.arguments.warmupShare == 0.05)
    #expect(
      axolotl.options == [
        .init("max_length", .integer(256)), .init("packing", .bool(true)), .init("all_turns", .bool(false)),
      ])
    #expect(axolotl.adapter == [.init("r", .integer(16))])
    #expect(axolotl.notes.contains("micro_batch_size → per_device_train_batch_size 3"))
    #expect(axolotl.notes.contains("base_model has no effect: the command line says it"))
    let mlx = try read(
      """
      iters: 100
      batch_size: 4
      learning_rate: 1e-5
      lr_schedule: {name: cosine_decay, warmup: 10, arguments: [2e-5, 100, 1e-7]}
      steps_per_report: 10
      steps_per_eval: 20
      save_every: 50
      grad_checkpoint: true
      mask_prompt: true
      lora_parameters: {rank: 8, scale: 20.0, dropout: 0.1, keys: [q_proj]}
      """)
    #expect(mlx.arguments.maxSteps == 100 && mlx.arguments.batchSize == 4 && mlx.arguments.learningRate == 2e-5)
    #expect(mlx.arguments.schedule.warmupSteps == 10 && mlx.arguments.checkpointsActivations)
    #expect(mlx.arguments.loggingSteps == 10 && mlx.arguments.evaluationSteps == 20 && mlx.arguments.saveSteps == 50)
    #expect(mlx.arguments.evaluationInterval == .steps)
    #expect(
      mlx.adapter.contains(.init("lora_alpha", .number(160)))
        && mlx.notes.contains("scale 20.0 → lora_alpha 160.0 (r 8)"))
    let factory = try read(
      #"{"cutoff_len": 512, "train_on_prompt": true, "lora_rank": 8, "disable_gradient_checkpointing": true, "group_by_length": true}"#
    )
    #expect(factory.options == [.init("max_length", .integer(512)), .init("all_turns", .bool(true))])
    #expect(!factory.arguments.checkpointsActivations && factory.arguments.sampling == .groupByLength)
  }

  @Test func anUnknownNameIsAnErrorWithTheNearestKnownOne() throws {
    func failure(_ text: String) -> TrainingError? {
      do {
        _ = try read(text)
        return nil
      } catch { return error as? TrainingError }
    }
    guard case .unknownArgument("learning_rat", let nearest)? = failure("learning_rat: 1") else {
      return #expect(Bool(false), "it was taken")
    }
    #expect(nearest.first == "learning_rate")
    #expect(failure("optim: adafactor")?.description.contains("adamw_torch_fused") == true)
    #expect(failure("warmup_ratio: 1.5") != nil)
    #expect(failure("logging_steps: 2.5")?.description.contains("a whole number of steps, or a share") == true)
    #expect(failure("- a\n- b") != nil)
    #expect(failure("save_strategy: sometimes")?.description.contains("no, steps, epoch or best") == true)
    #expect(failure("save_strategy: no") == nil)
  }

  @Test func settingsOfTheAdapterMustBeThoseOfItsConfiguration() throws {
    var config = PeftConfig()
    config.rank = 8
    config.targetModules = .names(["q_proj", "v_proj"])
    try read("lora_r: 8\nlora_target_modules: [v_proj, q_proj]\nlora_dropout: 0\nuse_dora: false").check(config)
    try read("lora_target: v_proj,q_proj").check(config)
    #expect(throws: TrainingError.self) { try read("lora_r: 16").check(config) }
    #expect(throws: TrainingError.self) { try read("use_rslora: true").check(config) }
  }

  @Test func everySettingIsReadBackAsItWasSet() throws {
    let values = try #require(
      JSONValue(
        parsing: #"""
          {"learning_rate": 0.5, "num_train_epochs": 2, "max_steps": 7, "warmup_steps": 0.25, "lr_scheduler_type": "cosine", "seed": 3,
          "data_seed": 4, "eval_steps": 0.5, "eval_strategy": "epoch", "save_total_limit": 2, "loraplus_lr_ratio": 16,
          "neftune_noise_alpha": 5, "greater_is_better": true, "metric_for_best_model": "nll_per_token", "logging_first_step": true,
          "train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 3}
          """#))
    var arguments = TrainingArguments()
    for member in values.members ?? [] { try arguments.set(member.key, member.value) }
    var copy = TrainingArguments()
    for member in arguments.json.members ?? [] where member.value != .null { try copy.set(member.key, member.value) }
    #expect(copy == arguments)
    for member in values.members ?? [] {
      let read = arguments.json[member.key]
      #expect(read == member.value || read?.numberValue == member.value.numberValue, "\(member.key)")
    }
  }
}
