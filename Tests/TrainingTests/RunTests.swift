import LanguageModels
import PEFT
import TensorFiles
import TestSupport
import Testing

@testable import Training

/// A run of transformers' Trainer with PEFT that a fixture recorded.
struct RecordedRun: CustomTestStringConvertible {
  let name: String
  var testDescription: String { name }

  static let all = [
    "llama-lora", "llama-lora-dropout", "llama-lora-upper", "gpt2-lora", "opt-lora", "qwen3-lora", "gemma-lora",
    // DoRA.
    "llama-dora", "llama-dora-dropout", "gpt2-dora", "gpt2-dora-dropout", "opt-dora",
    // Whole modules and biases.
    "llama-head-saved", "qwen3-head-saved", "qwen3-linear-saved", "opt-norms-saved", "gemma-norms-saved",
    "gpt2-linear-saved", "llama-embedding-saved", "opt-embedding-saved", "opt-bias-all", "gpt2-bias-all",
    "gpt2-bias-lora", "llama-norms", "opt-norms", "qwen3-norms", "gemma-norms", "gpt2-norms",
    // Tokens, embeddings and heads.
    "llama-tokens", "qwen3-tokens", "gemma-tokens-alone", "opt-tokens", "llama-embedding", "gemma-embedding",
    "opt-embedding", "qwen3-head", "qwen3-head-dry",
    // Other methods.
    "llama-ia3", "gpt2-ia3", "opt-ia3", "llama-prompt", "gpt2-prompt", "llama-prefix", "gpt2-prefix", "llama-adalora",
    "llama-adalora-dropout", "gpt2-adalora", "llama-loha", "llama-lokr", "llama-lokr-both", "llama-vera",
    "llama-vera-dropout", "llama-oft", "opt-oft",
    "llama-oft-exact", "opt-oft-shared", "llama-boft", "opt-boft", "opt-prompt", "qwen3-prefix", "opt-adalora",
    "gpt2-vera", "gpt2-all", "gemma-embedding-dora", "opt-embedding-dora", "qwen3-head-dora", "llama-loha-patterns",
    "qwen3-tokens-apart", "llama-tokens-dora",
    "llama-p-tuning", "opt-p-tuning", "llama-prefix-projection", "gpt2-prefix-projection",
    "llama-mica", "gpt2-mica", "llama-p-tuning-lstm", "opt-p-tuning-lstm",
    // What is left out at random, and rotations within bounds.
    "llama-loha-dropout", "llama-loha-grouped", "llama-lokr-dropout", "llama-lokr-dropout-scaled", "llama-boft-dropout",
    "llama-oft-dropout", "llama-coft", "llama-coft-shared",
    // Models that drop themselves.
    "gpt2-drops-lora", "gpt2-drops-accumulated", "gpt2-drops-embedding", "gpt2-drops-upper", "gpt2-drops-prompt",
    "gpt2-drops-prefix", "opt-drops-lora", "opt-drops-left", "opt-drops-prompt-left", "opt-drops-prefix-left",
    "opt-drops-all-lora", "opt-drops-all-accumulated", "opt-drops-all-prefix", "llama-drops-lora",
    "llama-drops-prefix", "mistral-drops-lora",
    // The Trainer's own settings.
    "neftune", "neftune-opt", "grouped", "loraplus", "left",
  ].map { RecordedRun(name: $0) }

  var directory: String { Fixtures.path("training/\(name)") }

  func path(_ part: String) -> String { "\(directory)/\(part)" }

  func json() throws -> JSONValue { try JSONValue(contentsOf: "\(directory)/run.json") }

  func tensors(_ path: String) throws -> [String: [Float]] {
    let file = try SafetensorsFile(path: "\(directory)/\(path)")
    var found: [String: [Float]] = [:]
    for entry in file.entries { found[entry.name] = try floats(entry, file) }
    return found
  }

  func trainer(
    ranks: any Ranks = OneRank(), _ change: (inout TrainingArguments) -> Void = { _ in }
  ) throws -> Trainer {
    let json = try json()
    let base = try CausalLanguageModel(directory: Fixtures.path("training/bases/\(json["base"]?.stringValue ?? "")"))
    var arguments = TrainingArguments()
    for member in json["arguments"]?.members ?? [] { try arguments.set(member.key, member.value) }
    change(&arguments)
    let model = try TrainableModel(
      base, adapter: StoredAdapter(directory: "\(directory)/before"),
      seed: UInt64(json["adapter_seed"]?.integerValue ?? 42))
    let records = [[TrainingRecord]](repeating: try Self.records(), count: json["repeats"]?.integerValue ?? 1)
    return Trainer(
      model, records: records.flatMap { $0 }, arguments: arguments, padsLeft: json["padding_side"] == .string("left"),
      ranks: ranks)
  }

  static func records() throws -> [TrainingRecord] {
    try FileSystem.text(Fixtures.path("training/records.jsonl")).split(separator: "\n").map { line in
      let json = JSONValue(parsing: String(line))
      return TrainingRecord(
        tokens: json?["input_ids"]?.elements?.compactMap(\.integerValue) ?? [],
        labels: json?["labels"]?.elements?.compactMap(\.integerValue) ?? [])
    }
  }
}

private func floats(_ entry: TensorEntry, _ file: SafetensorsFile) throws -> [Float] {
  let bytes = try file.file.bytes(entry.byteRange)
  return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}

/// The greatest difference by the greatest value.
func relativeError(_ found: [Float], _ expected: [Float]) -> Float {
  guard found.count == expected.count else { return .infinity }
  let greatest = max(expected.map(abs).max() ?? 0, 1e-6)
  return zip(found, expected).reduce(0) { max($0, abs($1.0 - $1.1)) } / greatest
}

/// A bias of keys changes no share of attention: its gradient is rounding alone, which Adam makes steps of. It is left out.
private func withoutKeyBias(_ name: String, _ values: [Float]) -> [Float] {
  if name.contains(".k_proj") && name.hasSuffix(".bias") { return [] }
  guard name.contains(".c_attn") && name.hasSuffix(".bias") else { return values }
  let third = values.count / 3
  return Array(values.prefix(third) + values.suffix(third))
}

func number(_ value: JSONValue?) -> Double {
  switch value {
  case .number(let number)?: number
  case .integer(let number)?: Double(number)
  default: .nan
  }
}

@Suite struct RunTests {
  @Test(arguments: RecordedRun.all)
  func aRunEqualsThatOfTransformersStepByStep(run: RecordedRun) throws {
    let trainer = try run.trainer()
    let log = try #require(run.json()["log"]?.elements)
    #expect(trainer.steps == log.count)
    let first = try run.tensors("gradients.safetensors")
    var firstErrors: [Float] = []
    try trainer.run { step in
      let expected = log[step.step - 1]
      #expect(abs(step.loss - number(expected["loss"])) < 1e-5, "loss of step \(step.step)")
      #expect(abs(step.gradientNorm / number(expected["grad_norm"]) - 1) < 1e-4, "norm of step \(step.step)")
      #expect(abs(step.learningRate - number(expected["learning_rate"])) < 1e-15, "rate of step \(step.step)")
      #expect(abs(step.epoch - number(expected["epoch"])) < 1e-9, "epoch of step \(step.step)")
      if step.step == 1 {
        firstErrors = first.map { name, values in
          relativeError(withoutKeyBias(name, trainer.model.parameters.gradient(of: name)), withoutKeyBias(name, values))
        }
      }
      return true
    }
    #expect(firstErrors.count == trainer.model.parameters.entries.count)
    #expect(firstErrors.allSatisfy { $0 < 1e-4 }, "\(firstErrors.max() ?? 0)")
    let config = try PeftConfig.load(directory: run.path("before"))
    let trained = try PeftConfig.load(directory: run.path("after"))
    #expect((trainer.model.parts.budget?.saved(config) ?? config).fileText == trained.fileText)
    let saved = trainer.model.savedTensors
    let after = try run.tensors("after/adapter_model.safetensors")
    #expect(Set(saved.keys) == Set(exactly: after.keys))
    for (name, values) in after {
      let found = saved[name].map { tensor in tensor.bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) } }
      #expect(relativeError(withoutKeyBias(name, found ?? []), withoutKeyBias(name, values)) < 1e-4, "\(name)")
    }
  }

  @Test(arguments: RecordedRun.all)
  func checkpointingActivationsChangesNoBit(run: RecordedRun) throws {
    let (plain, thrifty) = (try run.trainer(), try run.trainer { $0.checkpointsActivations = true })
    var losses: [Double] = []
    try plain.run {
      losses.append($0.loss)
      return $0.step < 4
    }
    try thrifty.run {
      #expect($0.loss == losses[$0.step - 1])
      return $0.step < 4
    }
    for entry in plain.model.parameters.entries {
      #expect(plain.model.parameters.values(of: entry.name) == thrifty.model.parameters.values(of: entry.name))
    }
  }
}
